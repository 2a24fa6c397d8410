"""Faults in weights: values that differ from the checkpoint's, or weights in the wrong place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np

from siglip_onnx.runtime import Siglip
from siglip_onnx.runtime.arrays import AnyArray
from siglip_onnx.runtime.artifact.contract import Precision, Role
from siglip_onnx.validate import CheckGroup

from ..conftest import rewrite
from .edits import Change, Graph, in_graph, in_weights, stored
from .fault import SEED, Fault, FaultArea

Weights = dict[str, AnyArray]
_SIDE: Final = 8  # patches in a row, and pixels along a patch
_HEAD: Final = 64  # width of an attention head
_BIT: Final = 25  # third exponent bit of a float32: scales the value by 16 or 1/16


def _another_checkpoint(weights: Weights) -> None:
    """Every weight changes by about one percent, as after more training."""
    rng = np.random.default_rng(SEED)
    for array in weights.values():
        array += 0.01 * array.std() * rng.standard_normal(array.shape, dtype=np.float32)


def _rounded(dtype: Any) -> Callable[[Weights], None]:
    def edit(weights: Weights) -> None:
        for array in weights.values():
            array[...] = array.astype(dtype).astype(np.float32)

    return edit


def _scale_missing(weights: Weights) -> None:
    """The query weights contain the factor 1/sqrt(head width)."""
    third = weights["layers.1.qkv.bias"].shape[0] // 3
    for name in ("weight", "bias"):
        weights[f"layers.1.qkv.{name}"][..., :third] *= np.sqrt(_HEAD)


def _probe_averaged(weights: Weights) -> None:
    """A query of zeros weights all patches equally, so their mean is pooled."""
    weights["pool.query"][...] = 0


def _positions_shifted(weights: Weights) -> None:
    weights["positions"][...] = np.roll(weights["positions"], 1, axis=1)


def _positions_transposed(weights: Weights) -> None:
    grid = weights["positions"].reshape(1, _SIDE, _SIDE, -1)
    weights["positions"][...] = grid.swapaxes(1, 2).reshape(weights["positions"].shape)


def _heads_permuted(weights: Weights) -> None:
    """The values of two heads are swapped, but not in the output projection."""
    for name in ("weight", "bias"):
        qkv = weights[f"layers.2.qkv.{name}"]
        values = qkv[..., 2 * qkv.shape[-1] // 3 :]
        values[..., : 2 * _HEAD] = np.roll(values[..., : 2 * _HEAD], _HEAD, axis=-1)


def _transposed(weights: Weights) -> None:
    weights["layers.3.out.weight"][...] = weights["layers.3.out.weight"].T.copy()


def _bias_dropped(weights: Weights) -> None:
    weights["layers.4.mlp.fc1.bias"][...] = 0


def _patches_flipped(weights: Weights) -> None:
    """A mathematical convolution instead of the cross-correlation that networks compute."""
    kernel = weights["patches.weight"].reshape(3, _SIDE, _SIDE, -1)
    weights["patches.weight"][...] = kernel[:, ::-1, ::-1].reshape(weights["patches.weight"].shape)


def _patches_by_pixel(weights: Weights) -> None:
    """Kernels in channels-last order, patches in channels-first order."""
    kernel = weights["patches.weight"].reshape(3, _SIDE, _SIDE, -1)
    weights["patches.weight"][...] = kernel.transpose(1, 2, 0, 3).reshape(weights["patches.weight"].shape)


def _one_bit(weights: Weights) -> None:
    array = weights["layers.3.mlp.fc2.weight"]
    largest = np.unravel_index(np.abs(array).argmax(), array.shape)
    array.view(np.uint32)[largest] ^= 1 << _BIT


def _norms_swapped(weights: Weights) -> None:
    """The checkpoint's names are mapped wrongly: two LayerNorms of a layer are swapped."""
    for name in ("weight", "bias"):
        one, other = weights[f"layers.0.norm1.{name}"], weights[f"layers.0.norm2.{name}"]
        one[...], other[...] = other.copy(), one.copy()


def _nan_in_one_row(folder: Path) -> None:
    """The embedding of a token that occurs in only one text is NaN."""
    token = Siglip.load(folder).tokenizer.pieces("हिन्दी")[-1]
    with stored(folder, Role.TEXT) as weights:
        weights["tokens"][token] = np.nan


def _offsets_swapped(graph: Graph) -> None:
    """The graph reads two matrices at each other's offsets."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    one, other = (tensors[f"layers.{layer}.mlp.fc1.weight"].external_data for layer in (1, 2))
    offsets = [next(entry for entry in tensor if entry.key == "offset") for tensor in (one, other)]
    offsets[0].value, offsets[1].value = offsets[1].value, offsets[0].value


def _data(folder: Path) -> Path:
    return folder / "onnx" / "vision_model.onnx_data"


def _damaged(folder: Path) -> None:
    """One bit of the data file flips after it was hashed."""
    data = bytearray(_data(folder).read_bytes())
    data[len(data) // 2] ^= 1
    _data(folder).write_bytes(data)


def _truncated(folder: Path) -> None:
    """A download that ended early and was hashed afterwards."""
    data = _data(folder).read_bytes()
    _data(folder).write_bytes(data[: len(data) // 2])
    rewrite(folder)


def _fault(
    name: str,
    make: Change,
    role: Role,
    area: FaultArea = FaultArea.WEIGHTS,
    caught_by: CheckGroup = CheckGroup.EMBEDDINGS,
) -> Fault:
    return Fault(name, area, caught_by, make, tower=role)


FAULTS: Final = (
    _fault(
        "text tower of another checkpoint", in_weights(Role.TEXT, _another_checkpoint), Role.TEXT, FaultArea.CHECKPOINT
    ),
    _fault(
        "weights rounded to bfloat16",
        in_weights(Role.VISION, _rounded(ml_dtypes.bfloat16)),
        Role.VISION,
        FaultArea.CHECKPOINT,
    ),
    _fault(
        "weights rounded to float16", in_weights(Role.VISION, _rounded(np.float16)), Role.VISION, FaultArea.CHECKPOINT
    ),
    _fault("two LayerNorms swapped", in_weights(Role.TEXT, _norms_swapped), Role.TEXT, FaultArea.CHECKPOINT),
    _fault("attention scale missing in one layer", in_weights(Role.VISION, _scale_missing), Role.VISION),
    _fault("MAP probe averaged", in_weights(Role.VISION, _probe_averaged), Role.VISION),
    _fault("positions shifted by one", in_weights(Role.TEXT, _positions_shifted), Role.TEXT),
    _fault("row and column positions swapped", in_weights(Role.VISION, _positions_transposed), Role.VISION),
    _fault("heads permuted in one layer", in_weights(Role.VISION, _heads_permuted), Role.VISION),
    _fault("one square weight transposed", in_weights(Role.VISION, _transposed), Role.VISION),
    _fault("one bias dropped", in_weights(Role.VISION, _bias_dropped), Role.VISION),
    _fault("patch kernels flipped", in_weights(Role.VISION, _patches_flipped), Role.VISION),
    _fault("patch kernels read pixel by pixel", in_weights(Role.VISION, _patches_by_pixel), Role.VISION),
    _fault("one bit of one weight flipped", in_weights(Role.VISION, _one_bit), Role.VISION),
    _fault("one NaN row", _nan_in_one_row, Role.TEXT),
    _fault("offsets of two weights swapped", in_graph(Role.VISION, _offsets_swapped), Role.VISION),
    Fault("one bit of a data file flipped", FaultArea.WEIGHTS, CheckGroup.CONTRACT, _damaged),
    _fault("data file truncated to half", _truncated, Role.VISION, caught_by=CheckGroup.CONTRACT),
)

# Faults in the weights of the variants fp16 and int8.


def _overflow(weights: Weights) -> None:
    """A channel is scaled by 2^16 and its readers by 2^-16: the same function in float32, an overflow in float16."""
    values = weights["layers.4.qkv.bias"].shape[0] * 2 // 3
    factor = np.float32(2.0**16)
    for name in ("weight", "bias"):
        column = weights[f"layers.4.qkv.{name}"][..., values]
        column[...] = (column.astype(np.float32) * factor).astype(column.dtype)
    row = weights["layers.4.out.weight"][0]
    row[...] = (row.astype(np.float32) / factor).astype(row.dtype)


def _scale_doubled(weights: Weights) -> None:
    scale = weights["pool.mlp.fc2.weight.scale"]
    scale[np.abs(scale).argmax()] *= 2


def _zero_row(weights: Weights) -> None:
    """The int8 weights of one head's queries are zero."""
    weights["layers.2.qkv.weight.int8"][:, :_HEAD] = 0


QUANTIZED: Final = (
    Fault(
        "one channel overflows in float16",
        FaultArea.QUANTIZATION,
        CheckGroup.BATCH,  # the first check group that compares rows, where NaN equals nothing
        in_weights(Role.VISION, _overflow, Precision.FP16),
        precision=Precision.FP16,
    ),
    Fault(
        "scale of one int8 channel doubled",
        FaultArea.QUANTIZATION,
        CheckGroup.EMBEDDINGS,
        in_weights(Role.VISION, _scale_doubled, Precision.INT8),
        precision=Precision.INT8,
    ),
    Fault(
        "int8 weights of one head zeroed",
        FaultArea.QUANTIZATION,
        CheckGroup.EMBEDDINGS,
        in_weights(Role.VISION, _zero_row, Precision.INT8),
        precision=Precision.INT8,
    ),
)
