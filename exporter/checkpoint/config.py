"""config.json as frozen dataclasses, with transformers' defaults for omitted entries."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from ...runtime.errors import CheckpointError

Size = Annotated[int, msgspec.Meta(ge=1, le=10_000_000)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1000)]
_T = TypeVar("_T")

COMPLETE: Final = "Download the checkpoint again, with all of its files."
NAFLEX: Final = "siglip2"  # transformers' model_type; SigLIP 2 with a fixed resolution has model_type "siglip"
_NEAREST: Final = {
    "clip": "the SigLIP model of the same size, such as google/siglip-base-patch16-224 for clip-vit-base-patch16",
    "chinese_clip": "google/siglip-base-patch16-256-multilingual or a SigLIP 2 model, which read Chinese",
    "altclip": "google/siglip-base-patch16-256-multilingual",
    "siglip_vision_model": "the full dual-tower model that contains this vision tower",
    "siglip2_vision_model": "the full dual-tower model that contains this vision tower",
}


@dataclass(frozen=True, kw_only=True)
class TowerConfig:
    """Settings of both towers. Defaults: transformers, `configuration_siglip.py`, equal for both."""

    hidden_size: Size = 768
    intermediate_size: Size = 3072
    num_hidden_layers: Count = 12
    num_attention_heads: Count = 12
    hidden_act: Literal["gelu_pytorch_tanh", "gelu"] = "gelu_pytorch_tanh"
    layer_norm_eps: float = 1e-6


@dataclass(frozen=True, kw_only=True)
class VisionConfig(TowerConfig):
    """The vision tower. Defaults: transformers, `configuration_siglip.py` and `configuration_siglip2.py`.

    Attributes:
        image_size: Height and width in pixels; unused if `naflex` is set.
        num_patches: Number of position embeddings of a NaFlex tower, a square grid that is resized for each image.
        naflex: Whether the input is patches of an image of any aspect ratio, with a mask and the shape of their grid.
    """

    model_type: str = "siglip_vision_model"
    num_channels: Literal[3] = 3
    image_size: Size = 224
    patch_size: Size = 16
    num_patches: Size = 256
    naflex: bool = False
    vision_use_head: Literal[True] = True

    @property
    def positions(self) -> int:
        """Number of position embeddings; transformers ignores pixels that do not fill a patch."""
        return self.num_patches if self.naflex else (self.image_size // self.patch_size) ** 2


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
    """Both towers' settings in config.json."""

    model_type: str
    vision_config: VisionConfig = field(default_factory=VisionConfig)
    text_config: TextConfig = field(default_factory=TextConfig)


def read_config(folder: Path) -> SiglipConfig:
    """Read config.json.

    Raises:
        CheckpointError: The file is missing, damaged, inconsistent, or describes another model than SigLIP.
    """
    path = folder / "config.json"
    model_type = read_json(path, dict[str, Any]).get("model_type")
    if model_type not in ("siglip", NAFLEX):
        nearest = _NEAREST.get(str(model_type), "a checkpoint of model_type 'siglip' or 'siglip2'")
        raise CheckpointError(
            f"{path} describes a model of type {model_type!r}; siglip-onnx exports SigLIP and SigLIP 2 dual towers "
            "(model_type 'siglip' or 'siglip2').",
            f"Nearest supported model: {nearest}.",
        )
    config = read_json(path, SiglipConfig)
    config = replace(config, vision_config=replace(config.vision_config, naflex=model_type == NAFLEX))
    check_config(config, path)
    return config


def config_json(config: SiglipConfig) -> dict[str, Any]:
    """All entries of config.json that transformers, transformers.js and Optimum need."""
    vision, text = config.vision_config, config.text_config
    naflex = {"num_patches": vision.num_patches} if vision.naflex else {"image_size": vision.image_size}
    family = "siglip2" if vision.naflex else "siglip"
    image = {"patch_size": vision.patch_size, "num_channels": vision.num_channels, **naflex}
    return {
        "model_type": config.model_type,
        "architectures": ["Siglip2Model" if vision.naflex else "SiglipModel"],
        "vision_config": {"model_type": f"{family}_vision_model", **_tower_json(vision), **image},
        "text_config": {
            "model_type": f"{family}_text_model",
            **_tower_json(text),
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.max_position_embeddings,
            "projection_size": text.embedding_size,
        },
    }


def _tower_json(config: TowerConfig) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in fields(TowerConfig)}


def check_config(config: SiglipConfig, path: Path) -> None:
    """Check that a config describes a possible model.

    Raises:
        CheckpointError: The heads do not divide the width, the embeddings of both towers differ in width, or the
            position embeddings do not form a square.
    """
    vision, text = config.vision_config, config.text_config
    for name, tower in (("vision_config", vision), ("text_config", text)):
        if tower.hidden_size % tower.num_attention_heads:
            raise CheckpointError(
                f"{path}: the hidden_size of {name}, {tower.hidden_size}, is not divisible by its "
                f"{tower.num_attention_heads} attention heads.",
                "Correct the file.",
            )
    if vision.hidden_size != text.embedding_size:
        raise CheckpointError(
            f"{path}: image embeddings have {vision.hidden_size} elements and text embeddings "
            f"{text.embedding_size}, expected the same number.",
            "Correct hidden_size or projection_size.",
        )
    if round(vision.positions**0.5) ** 2 != vision.positions or not vision.positions:
        raise CheckpointError(
            f"{path}: {vision.positions} patches do not form a square.",
            "Correct image_size, patch_size or num_patches.",
        )


def read_json(path: Path, as_type: type[_T]) -> _T:
    """Read a checkpoint's JSON file as a type that msgspec can decode.

    Raises:
        CheckpointError: The file is missing, damaged, or does not fit the type.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}), but is required.", COMPLETE) from error
    return decode_json(path, data, as_type)


def decode_json(path: Path, data: bytes, as_type: type[_T]) -> _T:
    """Decode JSON, which is all or a part of a checkpoint's file, as a type that msgspec can decode.

    Raises:
        CheckpointError: The JSON is damaged, or does not fit the type.
    """
    try:
        return msgspec.json.decode(data, type=as_type)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged or has an unsupported value: {error}.", COMPLETE) from error
