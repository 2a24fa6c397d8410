"""How far off each segment is by itself: what it made of what it was given, beside what the trusted nodes make of it.

Errors that come from before do not count, since the trusted nodes are given the judged tower's own values.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...runtime.artifact.contract import Precision
from ...runtime.engines.base import Engine
from ...runtime.errors import SiglipOnnxError
from .graph_view import Segment, segments
from .probe import ChangedError, Probe
from .subgraph import cut

Array = NDArray[Any]
# Least and most that a segment may be off, relative to its largest element; in between it is JUMP times what other
# segments of the same operators are. docs/explain.md says where the numbers come from.
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
_ROUNDS: Final = 8  # of looking through changes of form; each leaves fewer values


@dataclass(frozen=True)
class Own:
    """How far a segment is off by itself.

    Attributes:
        error: Largest difference of an element relative to the trusted nodes' largest one, of the worst row; infinite
            where the segment makes NaN or infinities of finite values, or another shape.
        row: The worst row.
    """

    error: float
    row: int = 0


@dataclass
class LocalError:
    """What is known of the segments of a tower.

    Attributes:
        segments: In the order of the graph.
        own: Of each segment, by itself; absent where its inputs are not finite, or it could not be looked at.
        types: dtype of the judged tower's values, by name.
        hidden: Values that cannot be looked at without changing what is computed.
        looked_through: Values that were given up because the nodes behind them expect them in another form.
        unseen: Segments that could not be looked at at all.
    """

    segments: list[Segment]
    own: dict[Segment, Own] = field(default_factory=dict)
    types: dict[str, np.dtype[Any]] = field(default_factory=dict)
    hidden: list[str] = field(default_factory=list)
    looked_through: list[str] = field(default_factory=list)
    unseen: list[Segment] = field(default_factory=list)


def error_of(found: Array, wanted: Array) -> float:
    """Largest difference of an element, relative to the largest wanted one; infinite where there is nothing finite."""
    if found.shape != wanted.shape or not np.isfinite(found).all() or not np.isfinite(wanted).all():
        return np.inf
    difference = np.abs(found.astype(np.float64) - wanted).max(initial=0.0)
    return float(difference / (np.abs(wanted.astype(np.float64)).max(initial=0.0) or 1.0))


def measure(bench: Probe, shared: Sequence[str]) -> LocalError:
    """How far each segment between shared values is off by itself.

    Args:
        bench: Both towers.
        shared: Names of the values that both compute.
    """
    judged = bench.judged.net
    seen = bench.visible(bench.judged, [name for name in shared if name != judged.embedding])
    seen.append(judged.embedding)
    known = LocalError(segments(judged, bench.trusted.net, seen), hidden=[name for name in shared if name not in seen])
    _measure(bench, known, known.segments)
    _settle(bench, known)
    stood: set[Segment] = set()
    for _ in range(_ROUNDS):
        undone = _undone(bench, known, stood)
        if not undone:
            break
        known.looked_through += undone
        _without(bench, known, undone)
        _settle(bench, known)
    return known


def _settle(bench: Probe, known: LocalError) -> None:
    """Join segments that cannot be looked at to their neighbors, until all can be or none is left to join."""
    for _ in range(_ROUNDS):
        ends = {bench.judged.net.embedding, *bench.judged.net.inputs}
        gone = {name for segment in known.unseen for name in (*segment.outputs, *segment.inputs)} - ends
        if not gone:
            return
        known.hidden += sorted(gone)
        _without(bench, known, gone)


def _without(bench: Probe, known: LocalError, gone: Collection[str]) -> None:
    """Cut the graphs anew, without some values, and measure what is new."""
    known.segments = _cut_without(bench, known, gone)
    known.own = {segment: own for segment, own in known.own.items() if segment in known.segments}
    known.unseen = []
    _measure(bench, known, [segment for segment in known.segments if segment not in known.own])


def _cut_without(bench: Probe, known: LocalError, gone: Collection[str]) -> list[Segment]:
    kept = [name for segment in known.segments for name in segment.outputs if name not in gone]
    return segments(bench.judged.net, bench.trusted.net, kept)


def _measure(bench: Probe, known: LocalError, some: Sequence[Segment]) -> None:
    for number, chunk in enumerate(_chunks(bench, some)):
        bench.progress(f"Comparing nodes, part {number + 1}")
        _measure_chunk(bench, known, chunk)


def _measure_chunk(bench: Probe, known: LocalError, chunk: Sequence[Segment]) -> None:
    """Halved where looking at so much changes what is computed."""
    try:
        found = list(_errors(bench, known, chunk))
    except (ChangedError, SiglipOnnxError):
        if len(chunk) < 2:
            known.unseen += chunk
            return
        half = len(chunk) // 2
        _measure_chunk(bench, known, chunk[:half])
        _measure_chunk(bench, known, chunk[half:])
        return
    for segment, own in found:
        if segment not in known.own or own.error > known.own[segment].error:
            known.own[segment] = own


def _errors(bench: Probe, known: LocalError, chunk: Sequence[Segment]) -> Iterator[tuple[Segment, Own]]:
    outputs = [name for segment in chunk for name in segment.outputs]
    names = list(dict.fromkeys([*(name for segment in chunk for name in segment.inputs), *outputs]))
    engine: Engine | None = None
    given: dict[str, str] = {}
    for row, values in enumerate(bench.look(bench.judged, names)):
        known.types |= {name: array.dtype for name, array in values.items()}
        feeds = inputs_of(chunk, values)
        if engine is None:
            made = cut(bench.trusted.net, {i for s in chunk for i in s.theirs}, feeds, outputs)
            engine, given = bench.load(bench.trusted, made.model), made.given
        wanted = dict(zip(outputs, engine.run([given[name] for name in outputs], feeds), strict=True))
        for segment in chunk:
            if all(np.isfinite(values[name]).all() for name in segment.inputs):
                yield segment, Own(max(error_of(values[name], wanted[name]) for name in segment.outputs), row)


def inputs_of(chunk: Sequence[Segment], values: Mapping[str, Array]) -> dict[str, Array]:
    """What the trusted nodes of segments are given: the judged tower's values, floats as float32."""
    names = dict.fromkeys(name for segment in chunk for name in segment.inputs)
    return {name: _single(values[name]) for name in names}


def _single(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype.kind == "f" else array


def _chunks(bench: Probe, some: Sequence[Segment]) -> Iterator[list[Segment]]:
    by_first = {segment.outputs[0]: segment for segment in some}
    for names in bench.chunks(bench.judged, list(by_first)):
        yield [by_first[name] for name in names]


def peers_of(bench: Probe, known: LocalError, segment: Segment) -> list[float]:
    """How far off the other segments of the same operators are."""
    operators = bench.trusted.net.operators
    kind = operators(segment.theirs)
    return [own.error for s, own in known.own.items() if s is not segment and operators(s.theirs) == kind]


def limit_of(bench: Probe, known: LocalError, segment: Segment) -> float:
    """How far a segment may be off by itself."""
    least, most = LIMITS[bench.judged.precision]
    peers = peers_of(bench, known, segment)
    return float(np.clip(JUMP * np.median(peers), least, most)) if peers else most


def suspects(bench: Probe, known: LocalError) -> list[Segment]:
    """The segments that are further off than they may be, in the order of the graph."""
    return [s for s in known.segments if s in known.own and known.own[s].error > limit_of(bench, known, s)]


def _undone(bench: Probe, known: LocalError, stood: set[Segment]) -> list[str]:
    """Values that are only in another form: the nodes behind undo it.

    Smoothing, for one, divides the channels of a norm and multiplies the weights behind it: each of the two is off by
    itself, and both together are right. A fault is not mended by what is behind it, which treats it as it should.

    Args:
        bench: Both towers.
        known: Their segments and errors.
        stood: Segments that were tried before, to which those are added that are off.
    """
    off = suspects(bench, known)
    behind_others = {name for segment in off for name in segment.outputs}
    heads = [s for s in off if s not in stood and behind_others.isdisjoint(s.inputs)]
    heads = [s for s in heads if bench.judged.net.embedding not in s.outputs]
    if not heads:
        return []
    merged = _cut_without(bench, known, {name for segment in heads for name in segment.outputs})
    trial = LocalError([s for s in merged if s not in known.own])
    _measure(bench, trial, trial.segments)
    known.types |= trial.types
    stood.update(head for head in heads if not _is_undone(bench, known, trial, head))
    return sorted(name for head in heads if head not in stood for name in head.outputs)


def _is_undone(bench: Probe, known: LocalError, trial: LocalError, head: Segment) -> bool:
    """Whether every user of a segment is off by itself, and right together with it."""
    users = [s for s in known.segments if s is not head and not set(head.outputs).isdisjoint(s.inputs)]
    most = LIMITS[bench.judged.precision][1]
    for user in users:
        whole = next((s for s in trial.segments if user.ours <= s.ours and head.ours <= s.ours), None)
        if whole is None or whole not in trial.own or user not in known.own:
            return False
        if not trial.own[whole].error <= min(most, known.own[user].error / 2):
            return False
    return bool(users)
