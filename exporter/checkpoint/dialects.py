"""Dialects of SigLIP weights, each a table from transformers' names to the dialect's names.

Sources: transformers `convert_siglip_to_hf.py` and `convert_siglip2_to_hf.py` (big_vision), open_clip `transformer.py`
and timm `vision_transformer.py` (open_clip), PaddleNLP, whose Linear weights are [in, out].
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ...runtime.errors import CheckpointError
from ..options import Dialect
from .tensor_files import TensorStore

Convert = Callable[..., Tensor]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class WeightSource:
    """Stored tensors that one tensor is made from, and the function that makes it."""

    names: tuple[str, ...]
    make: Convert


Sources = dict[str, WeightSource]


@dataclass(frozen=True)
class LinearForm:
    """Names of a module's weight and bias in a dialect, and their conversions to transformers' form."""

    weight_name: str = "weight"
    bias_name: str = "bias"
    weight: Convert = lambda x: x
    bias: Convert = lambda x: x


@dataclass(frozen=True)
class DialectRow:
    """A module in a dialect's table.

    Attributes:
        ours: transformers' name, without `weight` or `bias`; `{i}` stands for the number of a layer.
        theirs: The dialect's name or, if the module is split, its names, likewise.
        form: Names and conversions of the weight and the bias.
    """

    ours: str
    theirs: tuple[str, ...]
    form: LinearForm = LinearForm()


@dataclass(frozen=True)
class TensorRow:
    """A tensor outside of any module: transformers' name, the dialect's name, and the conversion."""

    ours: str
    theirs: str
    make: Convert = lambda x: x


_HEAD: Final = "vision_model.head."


def _third(number: int) -> LinearForm:
    return LinearForm(weight=lambda w: w.chunk(3)[number], bias=lambda b: b.chunk(3)[number])


def _joined(*parts: Tensor) -> Tensor:
    return torch.cat(parts)


_ONE: Final[Convert] = lambda x: x.reshape(1)  # noqa: E731  a table's entry like the others
_ROWS: Final[Convert] = lambda x: x.reshape(-1, x.shape[-1])  # noqa: E731  position embeddings without leading dimensions of 1


def _thirds(ours: str, theirs: str, weight: str = "weight", bias: str = "bias") -> tuple[DialectRow, ...]:
    """Queries, keys and values, split from one packed tensor."""
    forms = (_third(number) for number in range(3))
    return tuple(
        DialectRow(f"{ours}{p}_proj.", (theirs,), LinearForm(weight, bias, f.weight, f.bias))
        for p, f in zip("qkv", forms, strict=True)
    )


_OPEN_CLIP: Final[tuple[DialectRow | TensorRow, ...]] = (
    TensorRow("logit_scale", "logit_scale", _ONE),
    TensorRow("logit_bias", "logit_bias", _ONE),
    DialectRow("vision_model.embeddings.patch_embedding.", ("visual.trunk.patch_embed.proj.",)),
    TensorRow("vision_model.embeddings.position_embedding.weight", "visual.trunk.pos_embed", _ROWS),
    DialectRow("vision_model.encoder.layers.{i}.layer_norm1.", ("visual.trunk.blocks.{i}.norm1.",)),
    *_thirds("vision_model.encoder.layers.{i}.self_attn.", "visual.trunk.blocks.{i}.attn.qkv."),
    DialectRow("vision_model.encoder.layers.{i}.self_attn.out_proj.", ("visual.trunk.blocks.{i}.attn.proj.",)),
    DialectRow("vision_model.encoder.layers.{i}.layer_norm2.", ("visual.trunk.blocks.{i}.norm2.",)),
    DialectRow("vision_model.encoder.layers.{i}.mlp.fc1.", ("visual.trunk.blocks.{i}.mlp.fc1.",)),
    DialectRow("vision_model.encoder.layers.{i}.mlp.fc2.", ("visual.trunk.blocks.{i}.mlp.fc2.",)),
    DialectRow("vision_model.post_layernorm.", ("visual.trunk.norm.",)),
    TensorRow(f"{_HEAD}probe", "visual.trunk.attn_pool.latent"),
    DialectRow(
        f"{_HEAD}attention.in_proj_",
        ("visual.trunk.attn_pool.q.", "visual.trunk.attn_pool.kv."),
        LinearForm(weight=_joined, bias=_joined),
    ),
    DialectRow(f"{_HEAD}attention.out_proj.", ("visual.trunk.attn_pool.proj.",)),
    DialectRow(f"{_HEAD}layernorm.", ("visual.trunk.attn_pool.norm.",)),
    DialectRow(f"{_HEAD}mlp.fc1.", ("visual.trunk.attn_pool.mlp.fc1.",)),
    DialectRow(f"{_HEAD}mlp.fc2.", ("visual.trunk.attn_pool.mlp.fc2.",)),
    TensorRow("text_model.embeddings.token_embedding.weight", "text.token_embedding.weight"),
    TensorRow("text_model.embeddings.position_embedding.weight", "text.positional_embedding"),
    DialectRow("text_model.encoder.layers.{i}.layer_norm1.", ("text.transformer.resblocks.{i}.ln_1.",)),
    *_thirds(
        "text_model.encoder.layers.{i}.self_attn.",
        "text.transformer.resblocks.{i}.attn.",
        "in_proj_weight",
        "in_proj_bias",
    ),
    DialectRow("text_model.encoder.layers.{i}.self_attn.out_proj.", ("text.transformer.resblocks.{i}.attn.out_proj.",)),
    DialectRow("text_model.encoder.layers.{i}.layer_norm2.", ("text.transformer.resblocks.{i}.ln_2.",)),
    DialectRow("text_model.encoder.layers.{i}.mlp.fc1.", ("text.transformer.resblocks.{i}.mlp.c_fc.",)),
    DialectRow("text_model.encoder.layers.{i}.mlp.fc2.", ("text.transformer.resblocks.{i}.mlp.c_proj.",)),
    DialectRow("text_model.final_layer_norm.", ("text.ln_final.",)),
    DialectRow("text_model.head.", ("text.text_projection.",)),
)

_KERNEL: Final = LinearForm("kernel", weight=lambda w: w.T)
# A convolution's kernel is [height, width, in, out]; NaFlex has a Dense layer instead.
_PATCHES: Final = LinearForm("kernel", weight=lambda w: w.permute(3, 2, 0, 1) if w.ndim == 4 else w.T)
_SCALE: Final = LinearForm("scale")
_TO_HEADS: Final = LinearForm(
    "kernel", weight=lambda w: w.flatten(1).T, bias=lambda b: b.flatten()
)  # [in, heads, head]
_FROM_HEADS: Final = LinearForm("kernel", weight=lambda w: w.flatten(0, 1).T)  # [heads, head, out]
_POOL: Final = "params/img/MAPHead_0/MultiHeadDotProductAttention_0/"


def _flax_layer(ours: str, theirs: str) -> tuple[DialectRow, ...]:
    """A layer; both towers have the same layers in big_vision."""
    attention = f"{theirs}MultiHeadDotProductAttention_0/"
    return (
        DialectRow(f"{ours}layer_norm1.", (f"{theirs}LayerNorm_0/",), _SCALE),
        DialectRow(f"{ours}self_attn.q_proj.", (f"{attention}query/",), _TO_HEADS),
        DialectRow(f"{ours}self_attn.k_proj.", (f"{attention}key/",), _TO_HEADS),
        DialectRow(f"{ours}self_attn.v_proj.", (f"{attention}value/",), _TO_HEADS),
        DialectRow(f"{ours}self_attn.out_proj.", (f"{attention}out/",), _FROM_HEADS),
        DialectRow(f"{ours}layer_norm2.", (f"{theirs}LayerNorm_1/",), _SCALE),
        DialectRow(f"{ours}mlp.fc1.", (f"{theirs}MlpBlock_0/Dense_0/",), _KERNEL),
        DialectRow(f"{ours}mlp.fc2.", (f"{theirs}MlpBlock_0/Dense_1/",), _KERNEL),
    )


_BIG_VISION: Final[tuple[DialectRow | TensorRow, ...]] = (
    TensorRow("logit_scale", "params/t", _ONE),
    TensorRow("logit_bias", "params/b", _ONE),
    DialectRow("vision_model.embeddings.patch_embedding.", ("params/img/embedding/",), _PATCHES),
    TensorRow("vision_model.embeddings.position_embedding.weight", "params/img/pos_embedding", _ROWS),
    *_flax_layer("vision_model.encoder.layers.{i}.", "params/img/Transformer/encoderblock_{i}/"),
    DialectRow("vision_model.post_layernorm.", ("params/img/Transformer/encoder_norm/",), _SCALE),
    TensorRow(f"{_HEAD}probe", "params/img/MAPHead_0/probe"),
    DialectRow(
        f"{_HEAD}attention.in_proj_",
        (f"{_POOL}query/", f"{_POOL}key/", f"{_POOL}value/"),
        LinearForm(
            "kernel",
            weight=lambda *parts: torch.cat([w.flatten(1).T for w in parts]),
            bias=lambda *parts: torch.cat([b.flatten() for b in parts]),
        ),
    ),
    DialectRow(f"{_HEAD}attention.out_proj.", (f"{_POOL}out/",), _FROM_HEADS),
    DialectRow(f"{_HEAD}layernorm.", ("params/img/MAPHead_0/LayerNorm_0/",), _SCALE),
    DialectRow(f"{_HEAD}mlp.fc1.", ("params/img/MAPHead_0/MlpBlock_0/Dense_0/",), _KERNEL),
    DialectRow(f"{_HEAD}mlp.fc2.", ("params/img/MAPHead_0/MlpBlock_0/Dense_1/",), _KERNEL),
    TensorRow("text_model.embeddings.token_embedding.weight", "params/txt/Embed_0/embedding"),
    TensorRow("text_model.embeddings.position_embedding.weight", "params/txt/pos_embedding", _ROWS),
    *_flax_layer("text_model.encoder.layers.{i}.", "params/txt/Encoder_0/encoderblock_{i}/"),
    DialectRow("text_model.final_layer_norm.", ("params/txt/Encoder_0/encoder_norm/",), _SCALE),
    DialectRow("text_model.head.", ("params/txt/head/",), _KERNEL),
)

_TABLES: Final = {Dialect.OPEN_CLIP: _OPEN_CLIP, Dialect.BIG_VISION: _BIG_VISION}
# A tensor that only this dialect has. transformers and PaddleNLP use the same names.
_SIGNATURES: Final = {
    "vision_model.embeddings.patch_embedding.weight": Dialect.TRANSFORMERS,
    "visual.trunk.patch_embed.proj.weight": Dialect.OPEN_CLIP,
    "params/img/embedding/kernel": Dialect.BIG_VISION,
}
_FOREIGN: Final = {
    "vision_model.embeddings.class_embedding": "a CLIP model of transformers",
    "visual.conv1.weight": "a CLIP model of OpenAI or open_clip",
    "visual.class_embedding": "a CLIP model of OpenAI or open_clip",
    "image_encoder.model.patch_embed.proj.weight": "a MobileCLIP model",
    "text.transformer.embeddings.word_embeddings.weight": "an open_clip model with a Hugging Face text tower",
    "vision_tower.vision_tower.vision_model.embeddings.patch_embedding.weight": "a vision-language model",
}
SUPPORTED: Final = (
    "siglip-onnx reads SigLIP and SigLIP 2 models (such as google/siglip-base-patch16-224 and "
    "google/siglip2-base-patch16-224) with tensor names of transformers, PaddleNLP, open_clip/timm or big_vision."
)
_TOWERS: Final = ("vision_model", "text_model")
_UNPOOLED: Final = re.compile(r"(position|token)_embedding\.weight$")


def detect(store: TensorStore, shapes: Callable[[], Shapes]) -> Dialect:
    """Detect the dialect of a file from its tensor names, and transformers or Paddle from its shapes.

    Args:
        store: The weights.
        shapes: Returns the expected shapes by transformers' names; called only if transformers and Paddle are possible.

    Raises:
        CheckpointError: The names belong to no dialect or to several, or the orientation is mixed.
    """
    dialects = {dialect for name, dialect in _SIGNATURES.items() if name in store.tensors}
    if len(dialects) > 1:
        raise CheckpointError(
            f"The weights mix the names of {' and '.join(sorted(dialects))}.", "Keep the tensors of one of them."
        )
    if not dialects:
        raise CheckpointError(_unknown(store.tensors), SUPPORTED)
    dialect = dialects.pop()
    return dialect if dialect in _TABLES else _orientation(store, shapes())


def _unknown(names: Iterable[str]) -> str:
    names = list(names)
    model = next((model for name, model in _FOREIGN.items() if name in names), None)
    if model is None:
        examples = f"{', '.join(names[:3])}, …" if names else "there are no tensors"
        model = f"an unknown model ({examples})"
    return f"The tensor names are those of {model}."


def _orientation(store: TensorStore, shapes: Shapes) -> Dialect:
    """Decide by the rectangular Linear weights whether all Linear weights are [out, in] or [in, out]."""
    votes: dict[Dialect, list[str]] = {Dialect.TRANSFORMERS: [], Dialect.PADDLE: []}
    for name, shape in shapes.items():
        if _is_linear(name, shape) and shape[0] != shape[1] and name in store.tensors:
            stored = store.tensors[name].shape
            if stored in (shape, shape[::-1]):
                votes[Dialect.TRANSFORMERS if stored == shape else Dialect.PADDLE].append(name)
    straight, transposed = votes.values()
    if straight and transposed:
        raise CheckpointError(
            f"The weights mix two orientations: {straight[0]} is [out, in] and {transposed[0]} is [in, out].",
            "Download the checkpoint again; the orientation of this one's square weights is unknown.",
        )
    return Dialect.PADDLE if transposed else Dialect.TRANSFORMERS


def sources(dialect: Dialect, shapes: Shapes, names: Iterable[str]) -> Sources:
    """Source of each tensor, by transformers' name, in a file with the tensors `names`."""
    if dialect is Dialect.TRANSFORMERS:
        return {name: WeightSource((name,), lambda x: x) for name in shapes}
    if dialect is Dialect.PADDLE:
        return {
            name: WeightSource((name,), (lambda w: w.T) if _is_linear(name, shape) else (lambda x: x))
            for name, shape in shapes.items()
        }
    known = dict(_expanded(_TABLES[dialect], 1 + max(map(_layer, shapes))))
    layers = {tower: 1 + max(_layer(name) for name in shapes if name.startswith(tower)) for tower in _TOWERS}
    stacked = frozenset(name for name in names if "/encoderblock/" in name)
    return {name: _unstacked(known[name], stacked, layers.get(name.split(".")[0], 0)) for name in shapes}


def _is_linear(name: str, shape: tuple[int, ...]) -> bool:
    return len(shape) == 2 and not _UNPOOLED.search(name)


def _layer(name: str) -> int:
    match = re.search(r"\.layers\.(\d+)\.", name)
    return int(match[1]) if match else 0


def _expanded(table: tuple[DialectRow | TensorRow, ...], layers: int) -> Iterator[tuple[str, WeightSource]]:
    for row in table:
        if isinstance(row, TensorRow):
            yield row.ours, WeightSource((row.theirs,), row.make)
            continue
        for i in range(layers) if "{i}" in row.ours else (0,):
            ours, theirs = row.ours.format(i=i), [name.format(i=i) for name in row.theirs]
            form = row.form
            yield f"{ours}weight", WeightSource(tuple(f"{name}{form.weight_name}" for name in theirs), form.weight)
            yield f"{ours}bias", WeightSource(tuple(f"{name}{form.bias_name}" for name in theirs), form.bias)


def _unstacked(source: WeightSource, stacked: frozenset[str], layers: int) -> WeightSource:
    """Source in a stacked tensor, [layers, …], in which big_vision's larger models hold a parameter of all layers."""
    name = source.names[0]
    layer = re.search(r"/encoderblock_(\d+)/", name)
    stacked_name = re.sub(r"/encoderblock_\d+/", "/encoderblock/", name)
    if layer is None or stacked_name not in stacked:
        return source
    number = int(layer[1])

    def make(x: Tensor) -> Tensor:
        if len(x) != layers:  # indexing alone would ignore layers that config.json omits
            raise IndexError(f"{len(x)} layers, expected {layers}")
        return source.make(x[number])

    return WeightSource((stacked_name,), make)
