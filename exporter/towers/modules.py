"""Vision and text towers, written for export; weight_map.py maps their parameters to the checkpoint's tensors.

They compute the same as transformers' `SiglipVisionModel`, `Siglip2VisionModel` and the text models (arXiv:2303.15343,
arXiv:2502.14786), arranged for ONNX: every Linear is a MatMul by a weight stored as [in, out]; one MatMul computes
queries, keys and values; attention's 1/sqrt(head) is folded into the query weights; and all dimensions but the batch
are constant.
"""

from __future__ import annotations

from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoint.config import TextConfig, TowerConfig, VisionConfig
from ..options import ExportOptions, GraphInput

_GELU: Final = {"gelu_pytorch_tanh": "tanh", "gelu": "none"}
# Added to the scores of padding patches. e**-1e4 is zero in every precision, and float16 can represent -1e4.
_MASKED: Final = -1e4


class Linear(nn.Module):
    """x @ weight + bias; the weight is stored as [in, out] for ONNX's MatMul."""

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
    """A pre-norm transformer layer."""

    def __init__(self, config: TowerConfig, tokens: int) -> None:
        super().__init__()
        self.tokens, self.width, self.heads = tokens, config.hidden_size, config.num_attention_heads
        self.norm1 = nn.LayerNorm(self.width, eps=config.layer_norm_eps)
        self.qkv = Linear(self.width, 3 * self.width)
        self.out = Linear(self.width, self.width)
        self.norm2 = nn.LayerNorm(self.width, eps=config.layer_norm_eps)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:  # noqa: D102
        x = x + self.attention(self.norm1(x), mask)
        y: Tensor = x + self.mlp(self.norm2(x))
        return y

    def attention(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """[batch, tokens, width] -> same shape; `mask`, [batch, 1, 1, tokens], is added to the scores."""
        split = (-1, self.tokens, self.heads, self.width // self.heads)
        q, k, v = (part.view(split) for part in self.qkv(x).split(self.width, dim=-1))
        scores = q.transpose(1, 2) @ k.permute(0, 2, 3, 1)  # [batch, heads, tokens, tokens]
        mixed = (_masked(scores, mask).softmax(-1) @ v.transpose(1, 2)).transpose(1, 2)
        y: Tensor = self.out(mixed.contiguous().view(-1, self.tokens, self.width))
        return y


class LastTokenLayer(nn.Module):
    """A last layer that computes only the last token, for towers that return only the pooled output."""

    def __init__(self, config: TowerConfig, tokens: int) -> None:
        super().__init__()
        self.tokens, self.width, self.heads = tokens, config.hidden_size, config.num_attention_heads
        self.norm1 = nn.LayerNorm(self.width, eps=config.layer_norm_eps)
        self.q, self.kv = Linear(self.width, self.width), Linear(self.width, 2 * self.width)
        self.out = Linear(self.width, self.width)
        self.norm2 = nn.LayerNorm(self.width, eps=config.layer_norm_eps)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, tokens, width] -> [batch, width]."""
        head = self.width // self.heads
        normed = self.norm1(x)
        q = self.q(normed.select(1, self.tokens - 1)).view(-1, self.heads, 1, head)
        k, v = (p.view(-1, self.tokens, self.heads, head) for p in self.kv(normed).split(self.width, dim=-1))
        scores = q @ k.permute(0, 2, 3, 1)  # [batch, heads, 1, tokens]
        mixed = (scores.softmax(-1) @ v.transpose(1, 2)).view(-1, self.width)
        last = x.select(1, self.tokens - 1) + self.out(mixed)
        y: Tensor = last + self.mlp(self.norm2(last))
        return y


class AttentionPool(nn.Module):
    """The MAP head (arXiv:2106.04560): one learned query attends over the patches, then a residual MLP.

    The query is the same for every image, so the exporter projects it once; `query`, [1, heads, 1, head], holds the
    result.
    """

    def __init__(self, config: VisionConfig, tokens: int) -> None:
        super().__init__()
        self.tokens, self.width, self.heads = tokens, config.hidden_size, config.num_attention_heads
        self.query = nn.Parameter(torch.empty(1, self.heads, 1, self.width // self.heads))
        self.kv = Linear(self.width, 2 * self.width)
        self.out = Linear(self.width, self.width)
        self.norm = nn.LayerNorm(self.width, eps=config.layer_norm_eps)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """[batch, tokens, width] -> [batch, width]."""
        split = (-1, self.tokens, self.heads, self.width // self.heads)
        k, v = (part.view(split) for part in self.kv(x).split(self.width, dim=-1))
        scores = self.query @ k.permute(0, 2, 3, 1)  # [batch, heads, 1, tokens]
        pooled = self.out((_masked(scores, mask).softmax(-1) @ v.transpose(1, 2)).view(-1, self.width))
        y: Tensor = pooled + self.mlp(self.norm(pooled))
        return y


class TowerBase(nn.Module):
    """Base of both towers: the outputs."""

    def __init__(self, options: ExportOptions) -> None:
        super().__init__()
        self.pooled_only, self.normalized = options.pooled_only, options.normalized

    def outputs(self, hidden: Tensor, pooled: Tensor) -> tuple[Tensor, ...]:
        """The outputs that the options select."""
        if self.normalized:
            pooled = pooled / torch.linalg.vector_norm(pooled, dim=-1, keepdim=True)
        return (pooled,) if self.pooled_only else (hidden, pooled)


class VisionTower(TowerBase):
    """Vision tower: pixel_values, float32 [batch, 3, size, size] or uint8 [batch, size, size, 3], -> outputs."""

    def __init__(self, config: VisionConfig, options: ExportOptions) -> None:
        super().__init__(options)
        self.grid, self.patch = config.image_size // config.patch_size, config.patch_size
        self.bytes = options.image_input is GraphInput.BYTES
        self.patches = Linear(3 * self.patch**2, config.hidden_size)
        self.positions = nn.Parameter(torch.empty(1, config.positions, config.hidden_size))
        self.layers = nn.ModuleList(Layer(config, config.positions) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pool = AttentionPool(config, config.positions)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """A batch of images -> [batch, patches, width] and [batch, width]."""
        split = self.split_bytes if self.bytes else self.split
        x = self.patches(split(pixel_values)) + self.positions
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        return self.outputs(x, self.pool(x))

    def split(self, pixel_values: Tensor) -> Tensor:
        """Split into patches: [batch, 3, size, size] -> [batch, patches, 3 * patch * patch]."""
        used = self.grid * self.patch  # like the reference's Conv2d, ignore pixels that do not fill a patch
        if used < pixel_values.shape[-1]:
            pixel_values = pixel_values[:, :, :used, :used]
        tiles = pixel_values.reshape(-1, 3, self.grid, self.patch, self.grid, self.patch)
        return tiles.permute(0, 2, 4, 1, 3, 5).contiguous().view(-1, self.grid**2, 3 * self.patch**2)

    def split_bytes(self, pixel_values: Tensor) -> Tensor:
        """Split into patches: uint8 [batch, size, size, 3] -> unnormalized float32 [batch, patches, 3 * patch**2]."""
        used = self.grid * self.patch
        if used < pixel_values.shape[1]:
            pixel_values = pixel_values[:, :used, :used]
        tiles = pixel_values.to(torch.float32).reshape(-1, self.grid, self.patch, self.grid, self.patch, 3)
        return tiles.permute(0, 1, 3, 5, 2, 4).contiguous().view(-1, self.grid**2, 3 * self.patch**2)


class NaflexTower(TowerBase):
    """NaFlex vision tower: patches, a mask and the shape of each image's grid -> outputs.

    The inputs are pixel_values, float32 [batch, patches, patch * patch * 3], pixel_attention_mask, int64
    [batch, patches], and spatial_shapes, int64 [batch, 2], the rows and columns of patches.
    """

    def __init__(self, config: VisionConfig, options: ExportOptions, patches: int) -> None:
        super().__init__(options)
        self.count, self.grid = patches, round(config.positions**0.5)
        self.patches = Linear(3 * config.patch_size**2, config.hidden_size)
        self.positions = nn.Parameter(torch.empty(config.positions, config.hidden_size))
        self.layers = nn.ModuleList(Layer(config, patches) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pool = AttentionPool(config, patches)

    def forward(self, pixel_values: Tensor, pixel_attention_mask: Tensor, spatial_shapes: Tensor) -> tuple[Tensor, ...]:
        """A batch of images -> [batch, patches, width] and [batch, width]."""
        mask = ((1 - pixel_attention_mask.to(torch.float32)) * _MASKED).view(-1, 1, 1, self.count)
        x = self.patches(pixel_values) + self.resized_positions(spatial_shapes.to(torch.float32))
        for layer in self.layers:
            x = layer(x, mask)
        x = self.norm(x)
        return self.outputs(x, self.pool(x, mask))

    def resized_positions(self, shapes: Tensor) -> Tensor:
        """Resize the stored grid of positions to each image's grid: [batch, patches, width]; padding gets the first.

        An antialiased bilinear resize, such as torch's interpolate, is a product with triangular weights along each
        axis. Written as a product, it needs no loop over images.
        """
        rows, columns = shapes[:, 0:1], shapes[:, 1:2]
        place = torch.arange(self.count, dtype=torch.float32)
        used = (place < rows * columns).to(torch.float32)
        row = torch.floor((place + 0.5) / columns)  # + 0.5 keeps rounding errors out of the next row
        column = place - row * columns
        down, across = self.weights(row * used, rows), self.weights(column * used, columns)
        weights = (down.unsqueeze(3) * across.unsqueeze(2)).view(-1, self.count, self.grid**2)
        return weights @ self.positions

    def weights(self, place: Tensor, length: Tensor) -> Tensor:
        """Weights of the stored rows at the places of an axis with `length` places: [batch, patches, grid]."""
        scale = (self.grid / length).unsqueeze(2)
        center = (place.unsqueeze(2) + 0.5) * scale
        stored = torch.arange(self.grid, dtype=torch.float32) + 0.5
        triangle = F.relu(1 - (stored - center).abs() / scale.clamp(min=1.0))
        return triangle / triangle.sum(2, keepdim=True)


class TextTower(TowerBase):
    """Text tower: input_ids, int64 [batch, length], -> outputs."""

    def __init__(self, config: TextConfig, length: int, options: ExportOptions) -> None:
        super().__init__(options)
        self.length = length
        self.tokens = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self.positions = nn.Parameter(torch.empty(1, length, config.hidden_size))
        layers: list[nn.Module] = [Layer(config, length) for _ in range(config.num_hidden_layers)]
        if self.pooled_only:
            layers[-1] = LastTokenLayer(config, length)
        self.layers = nn.ModuleList(layers)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.head = Linear(config.hidden_size, config.embedding_size)

    def forward(self, input_ids: Tensor) -> tuple[Tensor, ...]:
        """[batch, length] -> [batch, length, width] and [batch, embedding]."""
        x = F.embedding(input_ids, self.tokens) + self.positions
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x)
        last = x if self.pooled_only else x.select(1, self.length - 1)  # SigLIP pools the last token
        return self.outputs(x, self.head(last))


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    return scores if mask is None else scores + mask
