"""com.microsoft.MatMulNBits: integer weights in blocks of 32, each with a scale and a zero, and float activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from ...runtime.arrays import ByteArray, FloatArray
from ...runtime.errors import QuantizationError
from ..sites import CONTRIB, Site, replace_node, weight_array
from .int8_nodes import TINY

BLOCK: Final = 32
# Share of the mean diagonal; GPTQ's own code has .01, but a few dozen captions, mostly padding, do better with more.
_DAMPING: Final = 0.05
# 4 computes in int8, which makes few bits fast on a CPU (onnxruntime, docs/ContribOperators.md).
_ACCURACY_LEVEL: Final = 4


@dataclass(frozen=True)
class Packed:
    """Rounded weights: integers uint8 [blocks * 32, out], scales float32 and zeros uint8 [blocks, out]."""

    integers: ByteArray
    scales: FloatArray
    zeros: ByteArray


def round_nearest(matrix: FloatArray, bits: int) -> Packed:
    """Round each weight of a matrix [in, out] to the nearest step of its block."""
    padded = _padded(matrix)
    blocks = padded.reshape(-1, BLOCK, matrix.shape[1])
    scales, zeros = _steps(blocks, bits)
    integers = np.clip(np.rint(blocks / scales[:, None]) + zeros[:, None], 0, 2**bits - 1)
    return Packed(integers.astype(np.uint8).reshape(padded.shape), scales, zeros.astype(np.uint8))


def round_gptq(matrix: FloatArray, bits: int, moments: FloatArray) -> Packed:
    """Round a matrix so that the errors of a column compensate each other (GPTQ, arXiv:2210.17323).

    Args:
        matrix: Weights, [in, out].
        bits: 4 or 8.
        moments: Sum of x x^T over the activations that the matrix multiplies, [in, in].

    Raises:
        QuantizationError: The moments cannot be inverted.
    """
    remaining = _padded(matrix).astype(np.float32)
    size = len(remaining)
    factor = _inverse_factor(moments, size)
    integers = np.empty(remaining.shape, np.uint8)
    scales = np.empty((size // BLOCK, remaining.shape[1]), np.float32)
    zeros = np.empty(scales.shape, np.uint8)
    for number, start in enumerate(range(0, size, BLOCK)):
        stop = start + BLOCK
        scale, zero = (part[0] for part in _steps(remaining[None, start:stop], bits))
        scales[number], zeros[number] = scale, zero
        errors = np.empty((BLOCK, remaining.shape[1]), np.float32)
        for i in range(start, stop):
            integers[i] = np.clip(np.rint(remaining[i] / scale) + zero, 0, 2**bits - 1)
            errors[i - start] = (remaining[i] - (integers[i].astype(np.float32) - zero) * scale) / factor[i, i]
            remaining[i + 1 : stop] -= np.outer(factor[i, i + 1 : stop], errors[i - start])
        remaining[stop:] -= factor[start:stop, stop:].T @ errors
    return Packed(integers, scales, zeros)


def _inverse_factor(moments: FloatArray, size: int) -> FloatArray:
    """Upper Cholesky factor of the inverse of the damped moments: how GPTQ spreads the error of a weight."""
    damped = np.eye(size, dtype=np.float64)
    damped[: len(moments), : len(moments)] = moments
    damped[np.diag_indices(size)] += _DAMPING * float(np.diag(moments).mean()) + np.finfo(np.float32).tiny
    try:
        factor: FloatArray = np.linalg.cholesky(np.linalg.inv(damped)).T.astype(np.float32)
    except np.linalg.LinAlgError as error:
        raise QuantizationError(
            f"GPTQ cannot be fitted to the calibration data ({error}).",
            "Give more calibration data, or round to the nearest step (rounding=nearest).",
        ) from error
    return factor


def _padded(matrix: FloatArray) -> FloatArray:
    missing = -len(matrix) % BLOCK
    return np.pad(matrix, ((0, missing), (0, 0))) if missing else matrix


def _steps(blocks: FloatArray, bits: int) -> tuple[FloatArray, FloatArray]:
    """Scale and zero of each block of [blocks, 32, out], to cover its smallest weight, its largest weight and 0."""
    low, high = np.minimum(blocks.min(1), 0), np.maximum(blocks.max(1), 0)
    scales = ((high - low) / (2**bits - 1)).astype(np.float32)
    scales[scales < TINY] = 1
    return scales, np.clip(np.rint(-low / scales), 0, 2**bits - 1).astype(np.float32)


def write_matmul_nbits(graph: ir.Graph, site: Site, packed: Packed, bits: int) -> None:
    """Replace a site's MatMul by a MatMulNBits; the layout is that of onnxruntime's docs/ContribOperators.md."""
    inputs, outputs = weight_array(site.weight).shape
    blocks = len(packed.scales)
    integers = packed.integers.reshape(blocks, BLOCK, outputs).transpose(2, 0, 1)
    zeros = packed.zeros.T
    if bits == 4:
        integers, zeros = _nibbles(integers), _nibbles(np.pad(zeros, ((0, 0), (0, blocks % 2))))
    parts = {
        f"weight.int{bits}": integers,
        "weight.scale": packed.scales.T.ravel(),
        "weight.zero": zeros.ravel(),
    }
    tape = Tape()
    constants = [
        tape.initializer(ir.Tensor(np.ascontiguousarray(array), name=f"{site.name}.{name}"))
        for name, array in parts.items()
    ]
    attributes = {"K": inputs, "N": outputs, "bits": bits, "block_size": BLOCK, "accuracy_level": _ACCURACY_LEVEL}
    tape.op("MatMulNBits", [site.activation, *constants], attributes, domain=CONTRIB)
    replace_node(graph, site.node, tape, site.name)


def _nibbles(values: ByteArray) -> ByteArray:
    """Pack two values of four bits into each byte, the first in the low half."""
    packed: ByteArray = values[..., 0::2] | np.left_shift(values[..., 1::2], np.uint8(4))
    return packed
