"""The two towers, written for export, and where each of their parameters comes from in a checkpoint.

They compute what transformers' `SiglipVisionModel` and `SiglipTextModel` compute (arXiv:2303.15343), laid out for
ONNX: every Linear is a MatMul by a weight stored [in, out], queries, keys and values come from one MatMul, attention's
1/sqrt(head) is part of the query weights, and every shape but the batch is a constant.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import SiglipConfig, TextConfig, TowerConfig, VisionConfig

_GELU: Final = {"gelu_pytorch_tanh": "tanh", "gelu": "none"}


class Linear(nn.Module):
    """x @ weight + bias, the weight stored [in, out] as ONNX's MatMul takes it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        return torch.matmul(x, self.weight) + self.bias


class Mlp(nn.Module):
    """Two Linears with a GELU between them."""

    def __init__(self, config: TowerConfig) -> None:
        super().__init__()
        self.fc1 = Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = Linear(config.intermediate_size, config.hidden_size)
        self.approximate = _GELU[config.hidden_act]

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        y: Tensor = self.fc2(F.gelu(self.fc1(x), approximate=self.approximate))
        return y


class Layer(nn.Module):
    """A pre-norm transformer layer without mask."""

    def __init__(self, config: TowerConfig, tokens: int) -> None:
        super().__init__()
        self.tokens, self.width, self.heads = tokens, config.hidden_size, config.num_attention_heads
        self.norm1 = nn.LayerNorm(self.width, eps=config.layer_norm_eps)
        self.qkv = Linear(self.width, 3 * self.width)
        self.out = Linear(self.width, self.width)
        self.norm2 = nn.LayerNorm(self.width, eps=config.layer_norm_eps)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor) -> Tensor:  # noqa: D102
        x = x + self.attention(self.norm1(x))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y

    def attention(self, x: Tensor) -> Tensor:
        """[batch, tokens, width] to the same."""
        split = (-1, self.tokens, self.heads, self.width // self.heads)
        q, k, v = (part.view(split) for part in self.qkv(x).split(self.width, dim=-1))
        scores = q.transpose(1, 2) @ k.permute(0, 2, 3, 1)  # [batch, heads, tokens, tokens]
        mixed = (scores.softmax(-1) @ v.transpose(1, 2)).transpose(1, 2)
        y: Tensor = self.out(mixed.contiguous().view(-1, self.tokens, self.width))
        return y


class AttentionPool(nn.Module):
    """The MAP head (arXiv:2106.04560): one learned query attends over the patches, then a residual MLP.

    The query is the same for every picture, so its projection is made at export and `query` holds the result,
    [1, heads, 1, head].
    """

    def __init__(self, config: VisionConfig, tokens: int) -> None:
        super().__init__()
        self.tokens, self.width, self.heads = tokens, config.hidden_size, config.num_attention_heads
        self.query = nn.Parameter(torch.empty(1, self.heads, 1, self.width // self.heads))
        self.kv = Linear(self.width, 2 * self.width)
        self.out = Linear(self.width, self.width)
        self.norm = nn.LayerNorm(self.width, eps=config.layer_norm_eps)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, tokens, width] to [batch, width]."""
        split = (-1, self.tokens, self.heads, self.width // self.heads)
        k, v = (part.view(split) for part in self.kv(x).split(self.width, dim=-1))
        scores = self.query @ k.permute(0, 2, 3, 1)  # [batch, heads, 1, tokens]
        pooled = self.out((scores.softmax(-1) @ v.transpose(1, 2)).view(-1, self.width))
        y: Tensor = pooled + self.mlp(self.norm(pooled))
        return y


class VisionTower(nn.Module):
    """pixel_values float32 [batch, 3, size, size] to last_hidden_state and pooler_output."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.grid, self.patch = config.image_size // config.patch_size, config.patch_size
        self.patches = Linear(3 * self.patch**2, config.hidden_size)
        self.positions = nn.Parameter(torch.empty(1, config.num_patches, config.hidden_size))
        self.layers = nn.ModuleList(Layer(config, config.num_patches) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pool = AttentionPool(config, config.num_patches)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, 3, size, size] to ([batch, patches, width], [batch, width])."""
        x = self.patches(self.split(pixel_values)) + self.positions
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        return x, self.pool(x)

    def split(self, pixel_values: Tensor) -> Tensor:
        """[batch, 3, size, size] to [batch, patches, 3 * patch * patch]."""
        used = self.grid * self.patch  # what does not fill a patch is left out, as the reference's Conv2d does
        if used < pixel_values.shape[-1]:
            pixel_values = pixel_values[:, :, :used, :used]
        tiles = pixel_values.reshape(-1, 3, self.grid, self.patch, self.grid, self.patch)
        return tiles.permute(0, 2, 4, 1, 3, 5).contiguous().view(-1, self.grid**2, 3 * self.patch**2)


class TextTower(nn.Module):
    """input_ids int64 [batch, length] to last_hidden_state and pooler_output."""

    def __init__(self, config: TextConfig, length: int) -> None:
        super().__init__()
        self.length = length
        self.tokens = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.positions = nn.Parameter(torch.empty(1, length, config.hidden_size))
        self.layers = nn.ModuleList(Layer(config, length) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.head = Linear(config.hidden_size, config.embedding_size)

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, length] to ([batch, length, width], [batch, embedding])."""
        x = F.embedding(input_ids, self.tokens) + self.positions
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        return x, self.head(x.select(1, self.length - 1))  # the last token speaks for the text


@dataclass(frozen=True)
class Source:
    """The checkpoint's tensors that one parameter is made of, and how."""

    names: tuple[str, ...]
    make: Callable[..., Tensor]


Sources = dict[str, Source]


def vision_sources(config: VisionConfig) -> Sources:
    """Where each parameter of a `VisionTower` comes from, by its name."""
    old, heads = "vision_model.", config.num_attention_heads
    head = f"{old}head."
    return {
        "patches.weight": Source((f"{old}embeddings.patch_embedding.weight",), lambda w: w.flatten(1).T),
        **_copied("patches.bias", f"{old}embeddings.patch_embedding.bias"),
        "positions": Source((f"{old}embeddings.position_embedding.weight",), lambda p: p[None]),
        **_layers(old, config),
        **_norm("norm", f"{old}post_layernorm"),
        "pool.query": Source(
            (f"{head}probe", f"{head}attention.in_proj_weight", f"{head}attention.in_proj_bias"),
            lambda probe, weight, bias: _pool_query(probe, weight, bias, heads),
        ),
        "pool.kv.weight": Source((f"{head}attention.in_proj_weight",), lambda w: w[w.shape[1] :].T),
        "pool.kv.bias": Source((f"{head}attention.in_proj_bias",), lambda b: b[len(b) // 3 :]),
        **_linear("pool.out", f"{head}attention.out_proj"),
        **_norm("pool.norm", f"{head}layernorm"),
        **_linear("pool.mlp.fc1", f"{head}mlp.fc1"),
        **_linear("pool.mlp.fc2", f"{head}mlp.fc2"),
    }


def text_sources(config: TextConfig, length: int) -> Sources:
    """Where each parameter of a `TextTower` comes from, by its name."""
    old = "text_model."
    return {
        **_copied("tokens", f"{old}embeddings.token_embedding.weight"),
        "positions": Source((f"{old}embeddings.position_embedding.weight",), lambda p: p[None, :length]),
        **_layers(old, config),
        **_norm("norm", f"{old}final_layer_norm"),
        **_linear("head", f"{old}head"),
    }


def expected_shapes(config: SiglipConfig) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor of a checkpoint in transformers' names."""
    v, t = config.vision_config, config.text_config
    head, width = "vision_model.head.", v.hidden_size
    return {
        "logit_scale": (1,),
        "logit_bias": (1,),
        "vision_model.embeddings.patch_embedding.weight": (width, 3, v.patch_size, v.patch_size),
        "vision_model.embeddings.patch_embedding.bias": (width,),
        "vision_model.embeddings.position_embedding.weight": (v.num_patches, width),
        **_layer_shapes("vision_model.", v),
        **_norm_shapes("vision_model.post_layernorm", width),
        f"{head}probe": (1, 1, width),
        f"{head}attention.in_proj_weight": (3 * width, width),
        f"{head}attention.in_proj_bias": (3 * width,),
        **_linear_shapes(f"{head}attention.out_proj", width, width),
        **_norm_shapes(f"{head}layernorm", width),
        **_linear_shapes(f"{head}mlp.fc1", width, v.intermediate_size),
        **_linear_shapes(f"{head}mlp.fc2", v.intermediate_size, width),
        "text_model.embeddings.token_embedding.weight": (t.vocab_size, t.hidden_size),
        "text_model.embeddings.position_embedding.weight": (t.max_position_embeddings, t.hidden_size),
        **_layer_shapes("text_model.", t),
        **_norm_shapes("text_model.final_layer_norm", t.hidden_size),
        **_linear_shapes("text_model.head", t.hidden_size, t.embedding_size),
    }


def _copied(new: str, old: str) -> Sources:
    return {new: Source((old,), lambda x: x)}


def _linear(new: str, old: str) -> Sources:
    return {f"{new}.weight": Source((f"{old}.weight",), lambda w: w.T), **_copied(f"{new}.bias", f"{old}.bias")}


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
            f"{new}qkv.weight": Source(
                tuple(f"{p}.weight" for p in projections), lambda q, k, v: torch.cat([q * scale, k, v]).T
            ),
            f"{new}qkv.bias": Source(
                tuple(f"{p}.bias" for p in projections), lambda q, k, v: torch.cat([q * scale, k, v])
            ),
            **_linear(f"{new}out", f"{old}self_attn.out_proj"),
            **_norm(f"{new}norm2", f"{old}layer_norm2"),
            **_linear(f"{new}mlp.fc1", f"{old}mlp.fc1"),
            **_linear(f"{new}mlp.fc2", f"{old}mlp.fc2"),
        }
    return sources


def _pool_query(probe: Tensor, weight: Tensor, bias: Tensor, heads: int) -> Tensor:
    """The MAP head's scaled query, [1, heads, 1, head], made in float64 since it is made but once."""
    width = probe.shape[-1]
    query = probe.double().view(width) @ weight[:width].double().T + bias[:width].double()
    return (query / math.sqrt(width // heads)).view(1, heads, 1, width // heads).to(probe.dtype)


def _linear_shapes(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm_shapes(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _layer_shapes(tower: str, config: TowerConfig) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    width, inner = config.hidden_size, config.intermediate_size
    for i in range(config.num_hidden_layers):
        layer = f"{tower}encoder.layers.{i}."
        for projection in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear_shapes(f"{layer}self_attn.{projection}", width, width)
        shapes |= _norm_shapes(f"{layer}layer_norm1", width) | _norm_shapes(f"{layer}layer_norm2", width)
        shapes |= _linear_shapes(f"{layer}mlp.fc1", width, inner) | _linear_shapes(f"{layer}mlp.fc2", inner, width)
    return shapes
