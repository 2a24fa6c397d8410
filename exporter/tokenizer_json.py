"""tokenizer.json with the reference's ids, for consumers that read no other file (transformers.js, tokenizers).

Google's tokenizer.json keeps `/ < >` and a space after a literal `</s>`, and neither truncates nor pads. This one is
made from the sentencepiece model and repeats runtime/preprocessing/tokenizer.py step by step. The format is that of the
`tokenizers` library.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from ..runtime.artifact.input_specs import TokenizerSpec
from ..runtime.errors import CheckpointError
from .checkpoint.config import read_json

Json = dict[str, Any]

# string.punctuation as ranges, because JavaScript's /u mode does not allow unnecessary backslashes.
_PUNCTUATION: Final = r"[!-/:-@\[-`{-~]"
# White space by Python's str.isspace, which the reference uses; regex engines disagree about \s.
_WHITE_SPACE: Final = "[\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+"
_UNIGRAM: Final = 1  # sentencepiece_model.proto, TrainerSpec.ModelType


def fast_tokenizer(model: Path, spec: TokenizerSpec) -> bytes:
    """Content of tokenizer.json for a sentencepiece unigram model.

    Args:
        model: The sentencepiece model, spiece.model.
        spec: The tokenizer section of the contract.

    Raises:
        CheckpointError: The model is not a unigram model.
    """
    proto = _read(model)
    if proto.trainer_spec.model_type != _UNIGRAM:
        raise CheckpointError(
            f"{model} has the sentencepiece model type {proto.trainer_spec.model_type}, expected unigram ({_UNIGRAM}).",
            "Use the spiece.model of a SigLIP checkpoint.",
        )
    tokenizer = {
        "version": "1.0",
        **_fixed_length(spec),
        # The model itself finds a literal </s>. An added token would split the text, and no normalizer could know
        # that only the first part starts a word. The model cannot find a literal <unk>, because byte fallback encodes
        # it as bytes; so <unk> is an added token, and unlike in the reference, a word directly after it is marked as
        # the start of a word.
        "added_tokens": [_added_token(spec.unk_piece, spec.special_pieces[spec.unk_piece])],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(spec, proto)},
        "pre_tokenizer": _metaspace(),
        "post_processor": _append_eos(spec),
        "decoder": _metaspace(),
        "model": {
            "type": "Unigram",
            "unk_id": spec.special_pieces[spec.unk_piece],
            "vocab": [[piece.piece, piece.score] for piece in proto.pieces],
            "byte_fallback": bool(proto.trainer_spec.byte_fallback),
        },
    }
    return json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":")).encode()


def gemma_tokenizer(file: Path, spec: TokenizerSpec) -> bytes:
    """Content of tokenizer.json as SigLIP 2 was trained: lower-cased, with <eos>, truncated and padded.

    transformers lower-cases in code (`Siglip2Tokenizer`), so consumers of the original file alone would not.

    Args:
        file: The checkpoint's tokenizer.json.
        spec: The tokenizer section of the contract.

    Raises:
        CheckpointError: The file cannot be read.
    """
    content = read_json(file, Json)
    original, lower = content.get("normalizer"), {"type": "Lowercase"}
    steps = original["normalizers"] if original and original["type"] == "Sequence" else [original] if original else []
    normalizer = {"type": "Sequence", "normalizers": steps if lower in steps else [lower, *steps]}
    content |= {"normalizer": normalizer, "post_processor": _append_eos(spec), **_fixed_length(spec)}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def _read(model: Path) -> Any:
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model.read_bytes())
    return proto


def _replace(pattern: str, content: str) -> Json:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def _normalizers(spec: TokenizerSpec, proto: Any) -> list[Json]:
    """The steps of `Tokenizer.canonical`, followed by those of the sentencepiece model."""
    specials = [re.escape(piece) for piece in spec.special_pieces]
    charsmap = base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()
    return [
        _replace("▁", " "),
        _replace(_outside(spec.special_pieces) + _PUNCTUATION, ""),
        # JavaScript lower-cases a final Σ to ς; the reference does not.
        *([_replace("Σ", "σ"), {"type": "Lowercase"}] if spec.lower_case else []),
        _replace(_WHITE_SPACE, " "),
        {"type": "Strip", "strip_left": True, "strip_right": True},
        *(_replace(f" *{special} *", piece) for special, piece in zip(specials, spec.special_pieces, strict=True)),
        {"type": "NFC"},  # the charsmap composes too, but the tokenizers library splits long clusters before it
        {"type": "Precompiled", "precompiled_charsmap": charsmap},
        _replace(" {2,}", " "),
        {"type": "Strip", "strip_left": True, "strip_right": True},
        *(_replace(f" +{special}", piece) for special, piece in zip(specials, spec.special_pieces, strict=True)),
        {"type": "Prepend", "prepend": "▁"},
        _replace(f"^▁(?=$|{'|'.join(specials)})", ""),
    ]


def _outside(pieces: Iterable[str]) -> str:
    """Regex before a character that matches if the character is not part of a special piece."""
    inside = [(piece[:at], piece[at:]) for piece in pieces for at in range(len(piece)) if not piece[at].isalnum()]
    return "".join(f"(?!(?<={re.escape(before)}){re.escape(after)})" for before, after in inside)


def _metaspace() -> Json:
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True}


def _added_token(piece: str, piece_id: int) -> Json:
    """Entry of a piece that is found literally in texts, together with the white space on both sides."""
    sides = {"lstrip": True, "rstrip": True, "single_word": False, "normalized": False}
    return {"id": piece_id, "content": piece, "special": True, **sides}


def _fixed_length(spec: TokenizerSpec) -> Json:
    """Truncation and padding to the contract's length."""
    return {
        "truncation": {"direction": "Right", "max_length": spec.length, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": {"Fixed": spec.length},
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": spec.pad_id,
            "pad_type_id": 0,
            "pad_token": _piece(spec, spec.pad_id),
        },
    }


def _append_eos(spec: TokenizerSpec) -> Json:
    eos = _piece(spec, spec.eos_id)
    text, end = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": eos, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [text, end],
        "pair": [text, end, {"Sequence": {"id": "B", "type_id": 0}}, end],
        "special_tokens": {eos: {"id": eos, "ids": [spec.eos_id], "tokens": [eos]}},
    }


def _piece(spec: TokenizerSpec, piece_id: int) -> str:
    return next(piece for piece, special_id in spec.special_pieces.items() if special_id == piece_id)
