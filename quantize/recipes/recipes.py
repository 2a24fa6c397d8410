"""How each precision is made: frozen options, and what calibration has to find out before a tower can be derived."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

import numpy as np
import onnx_ir as ir

from ...runtime.artifact.contract import Precision
from ...runtime.errors import InputError
from ..sites import Array, Floats, Site, drop_unused, score_nodes, sites, weights
from . import int8, smoothquant, weight_only
from .base import CalibrationTower, Keep, PreparedTower, Recipe, module, seen, sensible
from .cuda_fusion import fuse
from .fp16 import bfloat16_weights, lower, out_of_range, touched
from .smoothquant import Smoothing
from .weight_only import Packed

Write = Callable[[ir.Graph, Site], None]
Rewrite = Callable[[ir.Graph, Callable[[ir.Node], bool]], object]

_TOKENS: Final = 4  # for each input of a matrix, by which GPTQ learns how its inputs go together
_RANGES: Final = {"min-max": int8.min_max, "percentile": int8.percentile, "entropy": int8.entropy}


@dataclass(frozen=True)
class Fp16(Recipe):
    """Half precision, float32 inputs and outputs; a node whose activations come near 65,504 stays float32.

    Attributes:
        headroom: How many times larger an activation may become than calibration has seen it.
        float32: Operators that always stay float32.
    """

    precision: ClassVar = Precision.FP16

    headroom: float = 8.0
    float32: tuple[str, ...] = ()

    @property
    def samples(self) -> int:  # noqa: D102
        return 8

    def candidates(self, graph: ir.Graph) -> dict[str, int]:
        """Modules, such as layers.0.norm1; layers.0 itself is its attention and the two residual sums."""
        return _modules(graph)

    def __post_init__(self) -> None:
        sensible("headroom", self.headroom, 0)

    def prepare(self, tower: CalibrationTower) -> PreparedTower:  # noqa: D102
        model = tower.load()
        if unknown := set(self.float32).difference(node.op_type for node in model.graph):
            raise InputError(f"No tower has an operator {min(unknown)} to leave float32.", "Name one such as Softmax.")
        floats = {name for node in model.graph for name in touched(node)}
        largest = {name: float(x.max()) for name, x in seen(tower, floats, _largest)}
        unsafe = {name for name, value in largest.items() if out_of_range(value, self.headroom)}
        constants = {name: float(np.abs(weights(v)).max()) for name, v in _parameters(model.graph).items()}
        unsafe |= {name for name, value in constants.items() if out_of_range(value)}
        largest |= constants

        def reasons(node: ir.Node) -> set[str]:
            return unsafe & {*touched(node), *(str(value.name) for value in node.inputs if value is not None)}

        def named(node: ir.Node, keep: Keep) -> bool:
            return module(node) in keep or node.op_type in self.float32

        def derive(keep: Keep, rewrite: Rewrite = lambda graph, stays: None) -> ir.Model:
            model = tower.load()
            plain = {node for node in model.graph if named(node, keep) or reasons(node)}
            rewrite(model.graph, plain.__contains__)
            lower(model.graph, plain.__contains__)
            return model

        worst = {str(node.name): max(reasons(node), key=largest.__getitem__) for node in model.graph if reasons(node)}
        notes = {name: f"float32: {value} reaches {largest[value]:.4g}" for name, value in worst.items()}
        return PreparedTower(derive, notes, fused=lambda keep: derive(keep, fuse))


@dataclass(frozen=True)
class Bf16(Recipe):
    """bfloat16 weights in half the space; the arithmetic is the provider's."""

    precision: ClassVar = Precision.BF16

    def prepare(self, tower: CalibrationTower) -> PreparedTower:  # noqa: D102
        def derive(keep: Keep) -> ir.Model:
            model = tower.load()
            bfloat16_weights(model.graph, keep)
            return model

        return PreparedTower(derive, {})


@dataclass(frozen=True)
class Int8(Recipe):
    """Eight-bit weights, and activations quantized by the range that they have at each run.

    Attributes:
        smoothing: Move outliers of activations into the weights first.
        table_bits: Size of a token embedding's elements.
        weight_bits: 7 is right on every processor; with 8, AVX2 without VNNI adds pairs of products in 16 bits, which
            overflow (docs/quantization.md).
        scores: Multiply queries and keys in eight bits, too.
        margin: By how much the range of keys is widened, for what calibration has not seen.
    """

    precision: ClassVar = Precision.INT8

    smoothing: bool = True
    table_bits: Literal[8, 16] = 8
    weight_bits: Literal[7, 8] = 7
    scores: bool = True
    margin: float = 1.25

    def __post_init__(self) -> None:
        sensible("margin", self.margin, 0.5)

    @property
    def samples(self) -> int:  # noqa: D102
        return 4 if self.smoothing or self.scores else 0

    def candidates(self, graph: ir.Graph) -> dict[str, int]:
        """Sites, and the products of queries and keys, which have no weights, by the name of their node."""
        return super().candidates(graph) | (dict.fromkeys(score_nodes(graph), 1) if self.scores else {})

    def prepare(self, tower: CalibrationTower) -> PreparedTower:  # noqa: D102
        graph = tower.load().graph
        groups = smoothquant.smoothable(graph, _products(graph)) if self.smoothing else {}
        keys = _keys(graph) if self.scores else {}
        found: dict[str, Smoothing] = {}
        largest: dict[str, float] = {}
        for name, x in seen(tower, {*groups, *keys}):
            if name in groups:
                found[name] = smoothquant.find(x, [weights(site.weight) for site in groups[name]])
            else:
                largest[keys[name]] = self.margin * float(np.abs(x).max())

        def derive(keep: Keep) -> ir.Model:
            def write(graph: ir.Graph, site: Site) -> None:
                int8.dynamic(graph, site, self.weight_bits)

            model = _quantized(tower, found, keep, write, self.table_bits)
            for name, node in score_nodes(model.graph).items():
                if name in largest and name not in keep:
                    int8.scores(model.graph, node, name, largest[name], self.weight_bits)
            return model

        return PreparedTower(derive, _told(found))


@dataclass(frozen=True)
class Int8Static(Recipe):
    """Eight-bit weights, and activations quantized by ranges found in calibration; QuantizeLinear/DequantizeLinear.

    Attributes:
        smoothing: Move outliers of activations into the weights first.
        table_bits: Size of a token embedding's elements.
        weight_bits: As of `Int8`.
        ranges: How a range is found: all that was seen, all but the outermost, or where least information is lost.
        margin: By how much it is widened, for what calibration has not seen.
    """

    precision: ClassVar = Precision.INT8_STATIC

    smoothing: bool = True
    table_bits: Literal[8, 16] = 8
    weight_bits: Literal[7, 8] = 7
    ranges: Literal["min-max", "percentile", "entropy"] = "min-max"
    margin: float = 1.25

    def __post_init__(self) -> None:
        sensible("margin", self.margin, 0.5)

    @property
    def samples(self) -> int:  # noqa: D102
        return 32

    @property
    def fitted(self) -> bool:  # noqa: D102
        return True

    def prepare(self, tower: CalibrationTower) -> PreparedTower:  # noqa: D102
        found: dict[str, Smoothing] = {}
        spans: dict[str, int8.Range] = {}
        graph = tower.load().graph
        groups = smoothquant.smoothable(graph, _products(graph)) if self.smoothing else {}
        for name, x, behind in _activations(tower, graph):
            if name in groups:
                found[name] = smoothquant.find(x, [weights(site.weight) for site in behind])
                x = x / found[name].factors
            spans[name] = _RANGES[self.ranges](x).widened(self.margin)

        def derive(keep: Keep) -> ir.Model:
            def write(graph: ir.Graph, site: Site) -> None:
                int8.static(graph, site, spans[str(site.activation.name)], self.weight_bits)

            return _quantized(tower, found, keep, write, self.table_bits)

        return PreparedTower(derive, _told(found))


@dataclass(frozen=True)
class WeightOnly(Recipe):
    """Integer weights in blocks of 32, float activations: for the size of the download and of memory.

    Attributes:
        rounding: Each weight to the nearest step, or so that errors make up for each other (GPTQ).
        table_bits: Size of a token embedding's elements.
    """

    bits: ClassVar[int]

    rounding: Literal["nearest", "gptq"] = "nearest"
    table_bits: Literal[8, 16] = 8

    @property
    def samples(self) -> int:  # noqa: D102
        return 64 if self.fitted else 0

    @property
    def fitted(self) -> bool:  # noqa: D102
        return self.rounding == "gptq"

    def prepare(self, tower: CalibrationTower) -> PreparedTower:  # noqa: D102
        graph = tower.load().graph
        fitted: dict[str, Packed] = {}
        if self.rounding == "gptq":
            for _, x, behind in _activations(tower, graph):
                moments = _moments(x)
                fitted |= {site.name: weight_only.gptq(weights(site.weight), self.bits, moments) for site in behind}

        def derive(keep: Keep) -> ir.Model:
            def write(graph: ir.Graph, site: Site) -> None:
                packed = fitted[site.name] if fitted else weight_only.nearest(weights(site.weight), self.bits)
                weight_only.write(graph, site, packed, self.bits)

            def finer(graph: ir.Graph, site: Site) -> None:
                weight_only.write(graph, site, weight_only.nearest(weights(site.weight), 8), 8)

            return _quantized(tower, {}, keep, write, self.table_bits, finer if self.bits < 8 else None)

        return PreparedTower(derive, {})


@dataclass(frozen=True)
class Int8Weights(WeightOnly):
    """Eight-bit weights; what is kept stays float32, a table float16."""

    precision: ClassVar = Precision.INT8_WEIGHTS
    bits: ClassVar = 8


@dataclass(frozen=True)
class Int4(WeightOnly):
    """Four-bit weights; what is kept has eight bits."""

    precision: ClassVar = Precision.INT4
    bits: ClassVar = 4

    rounding: Literal["nearest", "gptq"] = "gptq"


RECIPES: Final[dict[Precision, type[Recipe]]] = {
    kind.precision: kind for kind in (Fp16, Bf16, Int8, Int8Static, Int8Weights, Int4)
}


def _modules(graph: ir.Graph) -> dict[str, int]:
    """Every module with its number of weights, at least 1."""
    sizes: dict[str, int] = {}
    for node in graph:
        own = [value for value in node.inputs if value is not None and value.is_initializer()]
        size = sum(int(np.prod(value.shape.numpy())) for value in own if isinstance(value.shape, ir.Shape))
        sizes[module(node)] = sizes.get(module(node), 1) + size
    return sizes


def _products(graph: ir.Graph) -> dict[str, Site]:
    return {name: site for name, site in sites(graph).items() if not site.is_table}


def _keys(graph: ir.Graph) -> dict[str, str]:
    """The keys of each attention, with the name of the node that multiplies them."""
    return {str(node.inputs[1].name): name for name, node in score_nodes(graph).items() if node.inputs[1]}


def _activations(tower: CalibrationTower, graph: ir.Graph) -> Iterator[tuple[str, Floats, list[Site]]]:
    """Each activation that meets weights, float32 [samples, ..., width], with the sites that these are of."""
    behind: dict[str, list[Site]] = {}
    for site in _products(graph).values():
        behind.setdefault(str(site.activation.name), []).append(site)
    for name, x in seen(tower, behind):
        yield name, x, behind[name]


def _largest(array: Array) -> Array:
    """The largest of one sample, [1]; NaN if there is one."""
    return np.array([np.abs(array).max()])


def _moments(x: Floats) -> Floats:
    """Sum of x x^T over tokens drawn from all samples, [width, width]."""
    rows = x.reshape(-1, x.shape[-1])
    most = _TOKENS * rows.shape[1]
    if len(rows) > most:
        rows = rows[np.random.default_rng(0).choice(len(rows), most, replace=False)]
    return np.asarray(rows.T @ rows)


def _quantized(
    tower: CalibrationTower,
    smoothings: dict[str, Smoothing],
    keep: Keep,
    write: Write,
    table_bits: int,
    finer: Write | None = None,
) -> ir.Model:
    """A fresh copy of the tower, smoothed, with every site rewritten but those that are kept."""
    model = tower.load()
    smoothquant.fold(model.graph, _products(model.graph), smoothings)
    for name, site in sites(model.graph).items():
        if site.is_table:
            int8.table(model.graph, site, 16 if name in keep else table_bits)
        elif name not in keep:
            write(model.graph, site)
        elif finer is not None:
            finer(model.graph, site)
    drop_unused(model.graph)
    return model


def _told(smoothings: dict[str, Smoothing]) -> dict[str, str]:
    return {name: f"smoothed by {s.strength}" for name, s in smoothings.items() if s.strength is not None}


def _parameters(graph: ir.Graph) -> dict[str, ir.Value]:
    return {name: value for name, value in graph.initializers.items() if value.dtype == ir.DataType.FLOAT}
