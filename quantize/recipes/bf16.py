"""The bf16 recipe: weights stored in bfloat16, each cast to float32 before its use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import ml_dtypes
import onnx_ir as ir

from ...runtime.artifact.contract import Precision
from ..sites import Exclusions, Site, initializer, lazy_tensor, remove_unused, sites, tensor_of
from .base import CalibrationTower, PreparedTower, Recipe


@dataclass(frozen=True)
class Bf16(Recipe):
    """bfloat16 weights in half the space; a provider with bfloat16 arithmetic computes in it."""

    precision: ClassVar = Precision.BF16

    def prepare(self, tower: CalibrationTower) -> PreparedTower:  # noqa: D102
        def derive(exclude: Exclusions) -> ir.Model:
            model = tower.load()
            for name, site in sites(model.graph).items():
                if name not in exclude:
                    _store_in_bfloat16(model.graph, site)
            return remove_unused(model)

        return PreparedTower(derive, {})


def _store_in_bfloat16(graph: ir.Graph, site: Site) -> None:
    """Replace a site's weight by its bfloat16 copy and a Cast back to float32."""
    old, name = site.weight, str(site.weight.name)
    stored = initializer(
        lazy_tensor(name, tensor_of(old), ir.DataType.BFLOAT16, lambda array: array.astype(ml_dtypes.bfloat16))
    )
    output = ir.val(f"{name}.float", ir.DataType.FLOAT, old.shape)
    cast = ir.node("Cast", [stored], {"to": ir.DataType.FLOAT}, outputs=[output], name=f"{site.name}/Cast")
    ir.convenience.replace_all_uses_with(old, output)
    old.name = f"{name}.before"  # frees the name for the copy
    graph.initializers[name] = stored
    graph.insert_before(site.node, [cast])
