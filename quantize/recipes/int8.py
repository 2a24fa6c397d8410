"""Eight-bit products: unsigned activations by signed weights with a scale per column.

Activations are unsigned and weights signed because ONNX Runtime's kernels are ten times slower the other way round;
docs/quantization.md has the figures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..sites import Array, Floats, Patch, Site, weights

TINY: Final = np.finfo(np.float32).tiny  # below it a scale has no precision left
_LARGEST: Final = {8: 127, 7: 63}


@dataclass(frozen=True)
class Range:
    """The span of an activation that eight bits cover; values outside it are clipped."""

    low: float
    high: float

    def widened(self, factor: float) -> Range:
        """Both ends that much further from 0."""
        return Range(self.low * factor, self.high * factor)

    @property
    def scale(self) -> np.float32:
        """Real size of one step."""
        return np.float32((max(self.high, 0.0) - min(self.low, 0.0)) / 255 or 1.0)

    @property
    def zero(self) -> np.uint8:
        """The step that stands for 0."""
        return np.uint8(np.clip(np.rint(-min(self.low, 0.0) / self.scale), 0, 255))


def columns(matrix: Floats, bits: int = 8) -> tuple[NDArray[np.int8], Floats]:
    """Symmetric integers of [in, out] and a scale per column, [out]."""
    limit = _LARGEST[bits]
    scale = np.abs(matrix).max(0) / limit
    scale[scale < TINY] = 1
    integers: NDArray[np.int8] = np.rint(matrix / scale).astype(np.int8)
    return integers, scale.astype(np.float32)


def quantized_columns(matrix: Floats) -> Floats:
    """[in, out] as its eight-bit integers stand for it."""
    integers, scale = columns(matrix)
    product: Floats = integers * scale
    return product


def dynamic(graph: ir.Graph, site: Site, bits: int) -> None:
    """Quantize the activation by the range it has at each run; ONNX Runtime fuses the five nodes into one."""
    integers, scale = columns(weights(site.weight), bits)
    patch = Patch(graph, site.node, site.name)
    weight, factor = patch.constant("weight.int8", integers), patch.constant("weight.scale", scale)
    x, x_scale, x_zero = patch.ops("DynamicQuantizeLinear", 3, site.activation)
    summed = patch.op("MatMulInteger", x, weight, x_zero)
    real = patch.op("Cast", summed, to=ir.DataType.FLOAT)
    patch.replace(patch.op("Mul", real, patch.op("Mul", x_scale, factor)))


def scores(graph: ir.Graph, node: ir.Node, name: str, largest: float, bits: int) -> None:
    """Multiply queries and keys in eight bits: queries by the range of each run, keys by one that is known.

    Keys are signed, since two unsigned factors are as slow as two signed ones, and ONNX has no operator that finds a
    signed range while it runs.
    """
    query, key = node.inputs
    patch = Patch(graph, node, name)
    steps = (
        patch.constant("key.scale", np.array(largest / _LARGEST[bits], np.float32)),
        patch.constant("key.zero", np.array(0, np.int8)),
    )
    x, x_scale, x_zero = patch.ops("DynamicQuantizeLinear", 3, query)
    integers = patch.op("QuantizeLinear", key, *steps)
    if bits < 8:
        ends = (np.array(-_LARGEST[bits], np.int8), np.array(_LARGEST[bits], np.int8))
        integers = patch.op("Clip", integers, *(patch.constant(f"key.end{i}", end) for i, end in enumerate(ends)))
    summed = patch.op("MatMulInteger", x, integers, x_zero)
    real = patch.op("Cast", summed, to=ir.DataType.FLOAT)
    patch.replace(patch.op("Mul", real, patch.op("Mul", x_scale, steps[0])))


def static(graph: ir.Graph, site: Site, span: Range, bits: int) -> None:
    """Quantize the activation by a range that is known: QuantizeLinear and DequantizeLinear around a MatMul."""
    integers, scale = columns(weights(site.weight), bits)
    patch = Patch(graph, site.node, site.name)
    steps = (patch.constant("input.scale", np.array(span.scale)), patch.constant("input.zero", np.array(span.zero)))
    x = patch.op("DequantizeLinear", patch.op("QuantizeLinear", site.activation, *steps), *steps)
    parts = (patch.constant("weight.int8", integers), patch.constant("weight.scale", scale))
    zero = patch.constant("weight.zero", np.zeros(scale.shape, np.int8))
    weight = patch.op("DequantizeLinear", *parts, zero, axis=1)
    patch.replace(patch.op("MatMul", x, weight))


def table(graph: ir.Graph, site: Site, bits: int) -> None:
    """Store a table of embeddings in 8 bits with a scale per row, or in float16; rows become float32 when fetched."""
    rows, patch = weights(site.weight), Patch(graph, site.node, site.name)
    if bits == 16:
        fetched = patch.op("Gather", patch.constant("fp16", rows.astype(np.float16)), site.activation)
        patch.replace(patch.op("Cast", fetched, to=ir.DataType.FLOAT))
        return
    integers, scale = columns(rows.T)
    fetched = patch.op("Gather", patch.constant("int8", np.ascontiguousarray(integers.T)), site.activation)
    factor = patch.op("Gather", patch.constant("scale", scale[:, None]), site.activation)
    patch.replace(patch.op("Mul", patch.op("Cast", fetched, to=ir.DataType.FLOAT), factor))


def min_max(x: Array) -> Range:
    """All of it."""
    return Range(float(x.min()), float(x.max()))


def percentile(x: Array, share: float = 1e-5) -> Range:
    """All but a share at either end."""
    low, high = np.quantile(x, (share, 1 - share))
    return Range(float(low), float(high))


def entropy(x: Array, bins: int = 2048, levels: int = 255) -> Range:
    """The span whose 255 levels lose least information (Migacz, 8-bit inference with TensorRT, GTC 2017)."""
    counts, edges = np.histogram(x, bins)
    best, span = np.inf, (0, bins)
    left, right = 0, bins
    while right - left > levels:
        loss = _divergence(counts, left, right, levels)
        if loss < best:
            best, span = loss, (left, right)
        # give up the emptier end, a 128th of the histogram at a time
        step = bins // 128
        if counts[left : left + step].sum() <= counts[right - step : right].sum():
            left += step
        else:
            right -= step
    return Range(float(edges[span[0]]), float(edges[span[1]]))


def _divergence(counts: Array, left: int, right: int, levels: int) -> float:
    """Kullback-Leibler divergence of the clipped histogram from the same in `levels` steps."""
    kept = counts[left:right].astype(np.float64)
    clipped = kept.copy()
    clipped[0] += counts[:left].sum()
    clipped[-1] += counts[right:].sum()
    level = np.arange(len(kept)) * levels // len(kept)
    filled = kept > 0
    sums = np.bincount(level, kept, levels)
    cells = np.bincount(level, filled, levels)
    coarse = np.where(filled, sums[level] / np.maximum(cells[level], 1), 0)
    p, q = clipped / clipped.sum(), coarse / max(coarse.sum(), 1)
    both = (p > 0) & (q > 0)
    missed = p[(p > 0) & (q == 0)].sum()
    return float((p[both] * np.log(p[both] / q[both])).sum() + missed * 10)
