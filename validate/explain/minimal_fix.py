"""Finds the fewest segments that make a tower pass when they are replaced by the reference graph's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import numpy as np

from ...runtime.arrays import AnyArray
from ...runtime.errors import SiglipOnnxError
from .explanation import MinimalFix
from .graph_view import Segment
from .local_error import TowerErrors
from .probe import Probe
from .subgraph import hybrid

_T = TypeVar("_T")
BUDGET: Final = 200  # graphs; at full size each takes seconds


class OutOfBudgetError(Exception):
    """The search reached its limit of trials before it proved a result."""


class TrialBudget:
    """Tests sets of items, each set once, up to a limit.

    Args:
        passes: Whether a set passes.
        budget: Largest number of sets to test.

    Attributes:
        best: The smallest passing set so far; None before the first.
    """

    def __init__(self, passes: Callable[[Sequence[Any]], bool], budget: int = BUDGET) -> None:
        self._passes, self._budget = passes, budget
        self._results: dict[frozenset[Any], bool] = {}
        self.best: list[Any] | None = None

    @property
    def trials(self) -> int:
        """Number of sets tested so far."""
        return len(self._results)

    def __call__(self, items: Sequence[Any]) -> bool:
        """Test a set; raises OutOfBudgetError if the budget is used up."""
        key = frozenset(items)
        if key not in self._results:
            if len(self._results) == self._budget:
                raise OutOfBudgetError
            self._results[key] = self._passes(items)
        if self._results[key] and (self.best is None or len(items) < len(self.best)):
            self.best = list(items)
        return self._results[key]


def ddmin(items: Sequence[_T], passes: Callable[[Sequence[_T]], bool]) -> list[_T]:
    """Reduce a passing set until no single item can be removed.

    Delta debugging, algorithm ddmin of Zeller and Hildebrandt, IEEE Transactions on Software Engineering 28, 2002.

    Args:
        items: A passing set.
        passes: Whether a set passes; the empty set must not.
    """
    current, parts = list(items), 2
    while len(current) > 1:
        size = -(-len(current) // parts)
        subsets = [current[i : i + size] for i in range(0, len(current), size)]
        complements = [[item for item in current if item not in subset] for subset in subsets]
        if (smaller := next(filter(passes, subsets), None)) is not None:
            current, parts = smaller, 2
        elif (smaller := next(filter(passes, complements), None)) is not None:
            current, parts = smaller, max(parts - 1, 2)
        elif parts >= len(current):
            break
        else:
            parts = min(2 * parts, len(current))
    return current


def find_minimal_fix(
    probe: Probe, tower: TowerErrors, first: Segment | None, passes: Callable[[AnyArray], bool]
) -> MinimalFix | str:
    """Find the fewest segments to replace; return a sentence with the reason if there is no result.

    Args:
        probe: Both towers.
        tower: Their segments and local errors.
        first: The segment to try first.
        passes: Whether the tower would pass with the given embeddings.
    """
    if problem := _opsets_differ(probe):
        return problem
    order = _by_suspicion(tower, first)
    errors: list[SiglipOnnxError] = []

    def is_fixed(chosen: Sequence[Segment]) -> bool:
        probe.progress(f"Trying {len(chosen)} of {len(order)} steps in fp32, graph {trial.trials + 1}")
        try:
            mixed = hybrid(probe.candidate.graph, probe.reference.graph, chosen, tower.types)
            return passes(probe.run(probe.candidate, mixed))
        except SiglipOnnxError as error:  # a mixed graph that does not run is no fix
            errors.append(error)
            return False

    trial = TrialBudget(is_fixed)
    try:
        passing = next((order[:size] for size in _sizes(len(order)) if trial(order[:size])), None)
        if passing is None:
            reason = f" ({errors[-1]})" if errors else ""
            return f"Even with every step replaced by the reference graph's, the tower fails on this provider{reason}."
        steps, minimal = ddmin(passing, trial), True
    except OutOfBudgetError:
        if trial.best is None:
            return f"No set of steps that fixes the tower was found within {BUDGET} graphs."
        steps, minimal = trial.best, False
    names = tuple(probe.candidate.graph.node_names(s.candidate) for s in tower.segments if s in steps)
    return MinimalFix(names, trial.trials, minimal, len(order))


def _by_suspicion(tower: TowerErrors, first: Segment | None) -> list[Segment]:
    """Segments, the most suspicious first: the first faulty one, then by local error.

    Segments whose inputs are not finite have no local error; they follow the first one in graph order.
    """
    errors = {s: tower.errors[s].error if s in tower.errors else np.inf for s in tower.segments}
    return sorted(tower.segments, key=lambda segment: (segment != first, -errors[segment]))


def _sizes(count: int) -> list[int]:
    """1, 2, 4, … and the count itself."""
    sizes = [1]
    while sizes[-1] < count:
        sizes.append(min(2 * sizes[-1], count))
    return sizes


def _opsets_differ(probe: Probe) -> str:
    candidate, reference = (
        {entry.domain or "": entry.version for entry in tower.graph.model.opset_import}.get("")
        for tower in (probe.candidate, probe.reference)
    )
    if candidate == reference:
        return ""
    return f"The graphs cannot be mixed: the candidate has opset {candidate}, the reference opset {reference}."
