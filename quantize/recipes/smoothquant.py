"""SmoothQuant (arXiv:2211.10438): outliers of an activation are moved into the weights that follow, before quantizing.

A LayerNormalization's gain and bias are divided by a factor per channel, and the rows of the following weights are
multiplied by it, so that the graph computes the same and keeps its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from ...runtime.arrays import FloatArray
from ..sites import Site, initializer, lazy_tensor, tensor_of
from .int8_nodes import dequantized_columns

# The paper's alpha, the mildest first; None leaves the activation alone.
ALPHAS: Final = (None, 0.5, 0.6, 0.4, 0.7, 0.3, 0.8)
# A later alpha must make the error this much smaller: small gains on a few samples do not carry over to others.
_REQUIRED_GAIN: Final = 0.7
_ROWS: Final = 256  # rows of the activation by which alphas are compared
_COLUMNS: Final = 512  # columns of each weight by which alphas are compared
_SMALLEST: Final = 1e-6  # a channel that is always zero would give a factor of zero


@dataclass(frozen=True)
class Smoothing:
    """Smoothing of one activation.

    Attributes:
        alpha: The paper's alpha; None if the activation is left alone.
        factors: Divisors of the activation's channels, float32 [width].
    """

    alpha: float | None
    factors: FloatArray


def smoothable(graph: ir.Graph, products: dict[str, Site]) -> dict[str, list[Site]]:
    """Activations that come from a LayerNormalization and are used by products alone, with the sites of these."""
    groups: dict[str, list[Site]] = {}
    for site in products.values():
        value = site.activation
        producer = value.producer()
        if producer is not None and producer.op_type == "LayerNormalization" and value not in graph.outputs:
            groups.setdefault(str(value.name), []).append(site)
    return {name: group for name, group in groups.items() if len(group) == len(group[0].activation.uses())}


def choose(activation: FloatArray, weights: list[FloatArray]) -> Smoothing:
    """Return the smoothing with which the int8 products of an activation have the smallest error.

    Args:
        activation: float32 [..., width].
        weights: The weights that the activation is multiplied by, each [width, out].
    """
    x = activation.reshape(-1, activation.shape[-1])
    low, high = x.min(0), x.max(0)
    matrix = np.concatenate([w[:, :: max(1, w.shape[1] // _COLUMNS)] for w in weights], axis=1)
    sample = x[:: max(1, len(x) // _ROWS)]
    expected = sample @ matrix
    smallest, best = np.inf, Smoothing(None, np.ones_like(low))
    for alpha in ALPHAS:
        factors = _factors(np.maximum(-low, high), matrix, alpha)
        quantized = _uint8((sample / factors).astype(np.float32), (low / factors).min(), (high / factors).max())
        actual = quantized @ dequantized_columns(matrix * factors[:, None])
        error = float(np.square(actual - expected).mean())
        if alpha is None or error < _REQUIRED_GAIN * smallest:
            smallest, best = error, Smoothing(alpha, factors)
    return best


def fold(graph: ir.Graph, products: dict[str, Site], smoothings: dict[str, Smoothing]) -> None:
    """Change the gains, biases and weights of a graph; nothing is computed until the graph is written."""
    for name, group in smoothable(graph, products).items():
        smoothing = smoothings.get(name)
        if smoothing is None or smoothing.alpha is None:
            continue
        norm = group[0].activation.producer()
        assert norm is not None  # noqa: S101  see smoothable
        for index in (1, 2):
            _multiply(graph, norm, index, np.reciprocal(smoothing.factors))
        for site in group:
            _multiply(graph, site.node, 1, smoothing.factors[:, None])


def _multiply(graph: ir.Graph, node: ir.Node, index: int, factors: FloatArray) -> None:
    """Replace an initializer of a node by its product with factors."""
    old = node.inputs[index]
    assert old is not None  # noqa: S101  gain, bias and weights are always there
    name = str(old.name)
    if graph.initializers[name] is old:
        tensor = lazy_tensor(
            name, tensor_of(old), ir.DataType.FLOAT, lambda array: (array * factors).astype(np.float32)
        )
        graph.initializers[name] = initializer(tensor)
    node.replace_input_with(index, graph.initializers[name])


def _factors(largest: FloatArray, matrix: FloatArray, alpha: float | None) -> FloatArray:
    if alpha is None:
        return np.ones_like(largest)
    x, w = np.maximum(largest, _SMALLEST), np.maximum(np.abs(matrix).max(1), _SMALLEST)
    factors: FloatArray = (x**alpha / w ** (1 - alpha)).astype(np.float32)
    return factors


def _uint8(x: FloatArray, low: float, high: float) -> FloatArray:
    """Return `x` as DynamicQuantizeLinear followed by its inverse gives it."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255 or 1.0
    zero = np.rint(-low / scale)
    rounded: FloatArray = ((np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale).astype(np.float32)
    return rounded
