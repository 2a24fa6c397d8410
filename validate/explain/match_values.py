"""Finds the first difference between two graphs without common names: values are matched by their content."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ...runtime.arrays import AnyArray, Float64Array
from .graph_view import GraphView, Segment
from .local_error import LIMITS, relative_error
from .probe import ObservationError, Probe, ProbedTower
from .root_cause import FaultScene
from .subgraph import with_override

_QUANTILES: Final = np.linspace(0, 1, 33)
_NEAREST: Final = 6  # values of the candidate graph to try for each value of the reference graph
_TRIES: Final = 200  # runs of one graph with a value of the other
_SHARED: Final = 0.5  # share of the weights


def share_names(candidate: GraphView, reference: GraphView) -> bool:
    """Whether both graphs come from the same exporter: half of the reference weights have their names in the other.

    Quantized weights start with the name of the original weight. Names of inner values prove nothing, because
    exporters number them.
    """
    names = sorted(candidate.weights)
    count = sum(any(own == name or own.startswith(f"{name}.") for own in names) for name in reference.weights)
    same = candidate.embedding == reference.embedding and set(candidate.inputs) == set(reference.inputs)
    return same and count >= _SHARED * len(reference.weights)


@dataclass(frozen=True)
class Pair:
    """Names of a value of the candidate graph and of the corresponding value of the reference graph."""

    candidate: str
    reference: str


@dataclass(frozen=True)
class Matching:
    """The values of two graphs that agree.

    Attributes:
        pairs: Names of the candidate graph's values and of the reference values that they agree with.
        candidate: The candidate graph's values after the last agreement, in order.
        reference: The reference graph's values after the last agreement, in order.
        sizes: Number of elements of the candidate graph's values, by name.
        tolerance: Largest difference of values that agree, relative to their largest element.
    """

    pairs: dict[str, str]
    candidate: list[str]
    reference: list[str]
    sizes: dict[str, int]
    tolerance: float


def match_values(probe: Probe) -> Matching:
    """Match values of the first row by size and distribution; shapes and order may differ."""
    tolerance, _ = LIMITS[probe.candidate.precision]
    candidates = _fingerprints(probe, probe.candidate)
    references = _fingerprints(probe, probe.reference)
    pairs = {}
    for name, print_ in candidates.items():
        distances = {other: print_.distance(known) for other, known in references.items() if known.size == print_.size}
        best = min(distances, key=lambda other: distances[other], default=None)
        if best is not None and distances[best] <= tolerance:
            pairs[name] = best
    candidate = _after(probe.candidate.graph, candidates, pairs)
    reference = _after(probe.reference.graph, references, set(pairs.values()))
    return Matching(pairs, candidate, reference, {name: known.size for name, known in candidates.items()}, tolerance)


def _after(graph: GraphView, names: Iterable[str], matched: Iterable[str]) -> list[str]:
    """The values that no matched value depends on."""
    upstream, _ = graph.upstream(matched, ())
    return [name for name in names if graph.producers[name] not in upstream]


@dataclass(frozen=True)
class _Fingerprint:
    """Size and distribution of a value, without its shape and order."""

    size: int
    scale: float
    numbers: Float64Array

    def distance(self, other: _Fingerprint) -> float:
        with np.errstate(invalid="ignore"):
            distance = float(np.abs(self.numbers - other.numbers).max() / (other.scale or 1.0))
        return distance if np.isfinite(distance) else np.inf


def _fingerprints(probe: Probe, tower: ProbedTower) -> dict[str, _Fingerprint]:
    prints: dict[str, _Fingerprint] = {}
    for names in probe.chunks(tower, probe.observable(tower, tower.graph.float_values)):
        for values in probe.values(tower, names, [0]):
            prints |= {name: _fingerprint(values[name]) for name in names if values[name].dtype.kind == "f"}
    return prints


def _fingerprint(array: AnyArray) -> _Fingerprint:
    flat = array.astype(np.float64).ravel()
    with np.errstate(invalid="ignore", over="ignore"):
        numbers = [*np.quantile(flat, _QUANTILES), flat.mean(), np.sqrt((flat * flat).mean())]
        return _Fingerprint(flat.size, float(np.abs(flat).max(initial=0.0)), np.asarray(numbers))


def first_difference(probe: Probe, matching: Matching) -> Pair | None:
    """The earliest corresponding values that differ; None if none were found.

    Proof of correspondence: the reference graph with the candidate's value gives the candidate's embedding.
    """
    tries_left = _TRIES
    failing = relative_error(probe.candidate.outputs[0], probe.reference.outputs[0])
    tolerance = min(matching.tolerance, failing / 4)
    for reference in matching.reference:
        if reference == probe.reference.graph.embedding or tries_left <= 0:
            continue
        expected = next(probe.values(probe.reference, [reference], [0]))[reference]
        same_size = [name for name in matching.candidate if matching.sizes[name] == expected.size][:_NEAREST]
        tries_left -= len(same_size)
        probe.progress(f"Looking for the value that corresponds to {reference}")
        values = _values(probe, probe.candidate, same_size)
        run = _runner(probe, probe.reference, reference, expected)
        for name, value in values.items():
            if _agree(run(0, value), probe.candidate.outputs[0], tolerance):
                return Pair(name, reference)
    return None


def _values(probe: Probe, tower: ProbedTower, names: Sequence[str]) -> dict[str, AnyArray]:
    """Values of the first row; those that cannot be observed together are observed alone."""
    if not names:
        return {}
    try:
        values = next(probe.values(tower, names, [0]))
        return {name: values[name] for name in names}
    except ObservationError:
        if len(names) == 1:
            return {}
        return {name: value for single in names for name, value in _values(probe, tower, [single]).items()}


def _agree(actual: AnyArray, expected: AnyArray, tolerance: float) -> bool:
    if not np.isfinite(expected).all():
        return np.array_equal(np.isfinite(actual), np.isfinite(expected))
    return relative_error(actual, expected) <= tolerance


def _runner(probe: Probe, tower: ProbedTower, name: str, like: AnyArray) -> Callable[[int, AnyArray], AnyArray]:
    """A function that runs a row of a tower with one of its values replaced, and returns the embedding."""
    engine = probe.load(tower, with_override(tower.graph, name, like))

    def run(row: int, value: AnyArray) -> AnyArray:
        feeds = {**tower.feeds[row], name: value.reshape(like.shape).astype(like.dtype)}
        return engine.run([tower.graph.embedding], feeds)[0]

    return run


def scene_between(probe: Probe, matching: Matching, pair: Pair) -> FaultScene:
    """Capture the nodes between the last values that agree and the first that do not, on the first row.

    Raises:
        ObservationError: Observing the values changes the result.
        SiglipOnnxError: The provider does not return the values.
    """
    nodes, sources = probe.candidate.graph.upstream([pair.candidate], matching.pairs)
    reference_nodes, _ = probe.reference.graph.upstream([pair.reference], set(matching.pairs.values()))
    segment = Segment((pair.candidate,), tuple(sorted(sources)), nodes, reference_nodes)
    values = next(probe.values(probe.candidate, [*segment.inputs, pair.candidate], [0]))
    actual = values[pair.candidate]
    expected = next(probe.values(probe.reference, [pair.reference], [0]))[pair.reference].reshape(actual.shape)
    return FaultScene(
        probe,
        segment,
        row=0,
        inputs={name: values[name] for name in segment.inputs},
        actual={pair.candidate: actual},
        expected={pair.candidate: expected},
        exact=False,
        shares_names=False,
    )


def embeddings_with_fix(probe: Probe, pair: Pair) -> AnyArray:
    """Embeddings of the candidate graph with its value replaced by the reference value, float32 [rows, size].

    Raises:
        ObservationError: Observing the values changes the result.
        SiglipOnnxError: The provider does not run the graph.
    """
    like = next(probe.values(probe.candidate, [pair.candidate], [0]))[pair.candidate]
    run = _runner(probe, probe.candidate, pair.candidate, like)
    rows = (values[pair.reference] for values in probe.values(probe.reference, [pair.reference]))
    return np.concatenate([run(row, value)[:1] for row, value in enumerate(rows)])
