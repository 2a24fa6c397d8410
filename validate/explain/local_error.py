"""Local error of each segment: its outputs compared with those of the reference nodes for the same inputs.

Errors inherited from earlier nodes do not count, because the reference nodes receive the candidate tower's own values.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from ...runtime.arrays import AnyArray
from ...runtime.artifact.contract import Precision
from ...runtime.engines.base import Engine
from ...runtime.errors import SiglipOnnxError
from .graph_view import Segment, segments
from .probe import ObservationError, Probe
from .subgraph import extract

# Smallest and largest limit for a segment's error, relative to its largest element; between them the limit is JUMP
# times the median of segments with the same operators. docs/explain.md says where the numbers come from.
LIMITS: Final = {
    Precision.FP32: (2e-5, 2e-5),
    Precision.FP16: (4e-3, 1e-2),
    Precision.BF16: (8e-3, 2e-2),
    Precision.INT8: (0.02, 0.1),
    Precision.INT8_STATIC: (0.02, 0.1),
    Precision.INT8_WEIGHTS: (0.02, 0.1),
    Precision.INT4: (0.06, 0.3),
}
JUMP: Final = 8.0
_ROUNDS: Final = 8  # of joining segments; each round leaves fewer values


@dataclass(frozen=True)
class LocalError:
    """The error that one segment adds.

    Attributes:
        error: Largest absolute difference from the reference nodes' outputs, relative to their largest element, of
            the worst row; infinite if the segment turns finite values into NaN or infinities, or changes a shape.
        row: Index of the worst row.
    """

    error: float
    row: int = 0


@dataclass
class TowerErrors:
    """The segments of a tower and their local errors.

    Attributes:
        segments: Segments in graph order.
        errors: Local error of each segment; absent if its inputs are not finite or it could not be observed.
        types: dtype of the candidate tower's values, by name.
        hidden: Names of values that cannot be observed without changing the result.
        compensated: Names of values that were dropped because later nodes expect them in another form.
        unobserved: Segments that could not be observed at all.
    """

    segments: list[Segment]
    errors: dict[Segment, LocalError] = field(default_factory=dict)
    types: dict[str, np.dtype[Any]] = field(default_factory=dict)
    hidden: list[str] = field(default_factory=list)
    compensated: list[str] = field(default_factory=list)
    unobserved: list[Segment] = field(default_factory=list)


def relative_error(actual: AnyArray, expected: AnyArray) -> float:
    """Largest absolute difference relative to the largest expected element; infinite for other shapes or non-finite."""
    if actual.shape != expected.shape or not np.isfinite(actual).all() or not np.isfinite(expected).all():
        return np.inf
    difference = np.abs(actual.astype(np.float64) - expected).max(initial=0.0)
    return float(difference / (np.abs(expected.astype(np.float64)).max(initial=0.0) or 1.0))


def measure(probe: Probe, shared: Sequence[str]) -> TowerErrors:
    """Measure the local error of every segment between shared values.

    Args:
        probe: Both towers.
        shared: Names of the values that both graphs compute.
    """
    candidate = probe.candidate.graph
    observable = probe.observable(probe.candidate, [name for name in shared if name != candidate.embedding])
    observable.append(candidate.embedding)
    tower = TowerErrors(
        segments(candidate, probe.reference.graph, observable),
        hidden=[name for name in shared if name not in observable],
    )
    _measure(probe, tower, tower.segments)
    _join_unobserved(probe, tower)
    rejected: set[Segment] = set()
    for _ in range(_ROUNDS):
        compensated = _compensated(probe, tower, rejected)
        if not compensated:
            break
        tower.compensated += compensated
        _drop_values(probe, tower, compensated)
        _join_unobserved(probe, tower)
    return tower


def _join_unobserved(probe: Probe, tower: TowerErrors) -> None:
    """Join segments that cannot be observed to their neighbors until all can be, or no neighbor is left."""
    for _ in range(_ROUNDS):
        ends = {probe.candidate.graph.embedding, *probe.candidate.graph.inputs}
        dropped = {name for segment in tower.unobserved for name in (*segment.outputs, *segment.inputs)} - ends
        if not dropped:
            return
        tower.hidden += sorted(dropped)
        _drop_values(probe, tower, dropped)


def _drop_values(probe: Probe, tower: TowerErrors, dropped: Collection[str]) -> None:
    """Divide the graphs again without some values, and measure the new segments."""
    tower.segments = _segments_without(probe, tower, dropped)
    tower.errors = {segment: error for segment, error in tower.errors.items() if segment in tower.segments}
    tower.unobserved = []
    _measure(probe, tower, [segment for segment in tower.segments if segment not in tower.errors])


def _segments_without(probe: Probe, tower: TowerErrors, dropped: Collection[str]) -> list[Segment]:
    kept = [name for segment in tower.segments for name in segment.outputs if name not in dropped]
    return segments(probe.candidate.graph, probe.reference.graph, kept)


def _measure(probe: Probe, tower: TowerErrors, pending: Sequence[Segment]) -> None:
    for number, chunk in enumerate(_chunks(probe, pending)):
        probe.progress(f"Comparing nodes, part {number + 1}")
        _measure_chunk(probe, tower, chunk)


def _measure_chunk(probe: Probe, tower: TowerErrors, chunk: Sequence[Segment]) -> None:
    """Measure a chunk; halve it if observing all of it changes the result."""
    try:
        results = list(_errors(probe, tower, chunk))
    except (ObservationError, SiglipOnnxError):
        if len(chunk) < 2:
            tower.unobserved += chunk
            return
        half = len(chunk) // 2
        _measure_chunk(probe, tower, chunk[:half])
        _measure_chunk(probe, tower, chunk[half:])
        return
    for segment, result in results:
        if segment not in tower.errors or result.error > tower.errors[segment].error:
            tower.errors[segment] = result


def _errors(probe: Probe, tower: TowerErrors, chunk: Sequence[Segment]) -> Iterator[tuple[Segment, LocalError]]:
    outputs = [name for segment in chunk for name in segment.outputs]
    names = list(dict.fromkeys([*(name for segment in chunk for name in segment.inputs), *outputs]))
    engine: Engine | None = None
    output_names: dict[str, str] = {}
    for row, values in enumerate(probe.values(probe.candidate, names)):
        tower.types |= {name: array.dtype for name, array in values.items()}
        feeds = reference_feeds(chunk, values)
        if engine is None:
            part = extract(probe.reference.graph, {i for s in chunk for i in s.reference}, feeds, outputs)
            engine, output_names = probe.load(probe.reference, part.model), part.output_names
        expected = dict(zip(outputs, engine.run([output_names[name] for name in outputs], feeds), strict=True))
        for segment in chunk:
            if all(np.isfinite(values[name]).all() for name in segment.inputs):
                error = max(relative_error(values[name], expected[name]) for name in segment.outputs)
                yield segment, LocalError(error, row)


def reference_feeds(chunk: Sequence[Segment], values: Mapping[str, AnyArray]) -> dict[str, AnyArray]:
    """Inputs for the reference nodes of segments: the candidate tower's values, floats as float32."""
    names = dict.fromkeys(name for segment in chunk for name in segment.inputs)
    return {name: _as_float32(values[name]) for name in names}


def _as_float32(array: AnyArray) -> AnyArray:
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _chunks(probe: Probe, pending: Sequence[Segment]) -> Iterator[list[Segment]]:
    by_first = {segment.outputs[0]: segment for segment in pending}
    for names in probe.chunks(probe.candidate, list(by_first)):
        yield [by_first[name] for name in names]


def peer_errors(probe: Probe, tower: TowerErrors, segment: Segment) -> list[float]:
    """Local errors of the other segments with the same operators."""
    operators = probe.reference.graph.operators
    own = operators(segment.reference)
    return [
        result.error
        for other, result in tower.errors.items()
        if other is not segment and operators(other.reference) == own
    ]


def limit_of(probe: Probe, tower: TowerErrors, segment: Segment) -> float:
    """Largest local error allowed for a segment."""
    smallest, largest = LIMITS[probe.candidate.precision]
    peers = peer_errors(probe, tower, segment)
    return float(np.clip(JUMP * np.median(peers), smallest, largest)) if peers else largest


def suspects(probe: Probe, tower: TowerErrors) -> list[Segment]:
    """Segments whose local error exceeds their limit, in graph order."""
    return [
        segment
        for segment in tower.segments
        if segment in tower.errors and tower.errors[segment].error > limit_of(probe, tower, segment)
    ]


def _compensated(probe: Probe, tower: TowerErrors, rejected: set[Segment]) -> list[str]:
    """Names of values that differ only in form: later nodes compensate the difference.

    SmoothQuant, for example, divides the channels of a norm and multiplies the weights after it: each of the two steps
    is wrong alone, and together they are right. Later nodes do not compensate a fault.

    Args:
        probe: Both towers.
        tower: Their segments and local errors.
        rejected: Segments that were tested before and are not compensated; newly tested ones are added.
    """
    failing = suspects(probe, tower)
    failing_outputs = {name for segment in failing for name in segment.outputs}
    heads = [s for s in failing if s not in rejected and failing_outputs.isdisjoint(s.inputs)]
    heads = [s for s in heads if probe.candidate.graph.embedding not in s.outputs]
    if not heads:
        return []
    merged = _segments_without(probe, tower, {name for segment in heads for name in segment.outputs})
    trial = TowerErrors([s for s in merged if s not in tower.errors])
    _measure(probe, trial, trial.segments)
    tower.types |= trial.types
    rejected.update(head for head in heads if not _is_compensated(probe, tower, trial, head))
    return sorted(name for head in heads if head not in rejected for name in head.outputs)


def _is_compensated(probe: Probe, tower: TowerErrors, trial: TowerErrors, head: Segment) -> bool:
    """Whether every reader of a segment is wrong alone, and right when it is joined with the segment."""
    readers = [s for s in tower.segments if s is not head and not set(head.outputs).isdisjoint(s.inputs)]
    largest = LIMITS[probe.candidate.precision][1]
    for reader in readers:
        joined = next(
            (s for s in trial.segments if reader.candidate <= s.candidate and head.candidate <= s.candidate), None
        )
        if joined is None or joined not in trial.errors or reader not in tower.errors:
            return False
        if not trial.errors[joined].error <= min(largest, tower.errors[reader].error / 2):
            return False
    return bool(readers)
