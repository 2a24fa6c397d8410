"""`tokenizer.json` for the consumers that read nothing else (transformers.js, tokenizers), with the reference's ids.

The file that Google ships keeps `/ < >` and a space behind a literal `</s>`, and neither cuts nor pads; this one is
made from the sentencepiece model and follows `runtime.tokenizer` step by step. Format: the `tokenizers` library's.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from ..runtime.artifact.contract import TokenizerSpec
from ..runtime.errors import CheckpointError
from .checkpoint.config import read_json

Json = dict[str, Any]

# string.punctuation as ranges: in JavaScript's /u mode a needless backslash is an error.
_PUNCTUATION: Final = r"[!-/:-@\[-`{-~]"
# What Python's str.isspace (and so the reference) takes for white space; regex engines differ on \s.
_WHITE_SPACE: Final = "[\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+"
_UNIGRAM: Final = 1  # sentencepiece_model.proto, TrainerSpec.ModelType


def fast_tokenizer(model: Path, spec: TokenizerSpec) -> bytes:
    """The content of `tokenizer.json` for a sentencepiece unigram model.

    Raises:
        CheckpointError: The model is not a unigram model.
    """
    proto = _read(model)
    if proto.trainer_spec.model_type != _UNIGRAM:
        raise CheckpointError(
            f"{model} is not a unigram model, the only kind of sentencepiece model that SigLIP uses.",
            "Check that it belongs to a SigLIP checkpoint.",
        )
    tokenizer = {
        "version": "1.0",
        **_of_one_length(spec),
        # A literal </s> is found by the model itself: as an added token it would cut the text in two, and no
        # normalizer could tell that only the first part begins a word. The unknown piece can't be found so, because
        # with byte fallback the model writes it as bytes; a word right behind a literal <unk> is therefore marked
        # as a beginning here, unlike in the reference.
        "added_tokens": [_added_token(spec.unk_piece, spec.special_pieces[spec.unk_piece])],
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(spec, proto)},
        "pre_tokenizer": _metaspace(),
        "post_processor": _closing(spec),
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
    """The content of a checkpoint's `tokenizer.json` as SigLIP 2 was trained with it: lower case, closed, cut, padded.

    transformers adds the lower-casing in code (`Siglip2Tokenizer`), where consumers of the file alone miss it.
    """
    content = read_json(file, Json)
    own, lower = content.get("normalizer"), {"type": "Lowercase"}
    steps = own["normalizers"] if own and own["type"] == "Sequence" else [own] if own else []
    lowered = steps if lower in steps else [lower, *steps]
    normalizer = {"type": "Sequence", "normalizers": lowered}
    content |= {"normalizer": normalizer, "post_processor": _closing(spec), **_of_one_length(spec)}
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def _read(model: Path) -> Any:
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(model.read_bytes())
    return proto


def _replace(pattern: str, content: str) -> Json:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}


def _normalizers(spec: TokenizerSpec, proto: Any) -> list[Json]:
    """First the canonical text, as `Tokenizer.canonical` has it, then what the sentencepiece model itself does."""
    specials = [re.escape(piece) for piece in spec.special_pieces]
    charsmap = base64.b64encode(proto.normalizer_spec.precompiled_charsmap).decode()
    return [
        _replace("▁", " "),
        _replace(_outside(spec.special_pieces) + _PUNCTUATION, ""),
        # JavaScript lower-cases a final Σ to ς, the reference does not.
        *([_replace("Σ", "σ"), {"type": "Lowercase"}] if spec.lower_case else []),
        _replace(_WHITE_SPACE, " "),
        {"type": "Strip", "strip_left": True, "strip_right": True},
        *(_replace(f" *{special} *", piece) for special, piece in zip(specials, spec.special_pieces, strict=True)),
        {"type": "NFC"},  # the charsmap composes, but the tokenizers library shows it long clusters in pieces
        {"type": "Precompiled", "precompiled_charsmap": charsmap},
        _replace(" {2,}", " "),
        {"type": "Strip", "strip_left": True, "strip_right": True},
        *(_replace(f" +{special}", piece) for special, piece in zip(specials, spec.special_pieces, strict=True)),
        {"type": "Prepend", "prepend": "▁"},
        _replace(f"^▁(?=$|{'|'.join(specials)})", ""),
    ]


def _outside(pieces: Iterable[str]) -> str:
    """A regex that stands before a character and holds where that character is part of no special piece."""
    inside = [(piece[:at], piece[at:]) for piece in pieces for at in range(len(piece)) if not piece[at].isalnum()]
    return "".join(f"(?!(?<={re.escape(before)}){re.escape(after)})" for before, after in inside)


def _metaspace() -> Json:
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True}


def _added_token(piece: str, number: int) -> Json:
    """A piece that swallows the white space on both of its sides, wherever a text holds it literally."""
    sides = {"lstrip": True, "rstrip": True, "single_word": False, "normalized": False}
    return {"id": number, "content": piece, "special": True, **sides}


def _of_one_length(spec: TokenizerSpec) -> Json:
    """What cuts or pads a text to the contract's length."""
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


def _closing(spec: TokenizerSpec) -> Json:
    eos = _piece(spec, spec.eos_id)
    text, end = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": eos, "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [text, end],
        "pair": [text, end, {"Sequence": {"id": "B", "type_id": 0}}, end],
        "special_tokens": {eos: {"id": eos, "ids": [spec.eos_id], "tokens": [eos]}},
    }


def _piece(spec: TokenizerSpec, number: int) -> str:
    return next(piece for piece, known in spec.special_pieces.items() if known == number)
