"""Error metrics agree with values computed by hand, and never hide a NaN."""

from __future__ import annotations

import math

import numpy as np
import pytest

from siglip_onnx.runtime.artifact.contract import Verdict
from siglip_onnx.validate.report.report import CheckGroup, at_least, at_most, failed, overall
from siglip_onnx.validate.stats import metrics

ROWS = np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])


def test_cosines() -> None:
    turned = np.array([[4.0, -3.0], [2.0, 0.0], [0.0, -1.0]])
    assert metrics.row_cosines(turned, ROWS).tolist() == [0.0, 1.0, -1.0]


def test_centered_cosines_reveal_errors_that_raw_cosines_hide() -> None:
    common = np.array([100.0, 0.0, 0.0])
    reference = common + np.array([[0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1.0]])
    swapped = reference[[1, 0, 3, 2]]
    assert metrics.row_cosines(swapped, reference).min() > 0.9997
    assert metrics.centered_cosines(swapped, reference).max() < -0.99


def test_line_fit() -> None:
    x = np.array([[0.0, 1.0], [2.0, 5.0]])
    assert metrics.line_fit(2 * x + 3, x) == pytest.approx((2.0, 5.0))
    assert math.isnan(metrics.line_fit(x, np.ones_like(x))[0])


def test_relative_error() -> None:
    assert metrics.relative_error(ROWS + 0.1, ROWS) == pytest.approx(0.025)


def test_sigmoid_at_both_ends() -> None:
    assert metrics.sigmoid(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]


def test_agreement() -> None:
    reference = np.array([[3.0, 2, 1, 0], [0, 1, 2, 3]])
    ours = np.array([[3.0, 2, 1, 0], [0, 1, 3, 2]])
    agreement = metrics.agreement(ours, reference, k=2)
    assert (agreement.top1, agreement.topk, agreement.worst) == (0.5, 1.0, 1)


def test_recall_ranks_ties_after_false_columns_and_accepts_any_true_column() -> None:
    scores = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 2.0], [5.0, 4.0, 3.0]])
    assert metrics.recall(scores, np.eye(3, dtype=bool), 1) == 0
    assert metrics.recall(scores, np.eye(3, dtype=bool), 2) == pytest.approx(2 / 3)
    twins = np.array([[1, 0, 0], [0, 1, 1], [0, 1, 1]], dtype=bool)
    assert metrics.recall(scores, twins, 1) == pytest.approx(1 / 3)
    assert metrics.recall(scores, twins, 2) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_never_pass(bad: float) -> None:
    for check in (at_least, at_most):
        assert check(CheckGroup.LOGITS, "x", bad, 0.0).verdict is Verdict.FAIL
        assert check(CheckGroup.LOGITS, "x", None, 0.0).verdict is Verdict.INCONCLUSIVE


def test_one_nan_reaches_every_metric() -> None:
    ours = ROWS.copy()
    ours[1, 1] = math.nan
    assert math.isnan(metrics.lower_quantile(metrics.row_cosines(ours, ROWS), 0.0))
    assert math.isnan(metrics.lower_quantile(metrics.row_cosines(ours, ROWS), 0.5))
    assert np.isnan(metrics.centered_cosines(ours, ROWS)).any()
    assert math.isnan(metrics.relative_error(ours, ROWS))
    assert math.isnan(metrics.line_fit(ours, ROWS)[0])
    assert metrics.agreement(ours, ROWS).top1 < 1
    assert metrics.recall(ours, np.ones((3, 2), bool), 1) < 1


def test_cosine_of_a_zero_row_is_nan() -> None:
    assert np.isnan(metrics.row_cosines(np.zeros_like(ROWS), ROWS)).all()


def test_missing_check_groups_are_inconclusive() -> None:
    every = [at_most(group, "x", 0.0, 1.0) for group in CheckGroup]
    assert overall(every) is Verdict.PASS
    assert overall([]) is Verdict.INCONCLUSIVE
    assert overall(every[:-1]) is Verdict.INCONCLUSIVE
    assert overall([*every, failed(CheckGroup.BATCH, "x", "")]) is Verdict.FAIL


def test_recall_lost_ignores_ties() -> None:
    truth = np.eye(4, dtype=bool)
    reference = np.eye(4) * 2.0
    ours = reference.copy()
    ours[0] = [0.0, 1.0, 0.0, 0.0]  # lost
    assert metrics.recall_lost(ours, reference, truth, 1) == 0.25
    assert metrics.recall_lost(reference, ours, truth, 1) == -0.25
    reference[0] = [0.1, 0.0, 0.0, 0.0]  # a hit within the tie
    assert metrics.recall_lost(ours, reference, truth, 1) == 0.25
    assert metrics.recall_lost(ours, reference, truth, 1, tie=0.2) == 0.0
    assert metrics.recall_lost(np.ones((4, 4)), np.eye(4), truth, 1, tie=0.2) == 1.0  # equal scores are no hit
