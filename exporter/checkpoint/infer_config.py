"""Config of a checkpoint without config.json, inferred from the tensors of open_clip's and big_vision's files."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from ...runtime.errors import CheckpointError
from ..options import Dialect
from .config import Count, SiglipConfig, Size, TextConfig, VisionConfig, check_config, read_json
from .image_spec import PreprocessConfig

if TYPE_CHECKING:  # at run time it would import PyTorch
    from .tensor_files import TensorStore

OPEN_CLIP_FILE: Final = "open_clip_config.json"
_ADD_CONFIG: Final = "Put the config.json of the same model in transformers' format into the folder."
Gelu = Literal["gelu_pytorch_tanh", "gelu"]
# Settings that the weights do not show, by prefix of the model name in timm's vision_transformer.py: channels of an
# attention head, and the GELU. SigLIP was trained with the tanh approximation; open_clip computes timm's GELU.
_TIMM: Final[dict[str, tuple[int, Gelu]]] = {
    "vit_base_": (64, "gelu"),
    "vit_large_": (64, "gelu"),
    "vit_so400m_patch14_": (72, "gelu"),
    "vit_so400m_patch16_": (72, "gelu_pytorch_tanh"),
    "vit_giantopt_": (96, "gelu_pytorch_tanh"),
}


@dataclass(frozen=True)
class _OpenClipVision:
    image_size: Size
    timm_model_name: str
    timm_pool: Literal["map"] = "map"
    timm_proj: Literal["none", ""] | None = "none"


@dataclass(frozen=True)
class _OpenClipText:
    context_length: Size = 77
    heads: Count = 8
    no_causal_mask: Literal[True] = True
    pool_type: Literal["last"] = "last"
    norm_kwargs: dict[str, float] = field(default_factory=dict)
    act_kwargs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class _OpenClipModel:
    vision_cfg: _OpenClipVision
    text_cfg: _OpenClipText


@dataclass(frozen=True)
class _OpenClipFile:
    model_cfg: _OpenClipModel
    preprocess_cfg: PreprocessConfig = field(default_factory=PreprocessConfig)


def infer_config(folder: Path, store: TensorStore, dialect: Dialect) -> SiglipConfig:
    """Infer the config from the tensors and, for open_clip, from open_clip_config.json.

    Raises:
        CheckpointError: They do not determine the config, or describe another model than SigLIP.
    """
    try:
        config = _big_vision(store) if dialect is Dialect.BIG_VISION else _open_clip(folder, store)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"The model's sizes cannot be inferred from the weights in {folder} ({type(error).__name__}: {error}).",
            _ADD_CONFIG,
        ) from error
    check_config(config, folder)
    return config


def read_preprocess(folder: Path) -> PreprocessConfig:
    """Read `preprocess_cfg` of open_clip_config.json; its defaults if there is no such file."""
    path = folder / OPEN_CLIP_FILE
    return read_json(path, _OpenClipFile).preprocess_cfg if path.exists() else PreprocessConfig()


def _shape(store: TensorStore, name: str) -> tuple[int, ...]:
    return store.tensors[name].shape


def _layers(store: TensorStore, pattern: str) -> int:
    return 1 + max((int(m[1]) for name in store.tensors if (m := re.match(pattern, name))), default=-1)


def _open_clip(folder: Path, store: TensorStore) -> SiglipConfig:
    file = read_json(folder / OPEN_CLIP_FILE, _OpenClipFile).model_cfg
    name, text = file.vision_cfg.timm_model_name, file.text_cfg
    family = next((family for family in _TIMM if name.startswith(family)), None)
    if family is None or "_gap_" in name:
        raise CheckpointError(
            f"{folder / OPEN_CLIP_FILE}: the attention heads of timm's model {name!r} are not known, only those of "
            f"models that pool by attention and begin with {', '.join(_TIMM)}.",
            _ADD_CONFIG,
        )
    channels, gelu = _TIMM[family]
    width, _, patch, _ = _shape(store, "visual.trunk.patch_embed.proj.weight")
    vocab, text_width = _shape(store, "text.token_embedding.weight")
    return SiglipConfig(
        "siglip",
        VisionConfig(
            hidden_size=width,
            intermediate_size=_shape(store, "visual.trunk.blocks.0.mlp.fc1.weight")[0],
            num_hidden_layers=_layers(store, r"visual\.trunk\.blocks\.(\d+)\."),
            num_attention_heads=max(1, width // channels),
            hidden_act=gelu,
            image_size=file.vision_cfg.image_size,
            patch_size=patch,
        ),
        TextConfig(
            hidden_size=text_width,
            intermediate_size=_shape(store, "text.transformer.resblocks.0.mlp.c_fc.weight")[0],
            num_hidden_layers=_layers(store, r"text\.transformer\.resblocks\.(\d+)\."),
            num_attention_heads=text.heads,
            vocab_size=vocab,
            max_position_embeddings=text.context_length,
            projection_size=_shape(store, "text.text_projection.weight")[0],
            layer_norm_eps=text.norm_kwargs.get("eps", 1e-5),
            hidden_act="gelu_pytorch_tanh" if text.act_kwargs.get("approximate") == "tanh" else "gelu",
        ),
    )


def _big_vision(store: TensorStore) -> SiglipConfig:
    vision, text = "params/img/Transformer/encoderblock", "params/txt/Encoder_0/encoderblock"
    kernel = _shape(store, "params/img/embedding/kernel")
    positions = math.prod(_shape(store, "params/img/pos_embedding")[:-1])
    naflex, grid = len(kernel) == 2, math.isqrt(positions)
    patch = math.isqrt(kernel[0] // 3) if naflex else kernel[0]
    vocab, _ = _shape(store, "params/txt/Embed_0/embedding")
    image = VisionConfig(**_flax_tower(store, vision), image_size=grid * patch, patch_size=patch)
    return SiglipConfig(
        "siglip2" if naflex else "siglip",
        replace(image, num_patches=positions, naflex=True) if naflex else image,
        TextConfig(
            **_flax_tower(store, text),
            vocab_size=vocab,
            max_position_embeddings=_shape(store, "params/txt/pos_embedding")[-2],
            projection_size=_shape(store, "params/txt/head/kernel")[-1],
        ),
    )


def _flax_tower(store: TensorStore, block: str) -> dict[str, Any]:
    """Sizes of a tower; each layer has its own tensors, or all layers share stacked ones."""
    query = "MultiHeadDotProductAttention_0/query/kernel"
    stacked = f"{block}/{query}" in store.tensors
    prefix = f"{block}/" if stacked else f"{block}_0/"
    width, heads, _ = _shape(store, f"{prefix}{query}")[-3:]
    layers = _shape(store, f"{prefix}{query}")[0] if stacked else _layers(store, rf"{re.escape(block)}_(\d+)/")
    return {
        "hidden_size": width,
        "intermediate_size": _shape(store, f"{prefix}MlpBlock_0/Dense_0/kernel")[-1],
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }
