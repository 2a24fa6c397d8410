"""Describes faulty nodes: where the fault lies, and the channels, attributes and weights that differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ...runtime.arrays import AnyArray
from .explanation import Culprit, Origin
from .graph_view import GraphView, Segment
from .local_error import reference_feeds, relative_error
from .probe import Probe
from .subgraph import Subgraph, extract, inline_weights, load_weight

FP16_LARGEST: Final = 65504.0  # IEEE 754-2008 binary16
_FEW: Final = 0.25  # largest share of the channels that are listed one by one
_SHOWN: Final = 8


@dataclass(frozen=True)
class FaultScene:
    """A faulty segment with its inputs, its outputs and the expected outputs.

    Attributes:
        probe: Both towers.
        segment: The faulty segment.
        row: Index of the input row that shows the fault.
        inputs: The segment's inputs by name, as the candidate graph computes them.
        actual: The segment's outputs by name.
        expected: The reference nodes' outputs for the same inputs.
        exact: Whether these were computed in float64 instead of float32.
        shares_names: Whether both graphs use the same names for the same values.
    """

    probe: Probe
    segment: Segment
    row: int
    inputs: dict[str, AnyArray]
    actual: dict[str, AnyArray]
    expected: dict[str, AnyArray]
    exact: bool
    shares_names: bool = True

    @property
    def candidate_part(self) -> Subgraph:
        """The candidate nodes as a graph with its weights inside."""
        graph = self.probe.candidate.graph
        part = extract(graph, self.segment.candidate, self.inputs, self.segment.outputs)
        return Subgraph(inline_weights(graph, part.model), part.output_names)

    def specified_outputs(self) -> dict[str, AnyArray] | None:
        """Outputs of the candidate nodes by ONNX's reference implementation; None if it lacks an operator."""
        part = self.candidate_part
        try:
            with np.errstate(all="ignore"):
                arrays = ReferenceEvaluator(part.model).run(list(part.output_names.values()), dict(self.inputs))
        except Exception:  # an operator without an implementation may raise anything
            return None
        return {name: np.asarray(array) for name, array in zip(part.output_names, arrays, strict=True)}


def capture_scene(probe: Probe, segment: Segment, row: int) -> FaultScene:
    """Capture a segment's inputs and outputs on a row, in graphs that share their names.

    Raises:
        ObservationError: Observing the values changes the result.
        SiglipOnnxError: The provider does not return the values.
    """
    names = list(dict.fromkeys([*segment.inputs, *segment.outputs]))
    values = next(probe.values(probe.candidate, names, [row]))
    expected, exact = _expected(probe, segment, reference_feeds([segment], values))
    inputs = {name: values[name] for name in segment.inputs}
    return FaultScene(probe, segment, row, inputs, {name: values[name] for name in segment.outputs}, expected, exact)


def _expected(probe: Probe, segment: Segment, feeds: dict[str, AnyArray]) -> tuple[dict[str, AnyArray], bool]:
    """The reference nodes' outputs, and whether they were computed in float64."""
    graph = probe.reference.graph
    part = extract(graph, segment.reference, feeds, segment.outputs)
    names = [part.output_names[name] for name in segment.outputs]
    exact = True
    try:
        evaluator = ReferenceEvaluator(to_float64(inline_weights(graph, part.model)))
        arrays = evaluator.run(names, {name: _as_float64(array) for name, array in feeds.items()})
    except Exception:  # an operator without an implementation, or one for float32 only, may raise anything
        arrays, exact = probe.load(probe.reference, part.model).run(names, feeds), False
    return {name: np.asarray(array) for name, array in zip(segment.outputs, arrays, strict=True)}, exact


def to_float64(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a float32 graph that computes in float64."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in copy.graph.input:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in copy.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(numpy_helper.from_array(_as_float64(numpy_helper.to_array(tensor)), tensor.name))
    for attribute in (a for node in copy.graph.node if node.op_type == "Cast" for a in node.attribute):
        if attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.DOUBLE
    return copy


def _as_float64(array: AnyArray) -> AnyArray:
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def describe_culprit(scene: FaultScene, limit: float, peers: Sequence[float]) -> Culprit:
    """Collect the facts about a faulty segment.

    Args:
        scene: The segment with its inputs and outputs.
        limit: Largest relative error allowed for it.
        peers: Local errors of the other segments with the same operators.
    """
    segment, candidate, reference = scene.segment, scene.probe.candidate.graph, scene.probe.reference.graph
    error = _largest_error(scene.actual, scene.expected)
    return Culprit(
        nodes=candidate.node_names(segment.candidate),
        operators=candidate.operators(segment.candidate),
        reference_nodes=reference.node_names(segment.reference),
        reference_operators=reference.operators(segment.reference),
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


def _largest_error(actual: Mapping[str, AnyArray], expected: Mapping[str, AnyArray]) -> float:
    return max(relative_error(actual[name], array) for name, array in expected.items())


def _origin(scene: FaultScene, limit: float) -> Origin:
    specified = scene.specified_outputs()
    if specified is None:
        return Origin.UNKNOWN
    return Origin.FILE if _largest_error(specified, scene.expected) > limit else Origin.PROVIDER


def reasons(scene: FaultScene) -> list[str]:
    """Differences, one sentence each, the most informative first."""
    candidate, reference = scene.probe.candidate.graph, scene.probe.reference.graph
    sentences = differences(candidate, reference, scene.segment, wiring=scene.shares_names)
    for name in scene.segment.outputs:
        sentences += _overflow(name, scene.actual[name], scene.expected[name])
        sentences += _channels(name, scene.actual[name], scene.expected[name])
    return sentences


def differences(candidate: GraphView, reference: GraphView, segment: Segment, *, wiring: bool) -> list[str]:
    """Attributes, weights and, with `wiring`, connections that differ; empty if the operators differ themselves."""
    ours, theirs = sorted(segment.candidate), sorted(segment.reference)
    if candidate.operators(ours) != reference.operators(theirs):
        return []
    sentences = []
    for a, b in zip((candidate.nodes[i] for i in ours), (reference.nodes[i] for i in theirs), strict=True):
        sentences += _attributes(a, b)
        sentences += _wiring(a, b) if wiring else []
        for name, other in zip(a.input, b.input, strict=False):
            if name in candidate.weights and other in reference.weights:
                sentences += _weight(load_weight(candidate, name), load_weight(reference, other))
    return sentences


def _attributes(candidate: onnx.NodeProto, reference: onnx.NodeProto) -> list[str]:
    ours, theirs = ({a.name: _shown(a) for a in node.attribute} for node in (candidate, reference))
    return [
        f"{candidate.name}: {name} is {ours.get(name, 'missing')}, the reference graph has "
        f"{theirs.get(name, 'no such attribute')}."
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]


def _shown(attribute: onnx.AttributeProto) -> str:
    value = helper.get_attribute_value(attribute)
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _wiring(candidate: onnx.NodeProto, reference: onnx.NodeProto) -> list[str]:
    pairs = (("reads", candidate.input, reference.input), ("returns", candidate.output, reference.output))
    return [
        f"{candidate.name} {verb} {', '.join(ours)}; the node of the reference graph {verb} {', '.join(theirs)}."
        for verb, ours, theirs in pairs
        if list(ours) != list(theirs)
    ]


def _weight(candidate: TensorProto, reference: TensorProto) -> list[str]:
    """The rows or columns in which two weights differ."""
    if candidate.raw_data and candidate.raw_data == reference.raw_data:
        return []
    ours, theirs = numpy_helper.to_array(candidate), numpy_helper.to_array(reference)
    if ours.dtype.kind == theirs.dtype.kind == "f":
        with np.errstate(over="ignore"):
            theirs = theirs.astype(ours.dtype)
    if ours.shape != theirs.shape:
        return [f"{candidate.name} has shape {list(ours.shape)}, the reference graph {list(theirs.shape)}."]
    different = ours != theirs
    if not different.any():
        return []
    zero = " All of these are zero." if not ours[different].any() else ""
    return [f"{candidate.name} differs from the reference weight in {_location(different)}.{zero}"]


def _location(different: NDArray[np.bool_]) -> str:
    """Number of the elements that differ, and the rows or columns of a matrix that they lie in."""
    count = f"{int(different.sum())} of {different.size} elements"
    if different.ndim != 2:
        return count
    rows, columns = np.flatnonzero(different.any(1)), np.flatnonzero(different.any(0))
    axis, indices = min((("rows", rows), ("columns", columns)), key=lambda pair: len(pair[1]))
    return f"{count}, in {axis if len(indices) > 1 else axis[:-1]} {_numbers(indices)}"


def _overflow(name: str, actual: AnyArray, expected: AnyArray) -> list[str]:
    largest = float(np.abs(expected).max(initial=0.0)) if expected.dtype.kind == "f" else 0.0
    if actual.dtype != np.float16 or largest <= FP16_LARGEST:
        return []
    return [f"{name} reaches {largest:.4g}; the largest float16 is {FP16_LARGEST:g}."]


def _channels(name: str, actual: AnyArray, expected: AnyArray) -> list[str]:
    """The channels, along the last axis, with the error, if they are few; and the factor that they are wrong by."""
    if actual.shape != expected.shape or actual.ndim < 2 or expected.dtype.kind != "f":
        return []
    ours, theirs = (a.astype(np.float64).reshape(-1, a.shape[-1]) for a in (actual, expected))
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(ours - theirs).max(0)
    error[~np.isfinite(error)] = np.inf
    worst = error.max(initial=0.0)
    wrong = np.flatnonzero(error > worst / 4) if np.isfinite(worst) else np.flatnonzero(np.isinf(error))
    if not 0 < len(wrong) <= _FEW * len(error):
        return []
    sentence = f"{name} is wrong in {len(wrong)} of {len(error)} channels ({_numbers(wrong)})"
    x, y = theirs[:, wrong].ravel(), ours[:, wrong].ravel()
    slope = float(x @ y / (x @ x)) if np.isfinite(y).all() and x.any() else np.nan
    if np.isfinite(slope) and np.abs(y - slope * x).max() < np.abs(y - x).max() / 4:
        return [f"{sentence}, by a factor of {slope:.3g}."]
    return [f"{sentence}."]


def _numbers(indices: Sequence[int] | NDArray[np.intp]) -> str:
    shown = ", ".join(str(int(i)) for i in indices[:_SHOWN])
    return f"{shown}, …" if len(indices) > _SHOWN else shown
