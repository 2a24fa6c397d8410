"""The fewest segments that make a tower pass when they are taken from the trusted graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from ...runtime.errors import SiglipOnnxError
from .explanation import Remedy
from .graph_view import Segment
from .local_error import LocalError
from .probe import Probe
from .subgraph import hybrid

Array = NDArray[Any]
_T = TypeVar("_T")
BUDGET: Final = 200  # graphs; at full size one takes seconds


class OutOfBudgetError(Exception):
    """So many sets were tried that the search ends without a proof."""


class Trial:
    """Tries sets of items, each once.

    Args:
        good: Whether a set is good.
        budget: How many sets may be tried.

    Attributes:
        evaluations: How many were.
        best: The smallest good set so far.
    """

    def __init__(self, good: Callable[[Sequence[Any]], bool], budget: int = BUDGET) -> None:
        self._good, self._budget = good, budget
        self._known: dict[frozenset[Any], bool] = {}
        self.best: list[Any] | None = None

    @property
    def evaluations(self) -> int:
        """How many sets were tried."""
        return len(self._known)

    def __call__(self, items: Sequence[Any]) -> bool:
        """Whether a set is good; raises OutOfBudgetError."""
        key = frozenset(items)
        if key not in self._known:
            if len(self._known) == self._budget:
                raise OutOfBudgetError
            self._known[key] = self._good(items)
        if self._known[key] and (self.best is None or len(items) < len(self.best)):
            self.best = list(items)
        return self._known[key]


def ddmin(items: Sequence[_T], good: Callable[[Sequence[_T]], bool]) -> list[_T]:
    """A part of a good set that is good and of which nothing can be spared.

    Delta debugging, algorithm ddmin of Zeller and Hildebrandt, IEEE Transactions on Software Engineering 28, 2002.

    Args:
        items: A good set.
        good: Whether a set is good; the empty one is not.
    """
    found, parts = list(items), 2
    while len(found) > 1:
        size = -(-len(found) // parts)
        some = [found[i : i + size] for i in range(0, len(found), size)]
        rest = [[item for item in found if item not in part] for part in some]
        kept = next(filter(good, some), None)
        if kept is not None:
            found, parts = kept, 2
            continue
        kept = next(filter(good, rest), None)
        if kept is not None:
            found, parts = kept, max(parts - 1, 2)
        elif parts >= len(found):
            break
        else:
            parts = min(2 * parts, len(found))
    return found


def find_remedy(
    bench: Probe, known: LocalError, first: Segment | None, enough: Callable[[Array], bool]
) -> Remedy | str:
    """The fewest segments that must be taken from the trusted graph, or why they were not found.

    Args:
        bench: Both towers.
        known: Their segments and errors.
        first: What is most likely enough.
        enough: Whether the tower would pass with these embeddings.
    """
    if problem := _opsets_differ(bench):
        return problem
    order = _likely(known, first)
    said: list[SiglipOnnxError] = []

    def good(chosen: Sequence[Segment]) -> bool:
        bench.progress(f"Trying {len(chosen)} of {len(order)} steps in fp32, graph {trial.evaluations + 1}")
        try:
            return enough(bench.run(bench.judged, hybrid(bench.judged.net, bench.trusted.net, chosen, known.types)))
        except SiglipOnnxError as error:  # such a mixture does not run, so it is no remedy
            said.append(error)
            return False

    trial = Trial(good)
    try:
        passing = next((order[:size] for size in _sizes(len(order)) if trial(order[:size])), None)
        if passing is None:
            reason = f" ({said[-1]})" if said else ""
            return f"Not even with every step from the trusted graph does the tower pass on this provider{reason}."
        found, minimal = ddmin(passing, trial), True
    except OutOfBudgetError:
        if trial.best is None:
            return f"No set of steps was found that mends the tower, in {BUDGET} graphs."
        found, minimal = trial.best, False
    found = [segment for segment in known.segments if segment in found]
    names = tuple(bench.judged.net.names(segment.ours) for segment in found)
    return Remedy(names, trial.evaluations, minimal, len(order))


def _likely(known: LocalError, first: Segment | None) -> list[Segment]:
    """Segments, the most likely first: the first culprit, then by their own error.

    Those whose inputs are not finite have none; they come early, in the order of the graph.
    """
    errors = {segment: known.own[segment].error if segment in known.own else np.inf for segment in known.segments}
    return sorted(known.segments, key=lambda segment: (segment != first, -errors[segment]))


def _sizes(count: int) -> list[int]:
    sizes = [1]
    while sizes[-1] < count:
        sizes.append(min(2 * sizes[-1], count))
    return sizes


def _opsets_differ(bench: Probe) -> str:
    ours, theirs = (
        {entry.domain or "": entry.version for entry in one.net.model.opset_import}
        for one in (bench.judged, bench.trusted)
    )
    if ours.get("") == theirs.get(""):
        return ""
    return f"The graphs cannot be mixed: opset {ours.get('')} and {theirs.get('')}."
