"""Finds the faulty nodes of a failing tower, in graphs that share their names and in graphs that do not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ...runtime.arrays import AnyArray
from ...runtime.errors import SiglipOnnxError
from .explanation import Culprit, MinimalFix, Origin
from .graph_view import Segment
from .local_error import TowerErrors, limit_of, measure, peer_errors, suspects
from .match_values import Matching, Pair, embeddings_with_fix, first_difference, match_values, scene_between
from .minimal_fix import find_minimal_fix
from .probe import ObservationError, Probe
from .replay import FOLDER, write_replay
from .root_cause import FaultScene, capture_scene, describe_culprit

Passes = Callable[[AnyArray], bool]
_SHOWN: Final = 4

_ORIGINS: Final = {
    Origin.FILE: "The fault is in the file: its nodes or weights are wrong.",
    Origin.PROVIDER: "The fault is in the provider: its result differs from the ONNX specification.",
    Origin.UNKNOWN: "Whether the file or the provider is at fault is unknown: the ONNX reference implementation lacks "
    "an operator.",
}


@dataclass(frozen=True)
class Localization:
    """The findings for one tower; see `Explanation` for the fields."""

    conclusion: str
    culprit: Culprit | None = None
    minimal_fix: MinimalFix | None = None
    replay: str = ""
    notes: tuple[str, ...] = ()


def localize_by_names(probe: Probe, passes: Passes, folder: Path) -> Localization:
    """Find the faulty nodes in a graph from the same exporter as the reference graph.

    Args:
        probe: Both towers.
        passes: Whether the tower would pass with the given embeddings.
        folder: Where to write the replay.
    """
    in_reference = probe.reference.graph.producers
    tower = measure(probe, [name for name in probe.candidate.graph.values if name in in_reference])
    failing = suspects(probe, tower)
    first = failing[0] if failing else None
    result = _first_fault(probe, tower, first, folder) if first else Localization(_accumulated(probe, tower))
    fix = find_minimal_fix(probe, tower, first, passes)
    notes = (*result.notes, *_notes(probe, tower, failing), *((fix,) if isinstance(fix, str) else ()))
    return replace(result, notes=notes, minimal_fix=fix if isinstance(fix, MinimalFix) else None)


def _first_fault(probe: Probe, tower: TowerErrors, first: Segment, folder: Path) -> Localization:
    limit = limit_of(probe, tower, first)
    try:
        scene = capture_scene(probe, first, tower.errors[first].row)
        culprit = describe_culprit(scene, limit, peer_errors(probe, tower, first))
    except (ObservationError, SiglipOnnxError) as error:
        names = ", ".join(probe.candidate.graph.node_names(first.candidate))
        return Localization(f"The first faulty step is {names}; it could not be examined further ({error}).")
    conclusion = f"{_short_name(culprit)} is the first faulty step. {_ORIGINS[culprit.origin]}"
    return _with_replay(Localization(conclusion, culprit), scene, limit, folder)


def _short_name(culprit: Culprit) -> str:
    """A step in few words: its nodes, or the reference nodes if quantization made many nodes of one."""
    names = min(culprit.nodes, culprit.reference_nodes, key=len) or culprit.outputs
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _with_replay(result: Localization, scene: FaultScene, limit: float, folder: Path) -> Localization:
    if problem := write_replay(folder, scene, limit):
        result = replace(result, notes=(*result.notes, problem))
    return replace(result, replay=FOLDER if (folder / FOLDER).exists() else "")


def _accumulated(probe: Probe, tower: TowerErrors) -> str:
    """The conclusion where no single step exceeds its limit."""
    ranked = sorted(tower.errors, key=lambda segment: -tower.errors[segment].error)[:_SHOWN]
    names = [f"{probe.candidate.graph.node_names(s.candidate)[-1]} {tower.errors[s].error:.2g}" for s in ranked]
    return f"No single step is faulty: errors within the limits accumulate. The largest: {', '.join(names)}."


def _notes(probe: Probe, tower: TowerErrors, failing: list[Segment]) -> list[str]:
    notes = []
    count = len(tower.hidden) + sum(len(segment.outputs) for segment in tower.segments)
    if len(failing) > 1:
        notes.append(f"Later steps that are faulty as well: {len(failing) - 1}.")
    if tower.hidden:
        notes.append(
            f"{len(tower.hidden)} of {count} values were not observed, because observing them changes what "
            f"{probe.candidate.options.provider} computes: {_few(tower.hidden)}. The nodes around each count as one "
            "step."
        )
    if tower.compensated:
        notes.append(
            f"These values differ, but later nodes compensate it, so they are no faults: {_few(tower.compensated)}."
        )
    if tower.unobserved:
        names = [probe.candidate.graph.node_names(segment.candidate)[-1] for segment in tower.unobserved]
        notes.append(f"Steps that could not be compared: {len(names)} ({_few(names)}).")
    if probe.candidate.jitter:
        notes.append(
            f"Two runs on the provider differ by {probe.candidate.jitter:.2g}, so observed values may differ as much."
        )
    return notes


def _few(names: Sequence[str]) -> str:
    return f"{', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''}"


def localize_by_values(probe: Probe, passes: Passes, folder: Path) -> Localization:
    """Find the faulty nodes in a graph from another exporter; see `localize_by_names` for the arguments."""
    try:
        matching = match_values(probe)
        pair = first_difference(probe, matching)
        if pair is None:
            return Localization(_unmatched(probe, matching))
        scene = scene_between(probe, matching, pair)
        culprit = describe_culprit(scene, matching.tolerance, ())
    except (ObservationError, SiglipOnnxError) as error:
        return Localization(f"The graph could not be examined: {error}")
    notes = (
        f"The graphs share no names: {len(matching.pairs)} values were matched by content. {pair.candidate} "
        f"corresponds to {pair.reference}: the reference graph gives the failing embedding when that value is "
        "replaced.",
    )
    conclusion = f"{_short_name(culprit)} is the first step that differs. {_ORIGINS[culprit.origin]}"
    result = _with_replay(Localization(conclusion, culprit, notes=notes), scene, matching.tolerance, folder)
    return _with_proof(result, probe, pair, passes)


def _unmatched(probe: Probe, matching: Matching) -> str:
    """The conclusion where no pair of differing values was found."""
    graph, names = probe.candidate.graph, matching.candidate
    node = graph.nodes[graph.producers[names[0]]] if names else None
    first = f"; the first unmatched value comes from {node.name or node.output[0]}" if node else ""
    return (
        f"The graphs share no names. {len(matching.pairs)} values were matched by content{first}. The value of the "
        "reference graph that corresponds to the first wrong value was not found."
    )


def _with_proof(result: Localization, probe: Probe, pair: Pair, passes: Passes) -> Localization:
    """Add whether the tower passes when the nodes return the reference value."""
    try:
        is_fixed = passes(embeddings_with_fix(probe, pair))
    except (ObservationError, SiglipOnnxError) as error:
        note = f"Whether fixing these nodes is enough is unknown: {error}"
        return replace(result, notes=(*result.notes, note))
    if not is_fixed:
        return replace(result, notes=(*result.notes, "Fixing these nodes is not enough: later nodes are wrong too."))
    names = result.culprit.nodes if result.culprit else ()
    return replace(result, minimal_fix=MinimalFix((names,), 1, minimal=True, total_steps=1))
