"""Check groups that count right answers in zero-shot classification and retrieval, sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from ...runtime.artifact.contract import Verdict
from ..limits.defaults import Limits
from ..report.report import Check, CheckGroup, at_most, inconclusive
from .context import CheckContext
from .numeric import reference_makes_sense
from .task_scores import LogitTriples, TaskScores, score_tables

_TOPS: Final = (1, 5)
_RECALLS: Final = (1, 5, 10)
_ROWS: Final = 256  # of a logit table in memory


Scorer = Callable[[CheckContext], list[TaskScores]]


def accuracy(context: CheckContext) -> Iterator[Check]:
    """Zero-shot classification of images with known classes: the loss on exactly these samples."""
    yield from _losses(context, CheckGroup.ACCURACY, _classification)


def retrieval(context: CheckContext) -> Iterator[Check]:
    """Recall of captions by images and of images by captions: the loss on exactly these samples."""
    yield from _losses(context, CheckGroup.RETRIEVAL, _recalls)


def _losses(context: CheckContext, group: CheckGroup, score: Scorer) -> Iterator[Check]:
    images = len(context.inputs.names)
    if images < context.limits.samples:
        yield inconclusive(group, "images", f"{images}; {context.limits.samples} are needed")
        return
    tasks = score(context)
    if not tasks:
        yield inconclusive(group, "questions", "every answer is right: there is no wrong one to choose")
    for task in tasks:
        detail = f"{task.before:.4f} to {task.after:.4f} on {task.clear.count:.0f}"
        yield at_most(group, f"{task.name} lost", task.clear.loss, context.limits.recall_drop, detail)


def non_inferiority(context: CheckContext) -> Iterator[Check]:
    """Bound the loss on all images like these: PASS if it excludes more than the margin, FAIL if less.

    A reference that finds nothing has no accuracy to lose, so its hits must not be chance.
    """
    claim = "the reference finds captions or classes by luck"
    yield reference_makes_sense(context, CheckGroup.NON_INFERIORITY, claim)
    tasks = _classification(context) if context.samples.classes else []
    tasks = tasks + _recalls(context) if context.samples.pairs else tasks
    for task in tasks:
        yield _not_inferior(task, context.limits)


def _not_inferior(task: TaskScores, limits: Limits) -> Check:
    paired, bound = task.paired, task.paired.upper(limits.confidence)
    group, name = CheckGroup.NON_INFERIORITY, f"{task.name} lost, at most with confidence {limits.confidence:g}"
    detail = f"{paired.lost:.3g} lost and {paired.gained:.3g} gained of {paired.count:.0f}"
    if bound <= limits.margin or not paired.lower(limits.confidence) <= limits.margin:
        return at_most(group, name, bound, limits.margin, detail)
    needed = paired.samples_needed(limits.margin, limits.confidence)
    advice = f"{max(needed, limits.samples)} such samples would suffice" if needed else "no number would suffice"
    return Check(group, name, Verdict.INCONCLUSIVE, bound, limits.margin, "at most", f"{detail}; {advice}")


def _classification(context: CheckContext) -> list[TaskScores]:
    if CheckGroup.ACCURACY not in context.task_scores:
        tables = iter([(*context.logits.by_label, context.labels.class_truth)])
        context.task_scores[CheckGroup.ACCURACY] = score_tables(tables, "top-{}", _TOPS, context.limits.tie)
    return context.task_scores[CheckGroup.ACCURACY]


def _recalls(context: CheckContext) -> list[TaskScores]:
    """Recalls in both directions, without the full logit table in memory."""
    if CheckGroup.RETRIEVAL not in context.task_scores:
        tie, independent = context.limits.tie, min(1.0, len(context.inputs.names) / len(context.captions.rows))
        context.task_scores[CheckGroup.RETRIEVAL] = [
            *score_tables(_by_image(context), "image to text R@{}", _RECALLS, tie),
            # Captions of one image are not independent questions, so together they count as one.
            *score_tables(_by_text(context), "text to image R@{}", _RECALLS, tie, independent),
        ]
    return context.task_scores[CheckGroup.RETRIEVAL]


def _by_image(context: CheckContext) -> LogitTriples:
    captions, count = context.captions, len(context.inputs.names)
    for start in range(0, count, _ROWS):
        images = range(start, min(start + _ROWS, count))
        yield *context.logits.of(images, captions.rows), captions.truth(images, range(len(captions.rows)))


def _by_text(context: CheckContext) -> LogitTriples:
    captions, images = context.captions, range(len(context.inputs.names))
    for start in range(0, len(captions.rows), _ROWS):
        texts = range(start, min(start + _ROWS, len(captions.rows)))
        actual, expected = context.logits.of(images, captions.rows[texts.start : texts.stop])
        yield actual.T, expected.T, captions.truth(images, texts).T
