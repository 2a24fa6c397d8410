"""A checkpoint's JSON files as frozen dataclasses, with the defaults that transformers gives to what they leave out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from ..runtime.contract import ImageSpec, TokenizerSpec
from ..runtime.errors import CheckpointError

Size = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1000)]
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """What both towers have. Defaults: transformers, `configuration_siglip.py`, which gives both the same."""

    hidden_size: Size = 768
    intermediate_size: Size = 3072
    num_hidden_layers: Count = 12
    num_attention_heads: Count = 12
    hidden_act: Literal["gelu_pytorch_tanh", "gelu"] = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6


@dataclass(frozen=True, kw_only=True)
class VisionConfig(TowerConfig):
    """The vision tower. Defaults: transformers, `configuration_siglip.py`, SiglipVisionConfig."""

    model_type: str = "siglip_vision_model"
    num_channels: Literal[3] = 3
    image_size: Size = 224
    patch_size: Size = 16
    vision_use_head: Literal[True] = True

    @property
    def num_patches(self) -> int:
        """Patches in a picture; transformers leaves out what does not fill a patch."""
        return (self.image_size // self.patch_size) ** 2


@dataclass(frozen=True, kw_only=True)
class TextConfig(TowerConfig):
    """The text tower. Defaults: transformers, `configuration_siglip.py`, SiglipTextConfig."""

    model_type: str = "siglip_text_model"
    vocab_size: Size = 32000
    max_position_embeddings: Size = 64
    projection_size: Size | None = None

    @property
    def embedding_size(self) -> int:
        """Width of a text embedding."""
        return self.projection_size or self.hidden_size


@dataclass(frozen=True)
class SiglipConfig:
    """What config.json says of both towers."""

    model_type: str
    vision_config: VisionConfig = field(default_factory=VisionConfig)
    text_config: TextConfig = field(default_factory=TextConfig)


@dataclass(frozen=True)
class _Processor:
    """preprocessor_config.json. Defaults: transformers, `image_processing_pil_siglip.py`."""

    size: dict[str, int] = field(default_factory=lambda: {"height": 224, "width": 224})
    resample: Literal[0, 1, 2, 3, 4, 5] = 3
    rescale_factor: float = 1 / 255
    image_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    image_processor_type: str = "SiglipImageProcessor"
    do_resize: Literal[True] = True
    do_rescale: Literal[True] = True
    do_normalize: Literal[True] = True


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


# PIL.Image.Resampling
_FILTERS: Final = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
_COMPLETE: Final = "Download the checkpoint again, with all of its files."


def read_config(folder: Path) -> SiglipConfig:
    """Read config.json.

    Raises:
        CheckpointError: It is missing, damaged, impossible, or of another model than SigLIP.
    """
    path = folder / "config.json"
    kind = _read(path, dict[str, Any]).get("model_type")
    if kind != "siglip":
        raise CheckpointError(
            f"{path} describes a model of type {kind!r}, not 'siglip'.",
            "This version exports SigLIP dual towers (model_type 'siglip') in the layout of Hugging Face.",
        )
    config = _read(path, SiglipConfig)
    for name, tower in (("vision_config", config.vision_config), ("text_config", config.text_config)):
        if tower.hidden_size % tower.num_attention_heads:
            raise CheckpointError(
                f"{path}: {name} splits a hidden_size of {tower.hidden_size} among {tower.num_attention_heads} "
                "attention heads, which leaves a rest.",
                "Correct the file.",
            )
    if config.vision_config.hidden_size != config.text_config.embedding_size:
        raise CheckpointError(
            f"{path}: picture embeddings are {config.vision_config.hidden_size} wide and text embeddings "
            f"{config.text_config.embedding_size}, so they cannot be compared.",
            "Correct hidden_size or projection_size.",
        )
    return config


def read_image_spec(folder: Path, vision: VisionConfig) -> ImageSpec:
    """Read preprocessor_config.json.

    Raises:
        CheckpointError: It is missing, damaged, or does not fit the vision tower.
    """
    path = folder / "preprocessor_config.json"
    processor = _read(path, _Processor)
    if not processor.image_processor_type.startswith("SiglipImageProcessor"):
        raise CheckpointError(
            f"{path} asks for a {processor.image_processor_type}, not a SiglipImageProcessor.",
            "Use the file that belongs to the SigLIP checkpoint.",
        )
    height, width = processor.size.get("height"), processor.size.get("width")
    if height != vision.image_size or width != vision.image_size:
        raise CheckpointError(
            f"{path} makes pictures of {height} x {width} pixels, but config.json says that the vision tower takes "
            f"{vision.image_size} x {vision.image_size}.",
            "Use the preprocessor_config.json that belongs to this checkpoint.",
        )
    return ImageSpec(
        height=vision.image_size,
        width=vision.image_size,
        filter=_FILTERS[processor.resample],
        rescale=processor.rescale_factor,
        mean=processor.image_mean,
        std=processor.image_std,
    )


def read_tokenizer_spec(folder: Path, text: TextConfig) -> TokenizerSpec:
    """Read tokenizer_config.json and spiece.model.

    Raises:
        CheckpointError: One of them is missing, damaged, or does not fit the text tower.
    """
    path, model = folder / "tokenizer_config.json", folder / "spiece.model"
    file = _read(path, _TokenizerFile)
    if file.tokenizer_class not in ("SiglipTokenizer", "SiglipTokenizerFast"):
        raise CheckpointError(
            f"{path} asks for a {file.tokenizer_class}, not a SiglipTokenizer.",
            "This version exports checkpoints with SigLIP's sentencepiece vocabulary.",
        )
    ids = _piece_ids(model)
    if len(ids) != text.vocab_size:
        raise CheckpointError(
            f"{model} holds {len(ids)} pieces, but config.json says that the text tower knows {text.vocab_size}.",
            "Use the spiece.model that belongs to this checkpoint.",
        )
    pad, eos, unk = (_content(token) for token in (file.pad_token, file.eos_token, file.unk_token))
    if absent := sorted({pad, eos, unk} - ids.keys()):
        raise CheckpointError(f"{model} has no piece {absent[0]!r}, which {path} uses.", _COMPLETE)
    added = {_content(token) for token in file.added_tokens_decoder.values()} - {pad, eos, unk}
    length = int(min(file.model_max_length, text.max_position_embeddings))
    if added or file.sp_model_kwargs or length < 2:
        raise CheckpointError(
            f"{path} asks for a tokenizer that is not SigLIP's own (added tokens: {sorted(added) or 'none'}, "
            f"sp_model_kwargs: {file.sp_model_kwargs or 'none'}, model_max_length: {file.model_max_length}).",
            "Use the tokenizer_config.json that belongs to a SigLIP checkpoint.",
        )
    return TokenizerSpec(
        file="spiece.model",
        lower_case=file.do_lower_case,
        special_pieces={piece: ids[piece] for piece in dict.fromkeys((pad, eos, unk))},
        unk_piece=unk,
        eos_id=ids[eos],
        pad_id=ids[pad],
        length=length,
        vocab_size=text.vocab_size,
    )


def _content(token: str | dict[str, Any]) -> str:
    return token if isinstance(token, str) else str(token.get("content"))


def _piece_ids(model: Path) -> dict[str, int]:
    import sentencepiece

    try:
        pieces = sentencepiece.SentencePieceProcessor(model_proto=model.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{model} cannot be read ({error.strerror}).", _COMPLETE) from error
    except RuntimeError as error:
        raise CheckpointError(f"{model} is no sentencepiece model, or damaged.", _COMPLETE) from error
    return {pieces.id_to_piece(i): i for i in range(pieces.get_piece_size())}


def _read(path: Path, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); a checkpoint needs it.", _COMPLETE) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not what it should be: {error}.", _COMPLETE) from error
