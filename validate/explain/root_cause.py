"""What is different about nodes that are off: where the fault is, in which channels, attributes and weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from .explanation import Culprit, Origin
from .graph_view import GraphView, Segment
from .local_error import error_of, inputs_of
from .probe import Probe
from .subgraph import Subgraph, content, cut, inlined

Array = NDArray[Any]
FP16_LARGEST: Final = 65504.0  # IEEE 754-2008 binary16
_FEW: Final = 0.25  # share of the channels or rows up to which they are named
_SHOWN: Final = 8


@dataclass(frozen=True)
class Scene:
    """A segment with what it was given, what it made of it, and what it should have made.

    Attributes:
        bench: Both towers.
        segment: What is off.
        row: Which row shows it.
        given: What the segment was given, by name, as the judged graph has it.
        made: What it made of it.
        wanted: What the trusted nodes make of it.
        exact: Whether that was computed in float64, else in float32.
        kin: Whether both graphs call the same things by the same names.
    """

    bench: Probe
    segment: Segment
    row: int
    given: dict[str, Array]
    made: dict[str, Array]
    wanted: dict[str, Array]
    exact: bool
    kin: bool = True

    @property
    def ours(self) -> Subgraph:
        """The judged nodes as a graph with its weights inside."""
        net = self.bench.judged.net
        part = cut(net, self.segment.ours, self.given, self.segment.outputs)
        return Subgraph(inlined(net, part.model), part.given)

    def as_written(self) -> dict[str, Array] | None:
        """What the judged nodes make by the letter of ONNX; None where its reference implementation has not all."""
        part = self.ours
        try:
            with np.errstate(all="ignore"):
                arrays = ReferenceEvaluator(part.model).run(list(part.given.values()), dict(self.given))
        except Exception:  # whatever an operator without an implementation raises
            return None
        return {name: np.asarray(array) for name, array in zip(part.given, arrays, strict=True)}


def scene_of(bench: Probe, segment: Segment, row: int) -> Scene:
    """What a segment of two graphs with the same names does on a row.

    Raises:
        ChangedError: Looking at it changes what is computed.
        SiglipOnnxError: The provider does not give its values.
    """
    names = list(dict.fromkeys([*segment.inputs, *segment.outputs]))
    values = next(bench.look(bench.judged, names, [row]))
    wanted, exact = _wanted(bench, segment, inputs_of([segment], values))
    given = {name: values[name] for name in segment.inputs}
    return Scene(bench, segment, row, given, {name: values[name] for name in segment.outputs}, wanted, exact)


def _wanted(bench: Probe, segment: Segment, feeds: dict[str, Array]) -> tuple[dict[str, Array], bool]:
    """What the trusted nodes make of feeds, and whether it was computed in float64."""
    net = bench.trusted.net
    part = cut(net, segment.theirs, feeds, segment.outputs)
    names = [part.given[name] for name in segment.outputs]
    exact = True
    try:
        reference = ReferenceEvaluator(doubled(inlined(net, part.model)))
        arrays = reference.run(names, {name: _double(array) for name, array in feeds.items()})
    except Exception:  # whatever an operator without an implementation, or of float32 alone, raises
        arrays, exact = bench.load(bench.trusted, part.model).run(names, feeds), False
    return {name: np.asarray(array) for name, array in zip(segment.outputs, arrays, strict=True)}, exact


def doubled(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float32 graph in float64."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.input:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in copy.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(_double(numpy_helper.to_array(tensor)), tensor.name))
    for attribute in (a for node in copy.graph.node if node.op_type == "Cast" for a in node.attribute):
        if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.DOUBLE
    return copy


def _double(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def culprit_of(scene: Scene, limit: float, peers: Sequence[float]) -> Culprit:
    """Everything that can be told about a segment that is off.

    Args:
        scene: What it does.
        limit: How far off it may be.
        peers: How far off others of the same operators are.
    """
    segment, ours, theirs = scene.segment, scene.bench.judged.net, scene.bench.trusted.net
    error = _error(scene.made, scene.wanted)
    return Culprit(
        nodes=ours.names(segment.ours),
        operators=ours.operators(segment.ours),
        trusted_nodes=theirs.names(segment.theirs),
        trusted_operators=theirs.operators(segment.theirs),
        inputs=segment.inputs,
        outputs=segment.outputs,
        error=error if np.isfinite(error) else None,
        limit=limit,
        typical=float(np.median(peers)) if len(peers) and np.isfinite(np.median(peers)) else None,
        row=scene.row,
        origin=_origin(scene, limit),
        reasons=tuple(reasons(scene)),
        exact=scene.exact,
    )


def _error(found: Mapping[str, Array], wanted: Mapping[str, Array]) -> float:
    return max(error_of(found[name], array) for name, array in wanted.items())


def _origin(scene: Scene, limit: float) -> Origin:
    written = scene.as_written()
    if written is None:
        return Origin.UNKNOWN
    return Origin.FILE if _error(written, scene.wanted) > limit else Origin.PROVIDER


def reasons(scene: Scene) -> list[str]:
    """What is different, a sentence each, the most telling first."""
    ours, theirs, segment = scene.bench.judged.net, scene.bench.trusted.net, scene.segment
    found = differences(ours, theirs, segment, wiring=scene.kin)
    for name in segment.outputs:
        found += _overflow(name, scene.made[name], scene.wanted[name])
        found += _channels(name, scene.made[name], scene.wanted[name])
    return found


def differences(ours: GraphView, theirs: GraphView, segment: Segment, *, wiring: bool) -> list[str]:
    """Attributes, weights and wiring that differ, where both graphs have the same operators in a segment."""
    mine, right = sorted(segment.ours), sorted(segment.theirs)
    if ours.operators(mine) != theirs.operators(right):
        return []
    found = []
    for a, b in zip((ours.nodes[i] for i in mine), (theirs.nodes[i] for i in right), strict=True):
        found += _attributes(a, b)
        found += _wiring(a, b) if wiring else []
        for name, other in zip(a.input, b.input, strict=False):
            if name in ours.weights and other in theirs.weights:
                found += _weight(content(ours, name), content(theirs, other))
    return found


def _attributes(ours: onnx.NodeProto, theirs: onnx.NodeProto) -> list[str]:
    mine, right = ({a.name: _shown(a) for a in node.attribute} for node in (ours, theirs))
    return [
        f"{ours.name}: {name} is {mine.get(name, 'not given')}, where the trusted graph has "
        f"{right.get(name, 'none given')}."
        for name in sorted(mine.keys() | right.keys())
        if mine.get(name) != right.get(name)
    ]


def _shown(attribute: onnx.AttributeProto) -> str:
    value = helper.get_attribute_value(attribute)
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _wiring(ours: onnx.NodeProto, theirs: onnx.NodeProto) -> list[str]:
    pairs = (("reads", ours.input, theirs.input), ("gives", ours.output, theirs.output))
    return [
        f"{ours.name} {verb} {', '.join(mine)}, where the trusted graph's {verb} {', '.join(right)}."
        for verb, mine, right in pairs
        if list(mine) != list(right)
    ]


def _weight(ours: TensorProto, theirs: TensorProto) -> list[str]:
    """In which rows or columns two weights differ."""
    if ours.raw_data and ours.raw_data == theirs.raw_data:
        return []
    mine, right = numpy_helper.to_array(ours), numpy_helper.to_array(theirs)
    if mine.dtype.kind == right.dtype.kind == "f":
        with np.errstate(over="ignore"):
            right = right.astype(mine.dtype)
    if mine.shape != right.shape:
        return [f"{ours.name} is {list(mine.shape)}, where the trusted graph has {list(right.shape)}."]
    different = mine != right
    if not different.any():
        return []
    where = f"{int(different.sum())} of {different.size} elements"
    if different.ndim == 2:
        rows, columns = np.flatnonzero(different.any(1)), np.flatnonzero(different.any(0))
        kind, places = min((("rows", rows), ("columns", columns)), key=lambda pair: len(pair[1]))
        where += f", in {kind if len(places) > 1 else kind[:-1]} {_numbers(places)}"
    zero = " There it is zero." if not mine[different].any() else ""
    return [f"{ours.name} differs from the trusted one in {where}.{zero}"]


def _overflow(name: str, made: Array, wanted: Array) -> list[str]:
    largest = float(np.abs(wanted).max(initial=0.0)) if wanted.dtype.kind == "f" else 0.0
    if made.dtype != np.float16 or largest <= FP16_LARGEST:
        return []
    return [f"{name} reaches {largest:.4g}, and float16 ends at {FP16_LARGEST:g}."]


def _channels(name: str, made: Array, wanted: Array) -> list[str]:
    """Which channels, along the last axis, the error is in, where these are few; and by which factor they are off."""
    if made.shape != wanted.shape or made.ndim < 2 or wanted.dtype.kind != "f":
        return []
    found, right = (a.astype(np.float64).reshape(-1, a.shape[-1]) for a in (made, wanted))
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(found - right).max(0)
    error[~np.isfinite(error)] = np.inf
    worst = error.max(initial=0.0)
    bad = np.flatnonzero(error > worst / 4) if np.isfinite(worst) else np.flatnonzero(np.isinf(error))
    if not 0 < len(bad) <= _FEW * len(error):
        return []
    said = f"{name} is off in {len(bad)} of {len(error)} channels ({_numbers(bad)})"
    x, y = right[:, bad].ravel(), found[:, bad].ravel()
    slope = float(x @ y / (x @ x)) if np.isfinite(y).all() and x.any() else np.nan
    if np.isfinite(slope) and np.abs(y - slope * x).max() < np.abs(y - x).max() / 4:
        return [f"{said}, where it is {slope:.3g} times what it should be."]
    return [f"{said}."]


def _numbers(places: Sequence[int] | NDArray[np.intp]) -> str:
    shown = ", ".join(str(int(i)) for i in places[:_SHOWN])
    return f"{shown}, …" if len(places) > _SHOWN else shown
