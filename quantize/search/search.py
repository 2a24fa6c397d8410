"""Which sites to leave at higher precision, so that a target is met at the least cost; by measurement alone.

Sites are ranked by the error that each makes when it alone is quantized, per weight; then the shortest prefix of that
ranking whose keeping meets the target is found by bisection, and kept sites that turn out not to be needed are given
back.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

import msgspec

from ...runtime.errors import InputError, QuantizationError
from ...runtime.files import write_file

Keep = frozenset[str]
_BISECTION: Final = 12  # evaluations set aside for what follows the ranking


class Metric(StrEnum):
    """What a target is about.

    CENTRED_COSINE is the mean over rows, LOGIT_SIGMA the spread of the logits' differences once offset and slope are
    taken off, RETRIEVAL_DROP the larger loss of R@1 of both directions.
    """

    CENTRED_COSINE = "centered-cosine"
    LOGIT_SIGMA = "logit-sigma"
    RETRIEVAL_DROP = "retrieval-drop"


@dataclass(frozen=True)
class Measurement:
    """A tower derived with some candidates kept, against the float32 tower.

    What came out as NaN is None and as bad as can be; speed is None where it was not timed.
    """

    centered_cosine: float | None
    centered_cosine_min: float | None
    logit_sigma: float | None
    retrieval_drop: float | None
    bytes: int
    speed: float | None = None


DEFAULT_TARGETS: Final = {Metric.CENTRED_COSINE: 0.999, Metric.LOGIT_SIGMA: 0.2, Metric.RETRIEVAL_DROP: 0.005}
_SENSIBLE: Final = {
    Metric.CENTRED_COSINE: (0.0, 1.0),
    Metric.LOGIT_SIGMA: (0.0, math.inf),
    Metric.RETRIEVAL_DROP: (0.0, 1.0),
}


@dataclass(frozen=True)
class SearchStep:
    """What was kept, and what came of it."""

    keep: tuple[str, ...]
    measured: Measurement


@dataclass(frozen=True)
class Goal:
    """What has to be reached.

    Attributes:
        target: The least centered cosine, or the largest sigma or drop.
        metric: Of what.
        evaluations: The most towers that may be derived and measured.

    Raises:
        InputError: No quantized tower can reach the target, or there are too few evaluations.
    """

    target: float
    metric: Metric = Metric.CENTRED_COSINE
    evaluations: int = 160

    def __post_init__(self) -> None:
        low, high = _SENSIBLE[self.metric]
        if not low <= self.target < high or (self.target == 0 and self.metric is Metric.CENTRED_COSINE):
            example = f"--target {DEFAULT_TARGETS[self.metric]}"
            raise InputError(f"A {self.metric} of {self.target} is no target.", f"For example: {example}.")
        if self.evaluations <= _BISECTION:
            raise InputError(
                f"{self.evaluations} evaluations are too few to search with.", f"Allow more than {_BISECTION}."
            )

    def value(self, measured: Measurement) -> float | None:
        """The metric as users know it."""
        return getattr(measured, str(self.metric).replace("-", "_"))  # type: ignore[no-any-return]

    def loss(self, measured: Measurement) -> float:
        """The metric as something to make small."""
        value = self.value(measured)
        if value is None:
            return math.inf
        return 1 - value if self.metric is Metric.CENTRED_COSINE else value

    def met(self, measured: Measurement) -> bool:
        """Whether the target is reached."""
        return self.loss(measured) <= (1 - self.target if self.metric is Metric.CENTRED_COSINE else self.target)

    def told(self, measured: Measurement) -> str:
        """The metric in words."""
        value = self.value(measured)
        return f"{self.metric} {'not a number' if value is None else f'{value:.6f}'}"


class SearchLog:
    """Every evaluation, written down at once, so that an interrupted search goes on where it was.

    Args:
        path: Where.
        key: What the search is about; a diary of something else is not read.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self.steps: dict[Keep, SearchStep] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        try:
            found = msgspec.json.decode(self.path.read_bytes(), type=tuple[str, list[SearchStep]])
        except (OSError, msgspec.DecodeError):
            return  # a diary is a convenience; one that cannot be read is begun anew
        if found[0] == self.key:
            self.steps = {frozenset(step.keep): step for step in found[1]}

    def add(self, step: SearchStep) -> None:
        """Note a step; raises OSError where it cannot be written."""
        self.steps[frozenset(step.keep)] = step
        self.path.parent.mkdir(exist_ok=True)
        write_file(self.path, msgspec.json.encode((self.key, list(self.steps.values()))))

    def remove(self) -> None:
        """Part with the file."""
        self.path.unlink(missing_ok=True)


def search(
    candidates: dict[str, int],
    evaluate: Callable[[Keep, bool], Measurement],
    goal: Goal,
    diary: SearchLog,
    progress: Callable[[str], None],
) -> Keep:
    """The cheapest set found to keep.

    Args:
        candidates: What may be kept, with its number of weights.
        evaluate: Derives a tower with some kept and measures it; the flag says whether to time it.
        goal: What to reach.
        diary: What was measured before, and where to note what is measured now.
        progress: Told of each evaluation.

    Raises:
        QuantizationError: The target is reached by no tower in which anything is quantized.
    """

    def measure(keep: Keep, timed: bool = True) -> Measurement:
        known = diary.steps.get(keep)
        if known is None or (timed and known.measured.speed is None):
            diary.add(SearchStep(tuple(sorted(keep)), evaluate(keep, timed)))
        measured = diary.steps[keep].measured
        count = f"Evaluation {len(diary.steps)} of at most {goal.evaluations}"
        progress(f"{count}, {len(keep)} kept: {goal.told(measured)}")
        return measured

    nothing: Keep = frozenset()
    if goal.met(measure(nothing)):
        return nothing
    groups = _grouped(candidates, goal.evaluations - _BISECTION)
    everything = frozenset(candidates)
    sensitivity = {
        group: goal.loss(measure(everything - group, timed=False)) / sum(candidates[name] for name in group)
        for group in groups
    }
    ranking = sorted(groups, key=sensitivity.__getitem__, reverse=True)
    kept = _bisect(ranking, lambda keep: goal.met(measure(keep)))
    if len(kept) == len(ranking):
        raise _impossible(goal, diary, everything)
    for group in sorted(kept, key=lambda group: -sum(candidates[name] for name in group)):
        rest = [other for other in kept if other != group]
        if len(diary.steps) < goal.evaluations and goal.met(measure(_union(rest))):
            kept = rest
    return _union(kept)


def _bisect(ranking: list[Keep], met: Callable[[Keep], bool]) -> list[Keep]:
    fails, meets = 0, len(ranking)  # keeping nothing fails; keeping everything is the float32 tower
    while meets - fails > 1:
        middle = (fails + meets) // 2
        if met(_union(ranking[:middle])):
            meets = middle
        else:
            fails = middle
    return ranking[:meets]


def _grouped(candidates: Iterable[str], most: int) -> list[Keep]:
    """Candidates one by one, or by common module where there are too many of them."""
    names = list(candidates)
    for depth in (4, 3, 2, 1):
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(".".join(name.split(".")[:depth]), []).append(name)
        if len(groups) <= most:
            break
    return [frozenset(group) for group in groups.values()]


def _union(groups: Iterable[Keep]) -> Keep:
    return frozenset().union(*groups)


def _impossible(goal: Goal, diary: SearchLog, everything: Keep) -> QuantizationError:
    tried = [step for step in diary.steps.values() if set(step.keep) < everything and step.measured.speed is not None]
    best = min(tried, key=lambda step: goal.loss(step.measured))
    measured = best.measured
    return QuantizationError(
        f"The target {goal.metric} {goal.target} was not reached: the best of {len(diary.steps)} evaluations is "
        f"{goal.told(measured)} with {len(best.keep)} of {len(everything)} sites kept at higher precision, which "
        f"makes {measured.bytes / 1e6:.1f} MB and {measured.speed:.2f} times the speed of fp32.",
        "Lower the target, or use a higher precision.",
    )


def fingerprint(**parts: object) -> str:
    """What a search is about, as text."""
    return json.dumps(parts, sort_keys=True, default=str)
