"""From a tower that is off to the nodes, between graphs of one exporter and between graphs of two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from numpy.typing import NDArray

from ...runtime.errors import SiglipOnnxError
from .explanation import Culprit, Origin, Remedy
from .graph_view import Segment
from .local_error import LocalError, limit_of, measure, peers_of, suspects
from .match_values import Matching, Pair, first_difference, match, mended, scene_between
from .minimal_fix import find_remedy
from .probe import ChangedError, Probe
from .replay import FOLDER, write_replay
from .root_cause import Scene, culprit_of, scene_of

Array = NDArray[Any]
Enough = Callable[[Array], bool]
_SHOWN: Final = 4

_WHERE: Final = {
    Origin.FILE: "The file says so: its nodes or weights are to blame.",
    Origin.PROVIDER: "By the letter of ONNX the nodes are right: the provider computes them otherwise.",
    Origin.UNKNOWN: "Whether file or provider is to blame is not known: ONNX's reference implementation lacks them.",
}


@dataclass(frozen=True)
class Trace:
    """What was found in a tower; see `Explanation`."""

    conclusion: str
    culprit: Culprit | None = None
    remedy: Remedy | None = None
    replay: str = ""
    notes: tuple[str, ...] = ()


def trace_kin(bench: Probe, enough: Enough, folder: Path) -> Trace:
    """Find the nodes in a graph that the same exporter made as the trusted one.

    Args:
        bench: Both towers.
        enough: Whether the tower would pass with these embeddings.
        folder: Where a replay is written to.
    """
    theirs = bench.trusted.net.makers
    known = measure(bench, [name for name in bench.judged.net.values if name in theirs])
    off = suspects(bench, known)
    first = off[0] if off else None
    trace = _first(bench, known, first, folder) if first else Trace(_gradual(bench, known))
    remedy = find_remedy(bench, known, first, enough)
    notes = (*trace.notes, *_notes(bench, known, off), *((remedy,) if isinstance(remedy, str) else ()))
    return replace(trace, notes=notes, remedy=remedy if isinstance(remedy, Remedy) else None)


def _first(bench: Probe, known: LocalError, first: Segment, folder: Path) -> Trace:
    limit = limit_of(bench, known, first)
    try:
        scene = scene_of(bench, first, known.own[first].row)
        culprit = culprit_of(scene, limit, peers_of(bench, known, first))
    except (ChangedError, SiglipOnnxError) as error:
        names = ", ".join(bench.judged.net.names(first.ours))
        return Trace(f"The first that is off is {names}; it could not be looked into ({error}).")
    conclusion = f"{_called(culprit)} is the first step that is off by itself. {_WHERE[culprit.origin]}"
    return _with_replay(Trace(conclusion, culprit), scene, limit, folder)


def _called(culprit: Culprit) -> str:
    """A step in few words: its nodes, or the trusted ones where quantizing made many of one."""
    names = min(culprit.nodes, culprit.trusted_nodes, key=len) or culprit.outputs
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"


def _with_replay(trace: Trace, scene: Scene, limit: float, folder: Path) -> Trace:
    if problem := write_replay(folder, scene, limit):
        trace = replace(trace, notes=(*trace.notes, problem))
    return replace(trace, replay=FOLDER if (folder / FOLDER).exists() else "")


def _gradual(bench: Probe, known: LocalError) -> str:
    """What to say where no step is off."""
    ranked = sorted(known.own, key=lambda segment: -known.own[segment].error)[:_SHOWN]
    names = [f"{bench.judged.net.names(s.ours)[-1]} {known.own[s].error:.2g}" for s in ranked]
    return f"No step is off by itself: errors that are each small enough add up. The largest: {', '.join(names)}."


def _notes(bench: Probe, known: LocalError, off: list[Segment]) -> list[str]:
    notes = []
    count = len(known.hidden) + sum(len(segment.outputs) for segment in known.segments)
    if len(off) > 1:
        notes.append(f"{len(off) - 1} steps behind it are off by themselves as well.")
    if known.hidden:
        notes.append(
            f"{len(known.hidden)} of {count} values were not looked at, since "
            f"looking changes what {bench.judged.options.provider} computes: {', '.join(known.hidden[:_SHOWN])}"
            f"{', …' if len(known.hidden) > _SHOWN else ''}. The nodes around each count as one step."
        )
    if known.looked_through:
        names = ", ".join(known.looked_through[:_SHOWN])
        more = ", …" if len(known.looked_through) > _SHOWN else ""
        notes.append(f"Values in another form, which the nodes behind expect so, are no faults: {names}{more}.")
    if known.unseen:
        names = ", ".join(bench.judged.net.names(segment.ours)[-1] for segment in known.unseen[:_SHOWN])
        notes.append(f"{len(known.unseen)} steps could not be compared: {names}.")
    if bench.judged.jitter:
        notes.append(
            f"The provider's own runs differ by {bench.judged.jitter:.2g}, so looking was allowed to change as much."
        )
    return notes


def trace_foreign(bench: Probe, enough: Enough, folder: Path) -> Trace:
    """Find the nodes in somebody else's graph; arguments as of `trace_kin`."""
    try:
        known = match(bench)
        pair = first_difference(bench, known)
        if pair is None:
            return Trace(_unmatched(bench, known))
        scene = scene_between(bench, known, pair)
        culprit = culprit_of(scene, known.tolerance, ())
    except (ChangedError, SiglipOnnxError) as error:
        return Trace(f"The graph could not be looked into: {error}")
    notes = (
        f"The graphs share no names: {len(known.pairs)} values were matched by what they hold, and {pair.ours} stands "
        f"for {pair.theirs}, since the trusted graph gives the failing embedding when it is given that value.",
    )
    conclusion = f"{_called(culprit)} is the first that does not agree. {_WHERE[culprit.origin]}"
    trace = _with_replay(Trace(conclusion, culprit, notes=notes), scene, known.tolerance, folder)
    return _with_proof(trace, bench, pair, enough)


def _unmatched(bench: Probe, known: Matching) -> str:
    places = bench.judged.net
    first = places.nodes[places.makers[known.ours[0]]] if known.ours else None
    where = f"; the first value that agrees with none comes from {first.name or first.output[0]}" if first else ""
    return (
        f"The graphs share no names. {len(known.pairs)} values agree by what they hold{where}. Which value of the "
        "trusted graph the first wrong one stands for was not found."
    )


def _with_proof(trace: Trace, bench: Probe, pair: Pair, enough: Enough) -> Trace:
    """Whether the tower passes once the nodes give the trusted value."""
    try:
        passes = enough(mended(bench, pair))
    except (ChangedError, SiglipOnnxError) as error:
        return replace(trace, notes=(*trace.notes, f"Whether mending it is enough was not found out: {error}"))
    if not passes:
        return replace(trace, notes=(*trace.notes, "Mending it is not enough: there is more behind it."))
    names = trace.culprit.nodes if trace.culprit else ()
    return replace(trace, remedy=Remedy((names,), 1, minimal=True, candidates=1))
