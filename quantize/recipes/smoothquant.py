"""SmoothQuant (arXiv:2211.10438): outliers of an activation moved into the weights behind it, before quantizing.

A LayerNormalization's gain and bias are divided by a factor per channel and the rows of the following weights
multiplied by it, so that the graph computes the same and keeps its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx_ir as ir

from ..sites import Array, Floats, Site, lazy
from .int8 import quantized_columns

# Strengths to choose among, the mildest first; the paper's alpha, where None is to leave the activation alone.
STRENGTHS: Final = (None, 0.5, 0.6, 0.4, 0.7, 0.3, 0.8)
# A later strength must make the error this much smaller: small gains on a few samples do not carry over to others.
_WORTH: Final = 0.7
_ROWS: Final = 256  # of the activation, and columns of the weights, by which strengths are compared
_COLUMNS: Final = 512
_LEAST: Final = 1e-6  # a channel that is always zero would give a factor of zero


@dataclass(frozen=True)
class Smoothing:
    """How one activation is smoothed: by which strength, None for not at all, and factors float32 [width]."""

    strength: float | None
    factors: Floats


def smoothable(graph: ir.Graph, places: dict[str, Site]) -> dict[str, list[Site]]:
    """Activations that a LayerNormalization gives to sites and to nobody else, with those sites."""
    groups: dict[str, list[Site]] = {}
    for site in places.values():
        value = site.activation
        producer = value.producer()
        if producer is not None and producer.op_type == "LayerNormalization" and value not in graph.outputs:
            groups.setdefault(str(value.name), []).append(site)
    return {name: group for name, group in groups.items() if len(group) == len(group[0].activation.uses())}


def find(activation: Array, behind: list[Floats]) -> Smoothing:
    """The strength by which int8 products of this activation come out best.

    Args:
        activation: float32 [..., width].
        behind: The weights that it is multiplied by, each [width, out].
    """
    x = activation.reshape(-1, activation.shape[-1])
    low, high = x.min(0), x.max(0)
    largest = np.maximum(-low, high)
    matrix = np.concatenate([w[:, :: max(1, w.shape[1] // _COLUMNS)] for w in behind], axis=1)
    sample = x[:: max(1, len(x) // _ROWS)]
    wanted = sample @ matrix
    best: tuple[float, Smoothing] | None = None
    for strength in STRENGTHS:
        factors = _factors(largest, matrix, strength)
        span = ((low / factors).min(), (high / factors).max())
        found = _uint8((sample / factors).astype(np.float32), *span) @ quantized_columns(matrix * factors[:, None])
        error = float(np.square(found - wanted).mean())
        if best is None or error < _WORTH * best[0]:
            best = (error, Smoothing(strength, factors))
    assert best is not None  # noqa: S101  there is more than one strength
    return best[1]


def fold(graph: ir.Graph, places: dict[str, Site], smoothings: dict[str, Smoothing]) -> None:
    """Change gains, biases and weights of a fresh graph; nothing is computed before the graph is written."""
    for name, sites in smoothable(graph, places).items():
        smoothing = smoothings.get(name)
        if smoothing is None or smoothing.strength is None:
            continue
        norm = sites[0].activation.producer()
        assert norm is not None  # noqa: S101  see smoothable
        for index in (1, 2):
            _change(graph, norm, index, np.reciprocal(smoothing.factors))
        for site in sites:
            _change(graph, site.node, 1, smoothing.factors[:, None])


def _change(graph: ir.Graph, node: ir.Node, index: int, factors: Floats) -> None:
    old = node.inputs[index]
    assert old is not None  # noqa: S101  gain, bias and weights are always there
    new = lazy(graph, str(old.name), old, ir.DataType.FLOAT, lambda array: (array * factors).astype(np.float32))
    node.replace_input_with(index, new)


def _factors(largest: Floats, matrix: Floats, strength: float | None) -> Floats:
    if strength is None:
        return np.ones_like(largest)
    x, w = np.maximum(largest, _LEAST), np.maximum(np.abs(matrix).max(1), _LEAST)
    factors: Floats = (x**strength / w ** (1 - strength)).astype(np.float32)
    return factors


def _uint8(x: Floats, low: float, high: float) -> Floats:
    """`x` as DynamicQuantizeLinear and back would give it."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = (high - low) / 255 or 1.0
    zero = np.rint(-low / scale)
    rounded: Floats = ((np.clip(np.rint(x / scale) + zero, 0, 255) - zero) * scale).astype(np.float32)
    return rounded
