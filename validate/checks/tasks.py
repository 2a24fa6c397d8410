"""The check groups that count right answers: zero-shot classification and retrieval, each sample answered by both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...runtime.artifact.contract import Verdict
from ..limits.defaults import Limits
from ..report.report import Check, CheckGroup, at_most, inconclusive
from ..stats import metrics
from ..stats.paired_bound import Paired
from .context import CheckContext
from .numeric import sense

Array = NDArray[Any]
Tables = Iterator[tuple[Array, Array, Array]]  # our logits, the reference's, and what is true
_TOPS: Final = (1, 5)
_RECALLS: Final = (1, 5, 10)
_ROWS: Final = 256  # of a table of logits in memory


@dataclass(frozen=True)
class TaskScores:
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


def accuracy(context: CheckContext) -> Iterator[Check]:
    """Zero-shot classification of images whose class is known, on these very samples."""
    yield from _on_these(context, CheckGroup.ACCURACY, _classification)


def retrieval(context: CheckContext) -> Iterator[Check]:
    """Recall of captions by images and of images by captions, on these very samples."""
    yield from _on_these(context, CheckGroup.RETRIEVAL, _recalls)


def _on_these(
    context: CheckContext, group: CheckGroup, count: Callable[[CheckContext], list[TaskScores]]
) -> Iterator[Check]:
    if len(context.names) < context.gate.samples:
        yield inconclusive(group, "images", f"{len(context.names)}; {context.gate.samples} are needed")
        return
    tasks = _once(context, count)
    if not tasks:
        yield inconclusive(group, "questions", "every answer would be right: there is nothing false to choose")
    for task in tasks:
        detail = f"{task.before:.4f} to {task.after:.4f} on {task.clear.count:.0f}"
        yield at_most(group, f"{task.name} lost", task.clear.loss, context.gate.recall_drop, detail)


def non_inferiority(context: CheckContext) -> Iterator[Check]:
    """What may be lost on all images like these: PASS where more than the margin is excluded, FAIL where less is.

    A reference that finds nothing has nothing to lose.
    """
    yield sense(context, CheckGroup.NON_INFERIORITY, "the reference finds captions or classes by luck")
    tasks = _once(context, _classification) if context.samples.classes else []
    tasks = tasks + _once(context, _recalls) if context.samples.pairs else tasks
    for task in tasks:
        yield _not_inferior(task, context.gate)


def _not_inferior(task: TaskScores, gate: Limits) -> Check:
    paired, bound = task.paired, task.paired.upper(gate.confidence)
    group, name = CheckGroup.NON_INFERIORITY, f"{task.name} lost, at most with confidence {gate.confidence:g}"
    detail = f"{paired.lost:.3g} lost and {paired.gained:.3g} gained of {paired.count:.0f}"
    if bound <= gate.margin or not paired.lower(gate.confidence) <= gate.margin:
        return at_most(group, name, bound, gate.margin, detail)
    needed = paired.samples_needed(gate.margin, gate.confidence)
    advice = f"{max(needed, gate.samples)} samples like these would do" if needed else "no number like these would do"
    return Check(group, name, Verdict.INCONCLUSIVE, bound, gate.margin, "at most", f"{detail}; {advice}")


def _once(context: CheckContext, count: Callable[[CheckContext], list[TaskScores]]) -> list[TaskScores]:
    if count not in context.counted:
        context.counted[count] = count(context)
    tasks: list[TaskScores] = context.counted[count]
    return tasks


def _classification(context: CheckContext) -> list[TaskScores]:
    tables = iter([(*context.label_logits, context.class_truth)])
    return _tasks(context, tables, "top-{}", _TOPS)


def _recalls(context: CheckContext) -> list[TaskScores]:
    """Both ways, without the whole table of logits in memory."""
    images, captions = len(context.names), len(context.captions.rows)
    return [
        *_tasks(context, _by_image(context), "image to text R@{}", _RECALLS),
        # Captions of one image are no independent questions, so all of them together count as one.
        *_tasks(context, _by_text(context), "text to image R@{}", _RECALLS, min(1.0, images / captions)),
    ]


def _tasks(
    context: CheckContext, tables: Tables, name: str, ks: tuple[int, ...], weight: float = 1.0
) -> list[TaskScores]:
    sums = {k: np.zeros(7) for k in ks}
    for ours, theirs, truth in tables:
        for k in ks:
            sums[k] += _count(ours, theirs, truth, k, context.gate.tie)
    return [_task(name.format(k), count, weight) for k, count in sums.items() if count[0]]


def _count(ours: Array, theirs: Array, truth: Array, k: int, tie: float) -> Array:
    """Rows that can be wrong; lost and gained clearly; lost and gained at all; right before and after."""
    some = metrics.nontrivial_rows(truth, k)
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


def _task(name: str, count: Array, weight: float) -> TaskScores:
    rows, lost, gained, any_lost, any_gained, before, after = (float(x) for x in count)
    paired = Paired(any_lost * weight, any_gained * weight, rows * weight)
    return TaskScores(name, Paired(lost, gained, rows), paired, before / rows, after / rows)


def _by_image(context: CheckContext) -> Tables:
    captions, count = context.captions, len(context.names)
    for start in range(0, count, _ROWS):
        some = range(start, min(start + _ROWS, count))
        yield *context.logits(some, captions.rows), captions.truth(some, range(len(captions.rows)))


def _by_text(context: CheckContext) -> Tables:
    captions, images = context.captions, range(len(context.names))
    for start in range(0, len(captions.rows), _ROWS):
        some = range(start, min(start + _ROWS, len(captions.rows)))
        ours, theirs = context.logits(images, captions.rows[some.start : some.stop])
        yield ours.T, theirs.T, captions.truth(images, some).T
