"""The rungs that count right answers: zero-shot classification and retrieval, each sample answered by both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...runtime.artifact.contract import Verdict
from ..limits.defaults import Gate
from ..report.report import Check, Rung, at_most, inconclusive
from ..stats import metrics
from ..stats.paired_bound import Paired
from .context import Ladder
from .numeric import sense

Array = NDArray[Any]
Tables = Iterator[tuple[Array, Array, Array]]  # our logits, the reference's, and what is true
_TOPS: Final = (1, 5)
_RECALLS: Final = (1, 5, 10)
_ROWS: Final = 256  # of a table of logits in memory


@dataclass(frozen=True)
class Task:
    """Right answers of both, and the share of them.

    Attributes:
        name: What was asked.
        clear: What was lost and gained by more than a tie.
        paired: What was lost and gained at all, in independent questions.
        before: The reference's share of right answers.
        after: Ours.
    """

    name: str
    clear: Paired
    paired: Paired
    before: float
    after: float


def accuracy(ladder: Ladder) -> Iterator[Check]:
    """Zero-shot classification of pictures whose class is known, on these very samples."""
    yield from _on_these(ladder, Rung.ACCURACY, _classification)


def retrieval(ladder: Ladder) -> Iterator[Check]:
    """Recall of captions by pictures and of pictures by captions, on these very samples."""
    yield from _on_these(ladder, Rung.RETRIEVAL, _recalls)


def _on_these(ladder: Ladder, rung: Rung, count: Callable[[Ladder], list[Task]]) -> Iterator[Check]:
    if len(ladder.names) < ladder.gate.samples:
        yield inconclusive(rung, "pictures", f"{len(ladder.names)}; {ladder.gate.samples} are needed")
        return
    tasks = _once(ladder, count)
    if not tasks:
        yield inconclusive(rung, "questions", "every answer would be right: there is nothing false to choose")
    for task in tasks:
        detail = f"{task.before:.4f} to {task.after:.4f} on {task.clear.count:.0f}"
        yield at_most(rung, f"{task.name} lost", task.clear.loss, ladder.gate.recall_drop, detail)


def non_inferiority(ladder: Ladder) -> Iterator[Check]:
    """What may be lost on all pictures like these: PASS where more than the margin is excluded, FAIL where less is.

    A reference that finds nothing has nothing to lose.
    """
    yield sense(ladder, Rung.NON_INFERIORITY, "the reference finds captions or classes by luck")
    tasks = _once(ladder, _classification) if ladder.samples.classes else []
    tasks = tasks + _once(ladder, _recalls) if ladder.samples.pairs else tasks
    for task in tasks:
        yield _not_inferior(task, ladder.gate)


def _not_inferior(task: Task, gate: Gate) -> Check:
    paired, bound = task.paired, task.paired.upper(gate.confidence)
    rung, name = Rung.NON_INFERIORITY, f"{task.name} lost, at most with confidence {gate.confidence:g}"
    detail = f"{paired.lost:.3g} lost and {paired.gained:.3g} gained of {paired.count:.0f}"
    if bound <= gate.margin or not paired.lower(gate.confidence) <= gate.margin:
        return at_most(rung, name, bound, gate.margin, detail)
    needed = paired.needed(gate.margin, gate.confidence)
    advice = f"{max(needed, gate.samples)} samples like these would do" if needed else "no number like these would do"
    return Check(rung, name, Verdict.INCONCLUSIVE, bound, gate.margin, "at most", f"{detail}; {advice}")


def _once(ladder: Ladder, count: Callable[[Ladder], list[Task]]) -> list[Task]:
    if count not in ladder.counted:
        ladder.counted[count] = count(ladder)
    tasks: list[Task] = ladder.counted[count]
    return tasks


def _classification(ladder: Ladder) -> list[Task]:
    tables = iter([(*ladder.label_logits, ladder.class_truth)])
    return _tasks(ladder, tables, "top-{}", _TOPS)


def _recalls(ladder: Ladder) -> list[Task]:
    """Both ways, without the whole table of logits in memory."""
    pictures, captions = len(ladder.names), len(ladder.captions.rows)
    return [
        *_tasks(ladder, _by_picture(ladder), "image to text R@{}", _RECALLS),
        # Captions of one picture are no independent questions, so all of them together count as one.
        *_tasks(ladder, _by_text(ladder), "text to image R@{}", _RECALLS, min(1.0, pictures / captions)),
    ]


def _tasks(ladder: Ladder, tables: Tables, name: str, ks: tuple[int, ...], weight: float = 1.0) -> list[Task]:
    sums = {k: np.zeros(7) for k in ks}
    for ours, theirs, truth in tables:
        for k in ks:
            sums[k] += _count(ours, theirs, truth, k, ladder.gate.tie)
    return [_task(name.format(k), count, weight) for k, count in sums.items() if count[0]]


def _count(ours: Array, theirs: Array, truth: Array, k: int, tie: float) -> Array:
    """Rows that can be wrong; lost and gained clearly; lost and gained at all; right before and after."""
    some = metrics.telling(truth, k)
    if not some.any():
        return np.zeros(7)
    ours, theirs, truth = ours[some], theirs[some], truth[some]
    before, after = (metrics.hits(x, truth, k, 0.0) for x in (theirs, ours))
    clear = (
        (metrics.hits(theirs, truth, k, tie) & ~after).sum(),
        (metrics.hits(ours, truth, k, tie) & ~before).sum(),
    )
    at_all = ((before & ~after).sum(), (after & ~before).sum())
    return np.asarray([len(truth), *clear, *at_all, before.sum(), after.sum()], np.float64)


def _task(name: str, count: Array, weight: float) -> Task:
    rows, lost, gained, any_lost, any_gained, before, after = (float(x) for x in count)
    paired = Paired(any_lost * weight, any_gained * weight, rows * weight)
    return Task(name, Paired(lost, gained, rows), paired, before / rows, after / rows)


def _by_picture(ladder: Ladder) -> Tables:
    captions, count = ladder.captions, len(ladder.names)
    for start in range(0, count, _ROWS):
        some = range(start, min(start + _ROWS, count))
        yield *ladder.logits(some, captions.rows), captions.truth(some, range(len(captions.rows)))


def _by_text(ladder: Ladder) -> Tables:
    captions, pictures = ladder.captions, range(len(ladder.names))
    for start in range(0, len(captions.rows), _ROWS):
        some = range(start, min(start + _ROWS, len(captions.rows)))
        ours, theirs = ladder.logits(pictures, captions.rows[some.start : some.stop])
        yield ours.T, theirs.T, captions.truth(pictures, some).T
