"""What the integer recipes share: the products of a tower, and one pass that rewrites every site."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import onnx_ir as ir

from ...runtime.arrays import FloatArray
from ..sites import Exclusions, Site, remove_unused, sites
from . import smoothquant
from .base import CalibrationTower, activations
from .int8_nodes import write_table
from .smoothquant import Smoothing

WriteSite = Callable[[ir.Graph, Site], None]


def products(graph: ir.Graph) -> dict[str, Site]:
    """Return the sites that are products, by name."""
    return {name: site for name, site in sites(graph).items() if not site.is_table}


def product_inputs(tower: CalibrationTower, graph: ir.Graph) -> Iterator[tuple[str, FloatArray, list[Site]]]:
    """Yield each activation that is multiplied by weights: its name, float32 [samples, ..., width], and its sites."""
    consumers: dict[str, list[Site]] = {}
    for site in products(graph).values():
        consumers.setdefault(str(site.activation.name), []).append(site)
    for name, x in activations(tower, consumers):
        yield name, x, consumers[name]


def rewrite_sites(
    model: ir.Model, exclude: Exclusions, write: WriteSite, table_bits: int, write_excluded: WriteSite | None = None
) -> ir.Model:
    """Rewrite every site of a tower in place.

    Args:
        model: An fp32 tower.
        exclude: Sites to leave at higher precision; an excluded table becomes float16.
        write: Rewrites a product.
        table_bits: Size of the elements of a table.
        write_excluded: Rewrites an excluded product; None leaves it float32.
    """
    for name, site in sites(model.graph).items():
        if site.is_table:
            write_table(model.graph, site, 16 if name in exclude else table_bits)
        elif name not in exclude:
            write(model.graph, site)
        elif write_excluded is not None:
            write_excluded(model.graph, site)
    return remove_unused(model)


def load_smoothed(tower: CalibrationTower, smoothings: dict[str, Smoothing]) -> ir.Model:
    """Return a fresh copy of a tower with outliers of activations moved into the weights."""
    model = tower.load()
    smoothquant.fold(model.graph, products(model.graph), smoothings)
    return model


def smoothing_notes(smoothings: dict[str, Smoothing]) -> dict[str, str]:
    """Describe the smoothing of each activation that is smoothed."""
    return {name: f"smoothed by {s.alpha}" for name, s in smoothings.items() if s.alpha is not None}
