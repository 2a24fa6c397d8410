"""Search for the sites to leave at higher precision, so that a goal is met at the least cost; by measurement alone.

Sites are ranked by their error per weight when they alone are quantized. Bisection finds the shortest prefix of that
ranking whose exclusion meets the goal. Then sites that need not be excluded are quantized after all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from ...runtime.errors import QuantizationError
from ..sites import Exclusions
from .goal import BISECTION_TRIALS, Goal, Measurement
from .search_log import SearchLog, SearchStep


def search(
    candidates: dict[str, int],
    evaluate: Callable[[Exclusions, bool], Measurement],
    goal: Goal,
    log: SearchLog,
    progress: Callable[[str], None],
) -> Exclusions:
    """Return the cheapest exclusions found that meet a goal.

    Args:
        candidates: Names that may be excluded, with their numbers of weights.
        evaluate: Derives a tower with exclusions and measures it; the flag says whether to time it.
        goal: The goal to meet.
        log: Trials of an earlier run of the same search; new trials are added.
        progress: Called with a line of text for each trial.

    Raises:
        QuantizationError: No tower with at least one quantized site meets the goal.
    """
    trials = _Trials(evaluate, goal, log, progress)
    if trials.meets_goal(frozenset()):
        return frozenset()
    everything = frozenset(candidates)
    groups = _groups(candidates, goal.max_trials - BISECTION_TRIALS)
    ranking = _ranking(candidates, groups, trials)
    chosen = _bisect(ranking, trials)
    if len(chosen) == len(ranking):
        raise _unreachable(goal, log, everything)
    return _union(_without_needless(candidates, chosen, trials))


@dataclass(frozen=True)
class _Trials:
    """Measures towers, each once."""

    evaluate: Callable[[Exclusions, bool], Measurement]
    goal: Goal
    log: SearchLog
    progress: Callable[[str], None]

    def measure(self, exclude: Exclusions, timed: bool = True) -> Measurement:
        known = self.log.steps.get(exclude)
        if known is None or (timed and known.measured.speed is None):
            self.log.add(SearchStep(tuple(sorted(exclude)), self.evaluate(exclude, timed)))
        measured = self.log.steps[exclude].measured
        count = f"Trial {len(self.log.steps)} of at most {self.goal.max_trials}"
        self.progress(f"{count}, {len(exclude)} excluded: {self.goal.describe(measured)}")
        return measured

    def meets_goal(self, exclude: Exclusions) -> bool:
        return self.goal.is_met(self.measure(exclude))

    @property
    def are_left(self) -> bool:
        return len(self.log.steps) < self.goal.max_trials


def _groups(candidates: Iterable[str], limit: int) -> list[Exclusions]:
    """Candidates one by one, or grouped by module if there are more than the limit."""
    names = list(candidates)
    for depth in (4, 3, 2, 1):
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(".".join(name.split(".")[:depth]), []).append(name)
        if len(groups) <= limit:
            break
    return [frozenset(group) for group in groups.values()]


def _ranking(candidates: dict[str, int], groups: list[Exclusions], trials: _Trials) -> list[Exclusions]:
    """Groups by their error per weight when they alone are quantized, the largest first."""
    everything = frozenset(candidates)

    def sensitivity(group: Exclusions) -> float:
        loss = trials.goal.loss(trials.measure(everything - group, timed=False))
        return loss / sum(candidates[name] for name in group)

    return sorted(groups, key=sensitivity, reverse=True)


def _bisect(ranking: list[Exclusions], trials: _Trials) -> list[Exclusions]:
    """The shortest prefix of the ranking that meets the goal."""
    fails, meets = 0, len(ranking)  # no exclusion fails; if all is excluded, the tower is float32
    while meets - fails > 1:
        middle = (fails + meets) // 2
        if trials.meets_goal(_union(ranking[:middle])):
            meets = middle
        else:
            fails = middle
    return ranking[:meets]


def _without_needless(candidates: dict[str, int], chosen: list[Exclusions], trials: _Trials) -> list[Exclusions]:
    """The chosen groups without those that need not be excluded; the largest is tried first."""
    for group in sorted(chosen, key=lambda group: -sum(candidates[name] for name in group)):
        others = [other for other in chosen if other != group]
        if trials.are_left and trials.meets_goal(_union(others)):
            chosen = others
    return chosen


def _union(groups: Iterable[Exclusions]) -> Exclusions:
    return frozenset().union(*groups)


def _unreachable(goal: Goal, log: SearchLog, everything: Exclusions) -> QuantizationError:
    timed = [step for step in log.steps.values() if set(step.excluded) < everything and step.measured.speed is not None]
    best = min(timed, key=lambda step: goal.loss(step.measured))
    measured = best.measured
    return QuantizationError(
        f"No tower reaches the target {goal.metric} {goal.target}. The best of {len(log.steps)} trials has "
        f"{goal.describe(measured)} with {len(best.excluded)} of {len(everything)} sites excluded, "
        f"{measured.bytes / 1e6:.1f} MB and {measured.speed:.2f} times the speed of fp32.",
        "Lower the target, or use a higher precision.",
    )
