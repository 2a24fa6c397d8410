"""Confidence bounds of the accuracy that a variant loses, from answers of variant and reference to the same questions.

The bounds are the score interval of T. Tango, "Equivalence test and confidence interval for the difference in
proportions for the paired-sample design", Statistics in Medicine 17 (1998) 891-908: all losses that a score test does
not reject. Unlike the normal (Wald) interval, it is valid for few questions, and has a width even if no answer differs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

_STEPS: Final = 60  # of the bisection; more than the precision of a double
_MAX_SAMPLES: Final = 10**7  # a larger number counts as unreachable


@dataclass(frozen=True)
class Paired:
    """Counts of paired answers. All of them may be fractional, as weights make them.

    Attributes:
        lost: Number of questions that only the reference answers correctly (b in Tango's paper).
        gained: Number of questions that only the variant answers correctly (c in Tango's paper).
        count: Number of all questions (n in Tango's paper).
    """

    lost: float
    gained: float
    count: float

    @property
    def loss(self) -> float:
        """Observed loss of accuracy, (lost - gained) / count; NaN without questions."""
        return (self.lost - self.gained) / self.count if self.count else math.nan

    def upper(self, confidence: float) -> float:
        """Upper bound of the true loss at a one-sided confidence level; NaN without questions."""
        if not self.count:
            return math.nan
        z = NormalDist().inv_cdf(confidence)
        low, high = self.loss, 1.0
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._score(middle) > -z else (low, middle)
        return high

    def lower(self, confidence: float) -> float:
        """Lower bound of the true loss at a one-sided confidence level; NaN without questions."""
        return -Paired(self.gained, self.lost, self.count).upper(confidence)

    def samples_needed(self, margin: float, confidence: float) -> int | None:
        """Smallest number of such questions whose upper bound is at most `margin`; None if no number suffices."""
        if not self.count or self.loss >= margin:
            return None
        low, high = 0, 1
        while self._scaled_to(high).upper(confidence) > margin:
            low, high = high, 2 * high
            if high > _MAX_SAMPLES:
                return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._scaled_to(middle).upper(confidence) <= margin else (middle, high)
        return high

    def _scaled_to(self, count: int) -> Paired:
        """The same proportions of lost and gained answers among `count` questions."""
        return Paired(self.lost * count / self.count, self.gained * count / self.count, count)

    def _score(self, loss: float) -> float:
        """Tango's score statistic for a true loss (equations 3 and 4)."""
        n, b, c = self.count, self.lost, self.gained
        linear = -b - c + (2 * n - b + c) * loss
        constant = -c * loss * (1 - loss)
        # Maximum likelihood estimate of the probability of a gained answer, given the true loss.
        gained = (math.sqrt(max(linear * linear - 8 * n * constant, 0.0)) - linear) / (4 * n)
        variance = n * (2 * gained + loss * (1 - loss))
        difference = b - c - n * loss
        return difference / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, difference or -1.0)
