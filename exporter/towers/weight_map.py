"""Source of each parameter of the towers: the checkpoint's tensors, by transformers' names, and their conversion."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ...runtime.artifact.input_specs import ImageSpec
from ..checkpoint.config import TextConfig, TowerConfig, VisionConfig
from ..checkpoint.dialects import Sources, WeightSource
from ..options import ExportOptions, GraphInput


def vision_sources(config: VisionConfig, image: ImageSpec, options: ExportOptions) -> Sources:
    """Source of each parameter of a `VisionTower` or `NaflexTower`, by its name."""
    old, heads = "vision_model.", config.num_attention_heads
    head, patches = f"{old}head.", f"{old}embeddings.patch_embedding"
    folded = options.image_input is GraphInput.BYTES
    return {
        **(_patches_of_bytes(patches, image) if folded else _patches(patches)),
        "positions": WeightSource(
            (f"{old}embeddings.position_embedding.weight",),
            lambda p: p if config.naflex else resized(p, config.positions)[None],
        ),
        **_layers(old, config),
        **_norm("norm", f"{old}post_layernorm"),
        "pool.query": WeightSource(
            (f"{head}probe", f"{head}attention.in_proj_weight", f"{head}attention.in_proj_bias"),
            lambda probe, weight, bias: _pool_query(probe, weight, bias, heads),
        ),
        "pool.kv.weight": WeightSource((f"{head}attention.in_proj_weight",), lambda w: w[w.shape[1] :].T),
        "pool.kv.bias": WeightSource((f"{head}attention.in_proj_bias",), lambda b: b[len(b) // 3 :]),
        **_linear("pool.out", f"{head}attention.out_proj"),
        **_norm("pool.norm", f"{head}layernorm"),
        **_linear("pool.mlp.fc1", f"{head}mlp.fc1"),
        **_linear("pool.mlp.fc2", f"{head}mlp.fc2"),
    }


def text_sources(config: TextConfig, length: int, options: ExportOptions) -> Sources:
    """Source of each parameter of a `TextTower`, by its name."""
    old, last = "text_model.", config.num_hidden_layers - 1
    return {
        **_copied("tokens", f"{old}embeddings.token_embedding.weight"),
        "positions": WeightSource((f"{old}embeddings.position_embedding.weight",), lambda p: p[None, :length]),
        **_layers(old, config),
        **(_last_layer(old, config, last) if options.pooled_only else {}),
        **_norm("norm", f"{old}final_layer_norm"),
        **_linear("head", f"{old}head"),
    }


def resized(positions: Tensor, count: int) -> Tensor:
    """Resize a square grid of position embeddings: [stored, width] -> [count, width].

    Bicubic without antialiasing, like `SiglipVisionEmbeddings.interpolate_pos_encoding` in transformers.
    """
    stored, grid = math.isqrt(len(positions)), math.isqrt(count)
    if stored == grid:
        return positions
    square = positions.view(1, stored, stored, -1).permute(0, 3, 1, 2)
    larger = F.interpolate(square, size=(grid, grid), mode="bicubic", align_corners=False)
    return larger.permute(0, 2, 3, 1).reshape(count, -1)


def _patches(old: str) -> Sources:
    weight = WeightSource((f"{old}.weight",), lambda w: w.flatten(1).T)
    return {"patches.weight": weight, **_copied("patches.bias", f"{old}.bias")}


def _patches_of_bytes(old: str, image: ImageSpec) -> Sources:
    return {
        "patches.weight": WeightSource((f"{old}.weight",), lambda w: _of_bytes(w.flatten(1), image)[0].T),
        "patches.bias": WeightSource(
            (f"{old}.weight", f"{old}.bias"), lambda w, b: b + _of_bytes(w.flatten(1), image)[1]
        ),
    }


def _of_bytes(weight: Tensor, image: ImageSpec) -> tuple[Tensor, Tensor]:
    """Fold the normalization into the patch embedding: weight [out, 3 * patch * patch] for bytes, and a bias [out].

    (byte * rescale - mean) / std is folded in float64, because it is computed only once.
    """
    area = weight.shape[1] // 3  # a patch's channels follow each other
    mean, std = (
        torch.tensor(values, dtype=torch.float64).repeat_interleave(area) for values in (image.mean, image.std)
    )
    wide = weight.double()
    return (wide * (image.rescale / std)).to(weight.dtype), -(wide @ (mean / std)).to(weight.dtype)


def _copied(new: str, old: str) -> Sources:
    return {new: WeightSource((old,), lambda x: x)}


def _linear(new: str, old: str) -> Sources:
    return {f"{new}.weight": WeightSource((f"{old}.weight",), lambda w: w.T), **_copied(f"{new}.bias", f"{old}.bias")}


def _norm(new: str, old: str) -> Sources:
    return {**_copied(f"{new}.weight", f"{old}.weight"), **_copied(f"{new}.bias", f"{old}.bias")}


def _layers(tower: str, config: TowerConfig) -> Sources:
    sources: Sources = {}
    scale = 1 / math.sqrt(config.hidden_size // config.num_attention_heads)
    for i in range(config.num_hidden_layers):
        new, old = f"layers.{i}.", f"{tower}encoder.layers.{i}."
        projections = [f"{old}self_attn.{p}_proj" for p in "qkv"]
        sources |= {
            **_norm(f"{new}norm1", f"{old}layer_norm1"),
            f"{new}qkv.weight": WeightSource(
                tuple(f"{p}.weight" for p in projections), lambda q, k, v: torch.cat([q * scale, k, v]).T
            ),
            f"{new}qkv.bias": WeightSource(
                tuple(f"{p}.bias" for p in projections), lambda q, k, v: torch.cat([q * scale, k, v])
            ),
            **_linear(f"{new}out", f"{old}self_attn.out_proj"),
            **_norm(f"{new}norm2", f"{old}layer_norm2"),
            **_linear(f"{new}mlp.fc1", f"{old}mlp.fc1"),
            **_linear(f"{new}mlp.fc2", f"{old}mlp.fc2"),
        }
    return sources


def _last_layer(tower: str, config: TowerConfig, i: int) -> Sources:
    """Separate queries: a `LastTokenLayer` needs them for one token, but keys and values for all tokens."""
    new, old = f"layers.{i}.", f"{tower}encoder.layers.{i}.self_attn."
    scale = 1 / math.sqrt(config.hidden_size // config.num_attention_heads)
    keys, values = f"{old}k_proj", f"{old}v_proj"
    return {
        f"{new}q.weight": WeightSource((f"{old}q_proj.weight",), lambda q: (q * scale).T),
        f"{new}q.bias": WeightSource((f"{old}q_proj.bias",), lambda q: q * scale),
        f"{new}kv.weight": WeightSource((f"{keys}.weight", f"{values}.weight"), lambda k, v: torch.cat([k, v]).T),
        f"{new}kv.bias": WeightSource((f"{keys}.bias", f"{values}.bias"), lambda k, v: torch.cat([k, v])),
    }


def _pool_query(probe: Tensor, weight: Tensor, bias: Tensor, heads: int) -> Tensor:
    """The MAP head's scaled query, [1, heads, 1, head], in float64 because it is computed only once."""
    width = probe.shape[-1]
    query = probe.double().view(width) @ weight[:width].double().T + bias[:width].double()
    return (query / math.sqrt(width // heads)).view(1, heads, 1, width // heads).to(probe.dtype)
