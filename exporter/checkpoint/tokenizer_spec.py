"""Text preprocessing of a checkpoint: SigLIP's sentencepiece vocabularies, and SigLIP 2's Gemma vocabulary."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ...runtime.artifact.input_specs import TokenizerSpec
from ...runtime.errors import CheckpointError
from .config import COMPLETE, TextConfig, read_json

FILE: Final = "tokenizer_config.json"
SENTENCEPIECE, FAST = "spiece.model", "tokenizer.json"
_SIGLIP: Final = frozenset({"SiglipTokenizer", "SiglipTokenizerFast"})
# open_clip's repositories name the class that reads the vocabulary; open_clip itself cleans texts like SigLIP.
_OPEN_CLIP: Final = frozenset({"T5Tokenizer", "T5TokenizerFast"})
_GEMMA: Final = frozenset({"GemmaTokenizer", "GemmaTokenizerFast", "Siglip2Tokenizer"})
_OWN_FILES: Final = "Use the tokenizer files that belong to this checkpoint."


@dataclass(frozen=True)
class _TokenizerFile:
    """tokenizer_config.json. Defaults: transformers, `tokenization_siglip.py`."""

    tokenizer_class: str = "SiglipTokenizer"
    do_lower_case: bool = True
    model_max_length: int | float = 64
    pad_token: str | dict[str, Any] = "</s>"  # noqa: S105  not a password
    eos_token: str | dict[str, Any] = "</s>"  # noqa: S105
    unk_token: str | dict[str, Any] = "<unk>"  # noqa: S105
    added_tokens_decoder: dict[str, Any] = field(default_factory=dict)
    sp_model_kwargs: dict[str, Any] | None = None


@dataclass(frozen=True)
class _GemmaFile(_TokenizerFile):
    """tokenizer_config.json of SigLIP 2. Defaults: transformers, `tokenization_siglip2.py`."""

    tokenizer_class: str = "Siglip2Tokenizer"
    pad_token: str | dict[str, Any] = "<pad>"  # noqa: S105
    eos_token: str | dict[str, Any] = "<eos>"  # noqa: S105
    padding_side: str = "right"


def read_tokenizer_spec(folder: Path, text: TextConfig, *, open_clip: bool = False) -> TokenizerSpec:
    """Read tokenizer_config.json and the vocabulary, spiece.model or tokenizer.json.

    Args:
        folder: The checkpoint.
        text: Text tower that the vocabulary must fit.
        open_clip: Accept open_clip's tokenizer_config.json, or none, and then use SigLIP's defaults.

    Raises:
        CheckpointError: A file is missing, damaged, or does not fit the text tower.
    """
    path = folder / FILE
    bare = open_clip and not path.exists()
    if bare and not (folder / SENTENCEPIECE).exists():
        file: _TokenizerFile = _GemmaFile() if (folder / FAST).exists() else _TokenizerFile()
    else:
        file = _TokenizerFile() if bare else read_json(path, _TokenizerFile)
    if file.tokenizer_class in _GEMMA:
        return _gemma(folder, file if bare else read_json(path, _GemmaFile), text)
    if file.tokenizer_class not in (_SIGLIP | _OPEN_CLIP if open_clip else _SIGLIP):
        raise CheckpointError(
            f"{path}: tokenizer_class is {file.tokenizer_class}, expected SiglipTokenizer (SigLIP, with spiece.model), "
            "or GemmaTokenizer or Siglip2Tokenizer (SigLIP 2).",
            _OWN_FILES,
        )
    return _siglip(folder, file, text)


def _siglip(folder: Path, file: _TokenizerFile, text: TextConfig) -> TokenizerSpec:
    model = folder / SENTENCEPIECE
    ids = _piece_ids(model)
    _check_vocabulary(model, ids, text)
    pad, eos, unk = _specials(folder, file, model, ids)
    added = {_content(token) for token in file.added_tokens_decoder.values()} - {pad, eos, unk}
    length = _length(file, text)
    if added or file.sp_model_kwargs or length < 2:
        raise CheckpointError(
            f"{folder / FILE} differs from SigLIP's tokenizer (added tokens: {sorted(added) or 'none'}, "
            f"sp_model_kwargs: {file.sp_model_kwargs or 'none'}, model_max_length: {file.model_max_length}).",
            "Use the tokenizer_config.json that belongs to a SigLIP checkpoint.",
        )
    return TokenizerSpec(
        file=SENTENCEPIECE,
        lower_case=file.do_lower_case,
        special_pieces={piece: ids[piece] for piece in dict.fromkeys((pad, eos, unk))},
        unk_piece=unk,
        eos_id=ids[eos],
        pad_id=ids[pad],
        length=length,
        vocab_size=text.vocab_size,
    )


def _gemma(folder: Path, file: _TokenizerFile, text: TextConfig) -> TokenizerSpec:
    path = folder / FAST
    content = read_json(path, dict[str, Any])
    try:
        ids: dict[str, int] = {str(piece): int(number) for piece, number in content["model"]["vocab"].items()}
        ids |= {str(token["content"]): int(token["id"]) for token in content["added_tokens"]}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{path} has no vocabulary of pieces with ids ({error!r}).", COMPLETE) from error
    _check_vocabulary(path, ids, text)
    pad, eos, unk = _specials(folder, file, path, ids)
    if isinstance(file, _GemmaFile) and file.padding_side != "right":
        raise CheckpointError(f"{folder / FILE}: padding_side is {file.padding_side}, expected right.", _OWN_FILES)
    return TokenizerSpec(
        file=FAST,
        lower_case=True,
        special_pieces={piece: ids[piece] for piece in dict.fromkeys((pad, eos, unk))},
        unk_piece=unk,
        eos_id=ids[eos],
        pad_id=ids[pad],
        length=_length(file, text),
        vocab_size=text.vocab_size,
        canonicalization="gemma",
        library="tokenizers",
    )


def tokenizer_config(spec: TokenizerSpec) -> dict[str, Any]:
    """Entries of tokenizer_config.json that consumers need, even if the checkpoint omits them."""
    pieces = {number: piece for piece, number in spec.special_pieces.items()}
    gemma = {"add_bos_token": False, "add_eos_token": True, "padding_side": "right", "model_input_names": ["input_ids"]}
    return {
        "tokenizer_class": "GemmaTokenizer" if spec.library == "tokenizers" else "SiglipTokenizer",
        "model_max_length": spec.length,
        "pad_token": pieces[spec.pad_id],
        "eos_token": pieces[spec.eos_id],
        "unk_token": spec.unk_piece,
        "do_lower_case": spec.lower_case,
        **(gemma if spec.library == "tokenizers" else {}),
    }


def _check_vocabulary(path: Path, ids: dict[str, int], text: TextConfig) -> None:
    if len(ids) != text.vocab_size:
        raise CheckpointError(
            f"{path} has {len(ids)} pieces, but the text tower in config.json has a vocab_size of {text.vocab_size}.",
            f"Use the {path.name} that belongs to this checkpoint.",
        )


def _specials(folder: Path, file: _TokenizerFile, vocabulary: Path, ids: dict[str, int]) -> tuple[str, str, str]:
    pad, eos, unk = (_content(token) for token in (file.pad_token, file.eos_token, file.unk_token))
    if absent := sorted({pad, eos, unk} - ids.keys()):
        raise CheckpointError(f"{vocabulary} has no piece {absent[0]!r}, which {folder / FILE} uses.", COMPLETE)
    return pad, eos, unk


def _length(file: _TokenizerFile, text: TextConfig) -> int:
    return int(min(file.model_max_length, text.max_position_embeddings))


def _content(token: str | dict[str, Any]) -> str:
    return token if isinstance(token, str) else str(token.get("content"))


def _piece_ids(model: Path) -> dict[str, int]:
    import sentencepiece

    try:
        pieces = sentencepiece.SentencePieceProcessor(model_proto=model.read_bytes())
    except OSError as error:
        raise CheckpointError(
            f"{model} cannot be read ({error.strerror}).",
            f"{COMPLETE} If it has no spiece.model, use the one of the same model in transformers' format.",
        ) from error
    except RuntimeError as error:
        raise CheckpointError(f"{model} is damaged, or not a sentencepiece model.", COMPLETE) from error
    return {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size())}
