"""Confidence bounds agree with the literature and reach their coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siglip_onnx.validate.stats.paired_bound import Paired

COUNTS = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 200)).filter(lambda c: sum(c) > 0)


def test_bounds_agree_with_published_tango_interval() -> None:
    """Airway study of Bentur et al. 2009; Fagerland, Lydersen and Laake (2013) give its interval as -0.517 to -0.026.

    https://doi.org/10.1186/1471-2288-13-91
    """
    study = Paired(lost=1, gained=7, count=21)
    assert study.lower(0.975) == pytest.approx(-0.517, abs=5e-4)
    assert study.upper(0.975) == pytest.approx(-0.026, abs=5e-4)


def test_bound_without_differences_has_a_closed_form() -> None:
    """Without differences, Tango's score is -sqrt(n x / (1 - x)), hence x = z² / (n + z²)."""
    z = 1.6448536269514722
    for count in (1, 13, 133, 5000):
        assert Paired(0, 0, count).upper(0.95) == pytest.approx(z * z / (count + z * z), abs=1e-9)


@pytest.mark.parametrize(("count", "lost", "gained"), [(60, 0.03, 0.01), (100, 0.05, 0.05), (250, 0.01, 0.002)])
def test_upper_bound_reaches_its_coverage(count: int, lost: float, gained: float) -> None:
    draws = np.random.default_rng(0).multinomial(count, [lost, gained, 1 - lost - gained], size=1500)
    coverage = np.mean([Paired(int(b), int(c), count).upper(0.95) >= lost - gained for b, c, _ in draws])
    assert coverage >= 0.94


@given(COUNTS)
def test_bounds_enclose_the_loss_and_are_symmetric(counts: tuple[int, int, int]) -> None:
    lost, gained, same = counts
    paired, mirrored = (Paired(*x, lost + gained + same) for x in ((lost, gained), (gained, lost)))
    assert -1 <= paired.lower(0.95) <= paired.loss <= paired.upper(0.95) <= 1
    assert paired.upper(0.95) == pytest.approx(-mirrored.lower(0.95))
    assert paired.upper(0.99) >= paired.upper(0.9)


@given(COUNTS)
def test_samples_needed_is_the_smallest_sufficient_number(counts: tuple[int, int, int]) -> None:
    lost, gained, same = counts
    total = lost + gained + same
    needed = Paired(lost, gained, total).samples_needed(0.05, 0.95)
    if (lost - gained) / total >= 0.05:
        assert needed is None
    elif needed is not None:
        scaled = [Paired(lost * n / total, gained * n / total, n) for n in (needed, needed - 1) if n]
        assert scaled[0].upper(0.95) <= 0.05
        assert all(less.upper(0.95) > 0.05 for less in scaled[1:])


def test_bounds_without_questions_are_nan() -> None:
    empty = Paired(0, 0, 0)
    assert math.isnan(empty.loss)
    assert math.isnan(empty.upper(0.95))
    assert empty.samples_needed(0.02, 0.95) is None
