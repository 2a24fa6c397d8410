"""The int8 recipe: eight-bit weights, and activations quantized by their range at each run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import onnx_ir as ir

from ...runtime.artifact.contract import Precision
from ..sites import Exclusions, Site, score_nodes, weight_array
from . import smoothquant
from .base import CalibrationTower, PreparedTower, Recipe, activations, require_at_least
from .int8_nodes import write_dynamic, write_scores
from .rewrite import load_smoothed, products, rewrite_sites, smoothing_notes
from .smoothquant import Smoothing


@dataclass(frozen=True)
class Int8(Recipe):
    """Eight-bit weights, and activations quantized by their range at each run.

    Attributes:
        smoothing: Move outliers of activations into the weights first (SmoothQuant).
        table_bits: Size of the elements of a token table.
        weight_bits: 7 is right on every processor; with 8, AVX2 without VNNI adds pairs of products in 16 bits, which
            overflow (docs/quantization.md).
        scores: Multiply queries and keys in eight bits, too.
        margin: Factor by which the calibrated range of keys is widened, at least 0.5.

    Raises:
        InputError: `margin` is below 0.5 or not finite.
    """

    precision: ClassVar = Precision.INT8

    smoothing: bool = True
    table_bits: Literal[8, 16] = 8
    weight_bits: Literal[7, 8] = 7
    scores: bool = True
    margin: float = 1.25

    def __post_init__(self) -> None:
        require_at_least("margin", self.margin, 0.5)

    @property
    def samples(self) -> int:  # noqa: D102
        return 4 if self.smoothing or self.scores else 0

    def candidates(self, graph: ir.Graph) -> dict[str, int]:
        """Sites, and the products of queries and keys, which have no weights, by node name."""
        return super().candidates(graph) | (dict.fromkeys(score_nodes(graph), 1) if self.scores else {})

    def prepare(self, tower: CalibrationTower) -> PreparedTower:  # noqa: D102
        smoothings, largest_keys = self._calibrate(tower)

        def write(graph: ir.Graph, site: Site) -> None:
            write_dynamic(graph, site, self.weight_bits)

        def derive(exclude: Exclusions) -> ir.Model:
            model = rewrite_sites(load_smoothed(tower, smoothings), exclude, write, self.table_bits)
            for name, node in score_nodes(model.graph).items():
                if name in largest_keys and name not in exclude:
                    write_scores(model.graph, node, name, largest_keys[name], self.weight_bits)
            return model

        return PreparedTower(derive, smoothing_notes(smoothings))

    def _calibrate(self, tower: CalibrationTower) -> tuple[dict[str, Smoothing], dict[str, float]]:
        """Smoothings by name of the activation, and the largest keys by name of the node that multiplies them."""
        graph = tower.load().graph
        groups = smoothquant.smoothable(graph, products(graph)) if self.smoothing else {}
        keys = _key_consumers(graph) if self.scores else {}
        smoothings: dict[str, Smoothing] = {}
        largest: dict[str, float] = {}
        for name, x in activations(tower, {*groups, *keys}):
            if name in groups:
                smoothings[name] = smoothquant.choose(x, [weight_array(site.weight) for site in groups[name]])
            else:
                largest[keys[name]] = self.margin * float(np.abs(x).max())
        return smoothings, largest


def _key_consumers(graph: ir.Graph) -> dict[str, str]:
    """Name of the node that multiplies the keys of an attention, by name of the keys."""
    return {str(node.inputs[1].name): name for name, node in score_nodes(graph).items() if node.inputs[1]}
