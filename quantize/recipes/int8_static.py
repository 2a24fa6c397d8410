"""The int8-static recipe: eight-bit weights, and activations quantized by calibrated ranges."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import onnx_ir as ir

from ...runtime.artifact.contract import Precision
from ..sites import Exclusions, Site, weight_array
from . import smoothquant
from .base import CalibrationTower, PreparedTower, Recipe, require_at_least
from .int8_nodes import write_static
from .ranges import RANGES, Range
from .rewrite import load_smoothed, product_inputs, products, rewrite_sites, smoothing_notes
from .smoothquant import Smoothing


@dataclass(frozen=True)
class Int8Static(Recipe):
    """Eight-bit weights, and activations quantized by calibrated ranges; QuantizeLinear and DequantizeLinear.

    Attributes:
        smoothing: Move outliers of activations into the weights first (SmoothQuant).
        table_bits: Size of the elements of a token table.
        weight_bits: As of `Int8`.
        ranges: All values, all but the outermost, or the range that loses least information.
        margin: Factor by which a calibrated range is widened, at least 0.5.

    Raises:
        InputError: `margin` is below 0.5 or not finite.
    """

    precision: ClassVar = Precision.INT8_STATIC

    smoothing: bool = True
    table_bits: Literal[8, 16] = 8
    weight_bits: Literal[7, 8] = 7
    ranges: Literal["min-max", "percentile", "entropy"] = "min-max"
    margin: float = 1.25

    def __post_init__(self) -> None:
        require_at_least("margin", self.margin, 0.5)

    @property
    def samples(self) -> int:  # noqa: D102
        return 32

    @property
    def needs_user_data(self) -> bool:  # noqa: D102
        return True

    def prepare(self, tower: CalibrationTower) -> PreparedTower:  # noqa: D102
        smoothings, ranges = self._calibrate(tower)

        def write(graph: ir.Graph, site: Site) -> None:
            write_static(graph, site, ranges[str(site.activation.name)], self.weight_bits)

        def derive(exclude: Exclusions) -> ir.Model:
            return rewrite_sites(load_smoothed(tower, smoothings), exclude, write, self.table_bits)

        return PreparedTower(derive, smoothing_notes(smoothings))

    def _calibrate(self, tower: CalibrationTower) -> tuple[dict[str, Smoothing], dict[str, Range]]:
        """Smoothings and ranges, by name of the activation."""
        graph = tower.load().graph
        groups = smoothquant.smoothable(graph, products(graph)) if self.smoothing else {}
        smoothings: dict[str, Smoothing] = {}
        ranges: dict[str, Range] = {}
        for name, x, consumers in product_inputs(tower, graph):
            if name in groups:
                smoothings[name] = smoothquant.choose(x, [weight_array(site.weight) for site in consumers])
                x = x / smoothings[name].factors
            ranges[name] = RANGES[self.ranges](x).widened(self.margin)
        return smoothings, ranges
