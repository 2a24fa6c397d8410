"""Conversion of a transformers checkpoint to the other dialects, as their own libraries would store it.

This is the inverse of exporter/checkpoint/dialects.py, and shares no code with it.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]


def to_paddle(checkpoint: Path, target: Path) -> Path:
    """PaddleNLP: the same names, every nn.Linear transposed; metadata format "np"."""
    _copy(checkpoint, target)
    norms = re.compile(r"norm|(position|token)_embedding")
    transposed = {
        name: tensor.T.contiguous() if tensor.ndim == 2 and not norms.search(name) else tensor
        for name, tensor in load_file(checkpoint / "model.safetensors").items()
    }
    save_file(transposed, target / "model.safetensors", metadata={"format": "np"})
    return target


def to_open_clip(checkpoint: Path, target: Path) -> Path:
    """open_clip with a timm trunk."""
    _copy(checkpoint, target)
    out: Tensors = {}
    tensors = load_file(checkpoint / "model.safetensors")
    out["logit_scale"], out["logit_bias"] = tensors["logit_scale"][0].clone(), tensors["logit_bias"][0].clone()
    for name, tensor in tensors.items():
        if name.startswith("vision_model."):
            out |= _trunk(name, tensor, tensors)
        elif name.startswith("text_model."):
            out |= _text(name, tensor, tensors)
    save_file(
        {k: v.contiguous() for k, v in out.items()}, target / "open_clip_model.safetensors", metadata={"format": "pt"}
    )
    return target


def _trunk(name: str, tensor: Tensor, all_: Tensors) -> Tensors:
    end = name.rsplit(".", 1)[1]
    if layer := re.match(r"vision_model\.encoder\.layers\.(\d+)\.(.*)\.(weight|bias)$", name):
        block, inner = f"visual.trunk.blocks.{layer[1]}.", layer[2]
        if inner == "self_attn.q_proj":
            stem = name.removesuffix(f"q_proj.{end}")
            return {f"{block}attn.qkv.{end}": torch.cat([all_[f"{stem}{p}_proj.{end}"] for p in "qkv"])}
        renamed = {"layer_norm1": "norm1", "layer_norm2": "norm2", "self_attn.out_proj": "attn.proj"}.get(inner, inner)
        return {} if inner.endswith(("k_proj", "v_proj")) else {f"{block}{renamed}.{end}": tensor}
    if "in_proj" in name:
        q, kv = tensor.tensor_split([tensor.shape[0] // 3])
        part = end.removeprefix("in_proj_")
        return {f"visual.trunk.attn_pool.q.{part}": q, f"visual.trunk.attn_pool.kv.{part}": kv}
    if "position" in name:
        return {"visual.trunk.pos_embed": tensor[None]}
    for ours, theirs in {
        "vision_model.embeddings.patch_embedding": "patch_embed.proj",
        "vision_model.post_layernorm": "norm",
        "vision_model.head.probe": "attn_pool.latent",
        "vision_model.head.attention.out_proj": "attn_pool.proj",
        "vision_model.head.layernorm": "attn_pool.norm",
        "vision_model.head.mlp": "attn_pool.mlp",
    }.items():
        if name.startswith(ours):
            return {f"visual.trunk.{theirs}{name.removeprefix(ours)}": tensor}
    raise KeyError(name)


def _text(name: str, tensor: Tensor, all_: Tensors) -> Tensors:
    end = name.rsplit(".", 1)[1]
    if layer := re.match(r"text_model\.encoder\.layers\.(\d+)\.(.*)\.(weight|bias)$", name):
        block, inner = f"text.transformer.resblocks.{layer[1]}.", layer[2]
        if inner == "self_attn.q_proj":
            stem = name.removesuffix(f"q_proj.{end}")
            return {f"{block}attn.in_proj_{end}": torch.cat([all_[f"{stem}{p}_proj.{end}"] for p in "qkv"])}
        renamed = {
            "layer_norm1": "ln_1",
            "layer_norm2": "ln_2",
            "self_attn.out_proj": "attn.out_proj",
            "mlp.fc1": "mlp.c_fc",
            "mlp.fc2": "mlp.c_proj",
        }.get(inner)
        return {f"{block}{renamed}.{end}": tensor} if renamed else {}
    fixed = {
        "text_model.embeddings.token_embedding.weight": "text.token_embedding.weight",
        "text_model.embeddings.position_embedding.weight": "text.positional_embedding",
        "text_model.final_layer_norm.weight": "text.ln_final.weight",
        "text_model.final_layer_norm.bias": "text.ln_final.bias",
        "text_model.head.weight": "text.text_projection.weight",
        "text_model.head.bias": "text.text_projection.bias",
    }
    return {fixed[name]: tensor}


def to_big_vision(checkpoint: Path, target: Path, *, stacked: bool = False, compressed: bool = False) -> Path:
    """big_vision: Flax's nested parameters, flattened into an .npz; `stacked` like nn.scan."""
    _copy(checkpoint, target)
    heads = {
        tower: json.loads((checkpoint / "config.json").read_text())[f"{tower}_config"].get("num_attention_heads", 12)
        for tower in ("vision", "text")
    }
    arrays: dict[str, np.ndarray] = {}
    for name, tensor in load_file(checkpoint / "model.safetensors").items():
        arrays |= _flax(name, tensor.float().numpy(), heads)
    if stacked:
        arrays = _stack(arrays)
    (np.savez_compressed if compressed else np.savez)(target / "weights.npz", **arrays)
    return target


def _flax(name: str, value: np.ndarray, heads: dict[str, int]) -> dict[str, np.ndarray]:
    if name in ("logit_scale", "logit_bias"):
        return {"params/t" if name == "logit_scale" else "params/b": value}
    tower, rest = name.split("_model.", 1)
    root = {"vision": "params/img", "text": "params/txt"}[tower]
    if rest == "embeddings.position_embedding.weight":
        return {f"{root}/pos_embedding": value[None]}
    if rest == "embeddings.token_embedding.weight":
        return {f"{root}/Embed_0/embedding": value}
    if rest == "head.probe":
        return {f"{root}/MAPHead_0/probe": value}
    module, end = rest.rsplit(".", 1)
    block = {"vision": r"Transformer/encoderblock_\1/", "text": r"Encoder_0/encoderblock_\1/"}[tower]
    module = re.sub(r"^encoder\.layers\.(\d+)\.", block, module)
    if end.startswith("in_proj_"):
        attention = f"{root}/MAPHead_0/MultiHeadDotProductAttention_0"
        parts = dict(zip(("query", "key", "value"), np.split(value, 3), strict=True))
        return {
            k: v for p, x in parts.items() for k, v in _into_heads(f"{attention}/{p}", end[8:], x, heads[tower]).items()
        }
    for ours, theirs in (
        ("layer_norm1", "LayerNorm_0"),
        ("layer_norm2", "LayerNorm_1"),
        ("mlp.fc1", "MlpBlock_0/Dense_0"),
        ("mlp.fc2", "MlpBlock_0/Dense_1"),
        ("self_attn.q_proj", "MultiHeadDotProductAttention_0/query"),
        ("self_attn.k_proj", "MultiHeadDotProductAttention_0/key"),
        ("self_attn.v_proj", "MultiHeadDotProductAttention_0/value"),
        ("self_attn.out_proj", "MultiHeadDotProductAttention_0/out"),
        ("attention.out_proj", "MultiHeadDotProductAttention_0/out"),
        ("layernorm", "LayerNorm_0"),
    ):
        if module.endswith(ours):
            module = module.removesuffix(ours) + theirs
            break
    module = module.replace("head.", "MAPHead_0/")
    module = {
        "embeddings.patch_embedding": "embedding",
        "post_LayerNorm_0": "Transformer/encoder_norm",
        "final_layer_norm": "Encoder_0/encoder_norm",
    }.get(module, module)
    place = f"{root}/{module}"
    if module.endswith(("/query", "/key", "/value")):
        return _into_heads(place, end, value, heads[tower])
    if end == "bias":
        return {f"{place}/bias": value}
    if "norm" in module.lower():
        return {f"{place}/scale": value}
    if value.ndim == 4:
        return {f"{place}/kernel": value.transpose(2, 3, 1, 0)}
    if module.endswith("/out"):
        return {f"{place}/kernel": value.T.reshape(heads[tower], -1, value.shape[0])}
    return {f"{place}/kernel": value.T}


def _into_heads(place: str, end: str, value: np.ndarray, heads: int) -> dict[str, np.ndarray]:
    if end == "bias":
        return {f"{place}/bias": value.reshape(heads, -1)}
    return {f"{place}/kernel": value.T.reshape(value.shape[1], heads, -1)}


def _stack(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    out: dict[str, np.ndarray] = {}
    layers: dict[str, dict[int, np.ndarray]] = {}
    for name, value in arrays.items():
        if match := re.search(r"encoderblock_(\d+)/", name):
            layers.setdefault(name.replace(match[0], "encoderblock/"), {})[int(match[1])] = value
        else:
            out[name] = value
    return out | {name: np.stack([parts[i] for i in range(len(parts))]) for name, parts in layers.items()}


def _copy(checkpoint: Path, target: Path) -> None:
    """Copy everything but the weights."""
    target.mkdir(parents=True)
    for path in checkpoint.iterdir():
        if path.suffix in (".json", ".model"):
            shutil.copy(path, target)
