"""Integer weights with float activations: com.microsoft.MatMulNBits, blocks of 32 with a scale and a zero each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...runtime.errors import QuantizationError
from ..sites import CONTRIB, Floats, Patch, Site, weights
from .int8 import TINY

BLOCK: Final = 32
# Of the mean diagonal; GPTQ's own code has .01, but a few dozen captions, mostly padding, do better with more.
_DAMPING: Final = 0.05
# 4 computes in int8, which is what makes few bits fast on a CPU (onnxruntime, docs/ContribOperators.md).
_ACCURACY_LEVEL: Final = 4


@dataclass(frozen=True)
class Packed:
    """Integers uint8 [blocks * 32, out], scales float32 and zeros uint8 [blocks, out]."""

    integers: NDArray[np.uint8]
    scales: Floats
    zeros: NDArray[np.uint8]


def nearest(matrix: Floats, bits: int) -> Packed:
    """Each weight of [in, out] rounded to the nearest step of its block."""
    padded = _padded(matrix)
    blocks = padded.reshape(-1, BLOCK, matrix.shape[1])
    scales, zeros = _steps(blocks, bits)
    integers = np.clip(np.rint(blocks / scales[:, None]) + zeros[:, None], 0, 2**bits - 1)
    return Packed(integers.astype(np.uint8).reshape(padded.shape), scales, zeros.astype(np.uint8))


def gptq(matrix: Floats, bits: int, moments: Floats) -> Packed:
    """Rounded so that the errors of a column make up for each other (arXiv:2210.17323).

    Args:
        matrix: [in, out].
        bits: 4 or 8.
        moments: Sum of x x^T over the activations that it will be multiplied by, [in, in].
    """
    todo = _padded(matrix).astype(np.float32)
    size = len(todo)
    spread = _spread(moments, size)
    integers = np.empty(todo.shape, np.uint8)
    scales = np.empty((size // BLOCK, todo.shape[1]), np.float32)
    zeros = np.empty(scales.shape, np.uint8)
    for number, start in enumerate(range(0, size, BLOCK)):
        stop = start + BLOCK
        scale, zero = (part[0] for part in _steps(todo[None, start:stop], bits))
        scales[number], zeros[number] = scale, zero
        errors = np.empty((BLOCK, todo.shape[1]), np.float32)
        for i in range(start, stop):
            integers[i] = np.clip(np.rint(todo[i] / scale) + zero, 0, 2**bits - 1)
            errors[i - start] = (todo[i] - (integers[i].astype(np.float32) - zero) * scale) / spread[i, i]
            todo[i + 1 : stop] -= np.outer(spread[i, i + 1 : stop], errors[i - start])
        todo[stop:] -= spread[start:stop, stop:].T @ errors
    return Packed(integers, scales, zeros)


def _spread(moments: Floats, size: int) -> Floats:
    """Upper Cholesky factor of the damped moments' inverse: how the error of a weight is handed on."""
    damped = np.eye(size, dtype=np.float64)
    damped[: len(moments), : len(moments)] = moments
    damped[np.diag_indices(size)] += _DAMPING * float(np.diag(moments).mean()) + np.finfo(np.float32).tiny
    try:
        factor: Floats = np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)
    except np.linalg.LinAlgError as error:
        raise QuantizationError(
            f"GPTQ cannot be fitted to the calibration data ({error}).",
            "Give more of it, or round to the nearest with --set rounding=nearest.",
        ) from error
    return factor


def _padded(matrix: Floats) -> Floats:
    missing = -len(matrix) % BLOCK
    return np.pad(matrix, ((0, missing), (0, 0))) if missing else matrix


def _steps(blocks: Floats, bits: int) -> tuple[Floats, Floats]:
    """Scale and zero of each block [blocks, 32, out], so that its smallest and largest weight and 0 are covered."""
    low, high = np.minimum(blocks.min(1), 0), np.maximum(blocks.max(1), 0)
    scales = ((high - low) / (2**bits - 1)).astype(np.float32)
    scales[scales < TINY] = 1
    return scales, np.clip(np.rint(-low / scales), 0, 2**bits - 1).astype(np.float32)


def write(graph: ir.Graph, site: Site, packed: Packed, bits: int) -> None:
    """Put a MatMulNBits in a site's place; the layout is that of onnxruntime's docs/ContribOperators.md."""
    inputs, outputs = weights(site.weight).shape
    blocks = len(packed.scales)
    integers = packed.integers.reshape(blocks, BLOCK, outputs).transpose(2, 0, 1)
    zeros = packed.zeros.T
    if bits == 4:
        integers, zeros = _nibbles(integers), _nibbles(np.pad(zeros, ((0, 0), (0, blocks % 2))))
    patch = Patch(graph, site.node, site.name)
    parts = {
        f"weight.int{bits}": integers,
        "weight.scale": packed.scales.T.ravel(),
        "weight.zero": zeros.ravel(),
    }
    constants = [patch.constant(name, np.ascontiguousarray(array)) for name, array in parts.items()]
    shape = {"K": inputs, "N": outputs, "bits": bits, "block_size": BLOCK}
    patch.replace(
        patch.op("MatMulNBits", site.activation, *constants, domain=CONTRIB, **shape, accuracy_level=_ACCURACY_LEVEL)
    )


def _nibbles(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two values of four bits a byte, the first in the low half."""
    packed: NDArray[np.uint8] = values[..., 0::2] | np.left_shift(values[..., 1::2], np.uint8(4))
    return packed
