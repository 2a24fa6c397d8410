"""The int8-weights and int4 recipes: integer weights in blocks of 32, float32 activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Literal

import numpy as np
import onnx_ir as ir

from ...runtime.arrays import FloatArray
from ...runtime.artifact.contract import Precision
from ..sites import Exclusions, Site, weight_array
from .base import CalibrationTower, PreparedTower, Recipe
from .matmul_nbits import Packed, round_gptq, round_nearest, write_matmul_nbits
from .rewrite import product_inputs, rewrite_sites

_TOKENS_PER_INPUT: Final = 4  # tokens that GPTQ learns from, for each input of a matrix


@dataclass(frozen=True)
class WeightOnly(Recipe):
    """Integer weights in blocks of 32 and float activations, for a small download and little memory.

    Attributes:
        rounding: Each weight to the nearest step, or so that the errors of a column compensate each other (GPTQ).
        table_bits: Size of the elements of a token table.
    """

    bits: ClassVar[int]

    rounding: Literal["nearest", "gptq"] = "nearest"
    table_bits: Literal[8, 16] = 8

    @property
    def samples(self) -> int:  # noqa: D102
        return 64 if self.needs_user_data else 0

    @property
    def needs_user_data(self) -> bool:  # noqa: D102
        return self.rounding == "gptq"

    def prepare(self, tower: CalibrationTower) -> PreparedTower:  # noqa: D102
        fitted = self._fit(tower) if self.rounding == "gptq" else {}

        def write(graph: ir.Graph, site: Site) -> None:
            packed = fitted[site.name] if fitted else round_nearest(weight_array(site.weight), self.bits)
            write_matmul_nbits(graph, site, packed, self.bits)

        def write_excluded(graph: ir.Graph, site: Site) -> None:
            write_matmul_nbits(graph, site, round_nearest(weight_array(site.weight), 8), 8)

        def derive(exclude: Exclusions) -> ir.Model:
            excluded = write_excluded if self.bits < 8 else None
            return rewrite_sites(tower.load(), exclude, write, self.table_bits, excluded)

        return PreparedTower(derive, {})

    def _fit(self, tower: CalibrationTower) -> dict[str, Packed]:
        """Weights rounded by GPTQ, by site."""
        fitted = {}
        for _, x, consumers in product_inputs(tower, tower.load().graph):
            moments = _second_moments(x)
            for site in consumers:
                fitted[site.name] = round_gptq(weight_array(site.weight), self.bits, moments)
        return fitted


@dataclass(frozen=True)
class Int8Weights(WeightOnly):
    """Eight-bit weights; an excluded product stays float32, an excluded table becomes float16."""

    precision: ClassVar = Precision.INT8_WEIGHTS
    bits: ClassVar = 8


@dataclass(frozen=True)
class Int4(WeightOnly):
    """Four-bit weights; an excluded product has eight bits, an excluded table becomes float16."""

    precision: ClassVar = Precision.INT4
    bits: ClassVar = 4

    rounding: Literal["nearest", "gptq"] = "gptq"


def _second_moments(x: FloatArray) -> FloatArray:
    """Sum of x x^T over tokens drawn from all samples, [width, width]."""
    rows = x.reshape(-1, x.shape[-1])
    limit = _TOKENS_PER_INPUT * rows.shape[1]
    if len(rows) > limit:
        rows = rows[np.random.default_rng(0).choice(len(rows), limit, replace=False)]
    return np.asarray(rows.T @ rows)
