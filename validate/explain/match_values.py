"""The first difference between two graphs that call nothing by the same name: values are matched by what they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .graph_view import GraphView, Segment
from .local_error import LIMITS, error_of
from .probe import ChangedError, Probe, Side
from .root_cause import Scene
from .subgraph import overridden

Array = NDArray[Any]
_QUANTILES: Final = np.linspace(0, 1, 33)
_NEAREST: Final = 6  # values of the judged graph that are tried for one of the trusted graph
_TRIES: Final = 200  # of handing a value of one graph to the other
_KIN: Final = 0.5  # share of the weights


def are_kin(ours: GraphView, theirs: GraphView) -> bool:
    """Whether one exporter made both graphs: half of the trusted weights stand in the other by name.

    Quantized weights are called after those that they were made of. Names of inner values prove nothing, since an
    exporter numbers them.
    """
    mine = sorted(ours.weights)
    found = sum(any(name == own or own.startswith(f"{name}.") for own in mine) for name in theirs.weights)
    same = ours.embedding == theirs.embedding and set(ours.inputs) == set(theirs.inputs)
    return same and found >= _KIN * len(theirs.weights)


@dataclass(frozen=True)
class Pair:
    """A value of the judged graph and the one of the trusted graph that it stands for."""

    ours: str
    theirs: str


@dataclass(frozen=True)
class Matching:
    """Which values of two graphs agree.

    Attributes:
        pairs: Names of the judged graph's values and of what they agree with.
        ours: The judged graph's values behind the last agreement, in order.
        theirs: The trusted one's.
        sizes: How many elements the judged graph's values have.
        tolerance: How far values that agree may be apart, relative to their largest element.
    """

    pairs: dict[str, str]
    ours: list[str]
    theirs: list[str]
    sizes: dict[str, int]
    tolerance: float


def match(bench: Probe) -> Matching:
    """Match values of the first row by size and distribution, whatever their shapes."""
    tolerance, _ = LIMITS[bench.judged.precision]
    mine = _prints(bench, bench.judged, bench.visible(bench.judged, bench.judged.net.floats))
    right = _prints(bench, bench.trusted, bench.visible(bench.trusted, bench.trusted.net.floats))
    pairs = {}
    for name, found in mine.items():
        distances = {other: found.distance(wanted) for other, wanted in right.items() if found.size == wanted.size}
        best = min(distances, key=lambda other: distances[other], default=None)
        if best is not None and distances[best] <= tolerance:
            pairs[name] = best
    ours = _behind(bench.judged.net, mine, pairs)
    theirs = _behind(bench.trusted.net, right, set(pairs.values()))
    return Matching(pairs, ours, theirs, {name: found.size for name, found in mine.items()}, tolerance)


def _behind(net: GraphView, names: Iterable[str], matched: Iterable[str]) -> list[str]:
    """The values that nothing is computed from which agrees."""
    used, _ = net.behind(matched, ())
    return [name for name in names if net.makers[name] not in used]


@dataclass(frozen=True)
class _Print:
    """What a value holds, without its shape and order."""

    size: int
    scale: float
    numbers: Array

    def distance(self, wanted: _Print) -> float:
        with np.errstate(invalid="ignore"):
            far = float(np.abs(self.numbers - wanted.numbers).max() / (wanted.scale or 1.0))
        return far if np.isfinite(far) else np.inf


def _prints(bench: Probe, side: Side, names: Sequence[str]) -> dict[str, _Print]:
    found: dict[str, _Print] = {}
    for some in bench.chunks(side, names):
        for values in bench.look(side, some, [0]):
            found |= {name: _print(values[name]) for name in some if values[name].dtype.kind == "f"}
    return found


def _print(array: Array) -> _Print:
    flat = array.astype(np.float64).ravel()
    with np.errstate(invalid="ignore", over="ignore"):
        numbers = [*np.quantile(flat, _QUANTILES), flat.mean(), np.sqrt((flat * flat).mean())]
        return _Print(flat.size, float(np.abs(flat).max(initial=0.0)), np.asarray(numbers))


def first_difference(bench: Probe, known: Matching) -> Pair | None:
    """The earliest values that stand for each other and differ; None where none were found.

    Proof that they do: the trusted graph, given the judged one's value, gives the judged one's embedding.
    """
    left = _TRIES
    failing = error_of(bench.judged.found[0], bench.trusted.found[0])
    tolerance = min(known.tolerance, failing / 4)
    for theirs in known.theirs:
        if theirs == bench.trusted.net.embedding or left <= 0:
            continue
        wanted = next(bench.look(bench.trusted, [theirs], [0]))[theirs]
        fitting = [name for name in known.ours if known.sizes[name] == wanted.size][:_NEAREST]
        left -= len(fitting)
        bench.progress(f"Looking for what stands for {theirs}")
        values = _values(bench, bench.judged, fitting)
        run = _with_value(bench, bench.trusted, theirs, wanted)
        for ours, value in values.items():
            if _agree(run(0, value), bench.judged.found[0], tolerance):
                return Pair(ours, theirs)
    return None


def _values(bench: Probe, side: Side, names: Sequence[str]) -> dict[str, Array]:
    """Values of the first row; those that can only be looked at alone are looked at alone."""
    if not names:
        return {}
    try:
        found = next(bench.look(side, names, [0]))
        return {name: found[name] for name in names}
    except ChangedError:
        if len(names) == 1:
            return {}
        return {name: value for one in names for name, value in _values(bench, side, [one]).items()}


def _agree(found: Array, wanted: Array, tolerance: float) -> bool:
    if not np.isfinite(wanted).all():
        return np.array_equal(np.isfinite(found), np.isfinite(wanted))
    return error_of(found, wanted) <= tolerance


def _with_value(bench: Probe, side: Side, name: str, like: Array) -> Callable[[int, Array], Array]:
    """Runs a row of a tower, one of whose values is given."""
    engine = bench.load(side, overridden(side.net, name, like))

    def run(row: int, value: Array) -> Array:
        feeds = {**side.feeds[row], name: value.reshape(like.shape).astype(like.dtype)}
        return engine.run([side.net.embedding], feeds)[0]

    return run


def scene_between(bench: Probe, known: Matching, pair: Pair) -> Scene:
    """The nodes between the last values that agree and the first that do not, on the first row.

    Raises:
        ChangedError: Looking at them changes what is computed.
        SiglipOnnxError: The provider does not give their values.
    """
    ours, enters = bench.judged.net.behind([pair.ours], known.pairs)
    theirs, _ = bench.trusted.net.behind([pair.theirs], set(known.pairs.values()))
    segment = Segment((pair.ours,), tuple(sorted(enters)), ours, theirs)
    values = next(bench.look(bench.judged, [*segment.inputs, pair.ours], [0]))
    wanted = next(bench.look(bench.trusted, [pair.theirs], [0]))[pair.theirs].reshape(values[pair.ours].shape)
    given = {name: values[name] for name in segment.inputs}
    return Scene(bench, segment, 0, given, {pair.ours: values[pair.ours]}, {pair.ours: wanted}, exact=False, kin=False)


def mended(bench: Probe, pair: Pair) -> Array:
    """Embeddings of the judged graph when it is given the trusted value, float32 [rows, size].

    Raises:
        ChangedError: Looking at the values changes what is computed.
        SiglipOnnxError: The provider does not run it.
    """
    like = next(bench.look(bench.judged, [pair.ours], [0]))[pair.ours]
    run = _with_value(bench, bench.judged, pair.ours, like)
    rows = (values[pair.theirs] for values in bench.look(bench.trusted, [pair.theirs]))
    return np.concatenate([run(row, value)[:1] for row, value in enumerate(rows)])
