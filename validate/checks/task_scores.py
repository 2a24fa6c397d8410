"""Counts of right answers, before (reference) and after (candidate)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ...runtime.arrays import AnyArray
from ..stats import metrics
from ..stats.paired_bound import Paired

LogitTriples = Iterator[tuple[AnyArray, AnyArray, AnyArray]]  # the candidate's logits, the reference's, and the truth


@dataclass(frozen=True)
class TaskScores:
    """Right answers of the reference (before) and the candidate (after).

    Attributes:
        name: Name of the task.
        clear: Answers lost and gained by more than a tie.
        paired: All answers lost and gained, weighted as independent questions.
        before: The reference's share of right answers.
        after: The candidate's share of right answers.
    """

    name: str
    clear: Paired
    paired: Paired
    before: float
    after: float


def score_tables(
    tables: LogitTriples, name: str, ks: tuple[int, ...], tie: float, weight: float = 1.0
) -> list[TaskScores]:
    """Count right answers in tables of logits.

    Args:
        tables: The candidate's logits, the reference's, and the truth, each [questions, choices].
        name: Name of the task, with `{}` for k.
        ks: How many of the best choices count as the answer; one task for each.
        tie: Logits that differ by no more count as equal.
        weight: Independent questions per row.
    """
    counts = {k: np.zeros(7) for k in ks}
    for actual, expected, truth in tables:
        for k in ks:
            counts[k] += _count(actual, expected, truth, k, tie)
    return [_task_scores(name.format(k), count, weight) for k, count in counts.items() if count[0]]


def _count(actual: AnyArray, expected: AnyArray, truth: AnyArray, k: int, tie: float) -> AnyArray:
    """Seven counts of rows: fallible; lost and gained clearly; lost and gained at all; right before and after."""
    fallible = metrics.nontrivial_rows(truth, k)
    if not fallible.any():
        return np.zeros(7)
    actual, expected, truth = actual[fallible], expected[fallible], truth[fallible]
    before, after = (metrics.hits(x, truth, k, 0.0) for x in (expected, actual))
    clear = (
        (metrics.hits(expected, truth, k, tie) & ~after).sum(),
        (metrics.hits(actual, truth, k, tie) & ~before).sum(),
    )
    at_all = ((before & ~after).sum(), (after & ~before).sum())
    return np.asarray([len(truth), *clear, *at_all, before.sum(), after.sum()], np.float64)


def _task_scores(name: str, count: AnyArray, weight: float) -> TaskScores:
    rows, lost, gained, any_lost, any_gained, before, after = (float(x) for x in count)
    paired = Paired(any_lost * weight, any_gained * weight, rows * weight)
    return TaskScores(name, Paired(lost, gained, rows), paired, before / rows, after / rows)
