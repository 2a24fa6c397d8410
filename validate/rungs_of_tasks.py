"""The rungs that count right answers: zero-shot classification and retrieval, each sample answered by both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..runtime.contract import Verdict
from . import metrics
from .gates import Gate
from .ladder import Ladder
from .paired import Paired
from .report import Check, Rung, at_most, inconclusive
from .rungs_of_numbers import sense

Array = NDArray[Any]
_TOPS: Final = (1, 5)
_RECALLS: Final = (1, 5, 10)
_ROWS: Final = 256  # of a table of logits in memory


@dataclass(frozen=True)
class Task:
    """Right answers of both, and the share of them."""

    name: str
    paired: Paired
    before: float
    after: float

    @property
    def detail(self) -> str:
        """In words."""
        return f"{self.before:.4f} to {self.after:.4f} on {self.paired.count:.0f}"


def accuracy(ladder: Ladder) -> Iterator[Check]:
    """Zero-shot classification of pictures whose class is known, on these very samples."""
    if few := _too_few(ladder, Rung.ACCURACY):
        yield few
        return
    for task in _classification(ladder):
        yield at_most(Rung.ACCURACY, f"{task.name} lost", task.paired.loss, ladder.gate.recall_drop, task.detail)


def retrieval(ladder: Ladder) -> Iterator[Check]:
    """Recall of captions by pictures and of pictures by captions, on these very samples."""
    if few := _too_few(ladder, Rung.RETRIEVAL):
        yield few
        return
    if ladder.foreign:
        texts, truth = ladder.captions
        yield sense(Rung.RETRIEVAL, ladder.logits(range(len(truth)), texts)[1], truth, ladder.foreign)
    for task in _recalls(ladder):
        yield at_most(Rung.RETRIEVAL, f"{task.name} lost", task.paired.loss, ladder.gate.recall_drop, task.detail)


def non_inferiority(ladder: Ladder) -> Iterator[Check]:
    """What may be lost on all pictures like these: PASS where more than the margin is excluded, FAIL where less is."""
    tasks = [*(_classification(ladder) if ladder.samples.classes else ())]
    tasks += _recalls(ladder) if ladder.samples.pairs else ()
    for task in tasks:
        yield _not_inferior(task, ladder.gate)


def _not_inferior(task: Task, gate: Gate) -> Check:
    paired, bound = task.paired, task.paired.upper(gate.confidence)
    rung, name = Rung.NON_INFERIORITY, f"{task.name} lost, at most with confidence {gate.confidence:g}"
    detail = f"{paired.lost:.0f} lost and {paired.gained:.0f} gained of {paired.count:.0f}"
    if bound <= gate.margin or not paired.lower(gate.confidence) <= gate.margin:
        return at_most(rung, name, bound, gate.margin, detail)
    needed = paired.needed(gate.margin, gate.confidence)
    advice = f"{needed} samples like these would do" if needed else "no number of samples like these would do"
    return Check(rung, name, Verdict.INCONCLUSIVE, bound, gate.margin, "at most", f"{detail}; {advice}")


def _too_few(ladder: Ladder, rung: Rung) -> Check | None:
    count = len(ladder.names)
    if count >= ladder.gate.samples:
        return None
    return inconclusive(rung, "pictures", f"{count}; {ladder.gate.samples} are needed")


def _classification(ladder: Ladder) -> list[Task]:
    (ours, theirs), truth = ladder.label_logits, ladder.class_truth
    return [_task(f"top-{k}", _count(ours, theirs, truth, k, ladder.gate.tie)) for k in _TOPS if k < truth.shape[1]]


def _recalls(ladder: Ladder) -> list[Task]:
    """Both ways, for each k, without the whole table of logits in memory."""
    tasks = []
    for way, tables in (("image to text", _by_picture), ("text to image", _by_text)):
        counts = {k: np.zeros(5) for k in _RECALLS}
        for ours, theirs, truth in tables(ladder):
            for k in _RECALLS:
                counts[k] += _count(ours, theirs, truth, k, ladder.gate.tie)
        tasks += [_task(f"{way} R@{k}", count) for k, count in counts.items()]
    return tasks


def _count(ours: Array, theirs: Array, truth: Array, k: int, tie: float) -> Array:
    """Rows lost, gained, all, right before and right after."""
    lost, gained = metrics.lost_and_gained(ours, theirs, truth, k, tie)
    before, after = (metrics.hits(x, truth, k, 0.0).sum() for x in (theirs, ours))
    return np.asarray([lost, gained, len(truth), before, after], np.float64)


def _task(name: str, count: Array) -> Task:
    lost, gained, rows, before, after = (float(x) for x in count)
    return Task(name, Paired(lost, gained, rows), before / rows, after / rows)


def _by_picture(ladder: Ladder) -> Iterator[tuple[Array, Array, Array]]:
    texts, truth = ladder.captions
    for start in range(0, len(truth), _ROWS):
        some = range(start, min(start + _ROWS, len(truth)))
        yield *ladder.logits(some, texts), truth[some]


def _by_text(ladder: Ladder) -> Iterator[tuple[Array, Array, Array]]:
    texts, truth = ladder.captions
    for start in range(0, len(texts), _ROWS):
        ours, theirs = ladder.logits(range(len(truth)), texts[start : start + _ROWS])
        yield ours.T, theirs.T, truth[:, start : start + _ROWS].T
