"""How sure one can be that a variant is right as often as the reference, from answers of both to the same questions.

The bounds are those of T. Tango, "Equivalence test and confidence interval for the difference in proportions for the
paired-sample design", Statistics in Medicine 17 (1998) 891-908: the differences that a score test would not reject.
They hold for few questions and for none that differ, where the usual normal bound is zero wide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

_STEPS: Final = 60  # of the bisection; more than a double can tell apart
_MOST: Final = 10**7  # questions; who would need more is told that none do


@dataclass(frozen=True)
class Paired:
    """Answers of both to the same questions.

    Attributes:
        lost: Questions that the reference answers and the variant does not.
        gained: Questions that the variant answers and the reference does not.
        count: All questions.
    """

    lost: float
    gained: float
    count: float

    @property
    def loss(self) -> float:
        """Share of the questions that was lost, less what was gained; NaN where there are none."""
        return (self.lost - self.gained) / self.count if self.count else math.nan

    def upper(self, confidence: float) -> float:
        """The largest loss that is compatible with the answers, at a one-sided confidence; NaN where there are none."""
        if not self.count:
            return math.nan
        z = NormalDist().inv_cdf(confidence)
        low, high = self.loss, 1.0
        for _ in range(_STEPS):
            middle = (low + high) / 2
            low, high = (middle, high) if self._score(middle) > -z else (low, middle)
        return high

    def lower(self, confidence: float) -> float:
        """The smallest loss that is compatible with the answers, at a one-sided confidence."""
        return -Paired(self.gained, self.lost, self.count).upper(confidence)

    def samples_needed(self, margin: float, confidence: float) -> int | None:
        """How many questions, answered like these, prove a loss of at most `margin`; None where no number does."""
        if not self.count or self.loss >= margin:
            return None
        low, high = 0, 1
        while self._times(high).upper(confidence) > margin:
            low, high = high, 2 * high
            if high > _MOST:
                return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._times(middle).upper(confidence) <= margin else (middle, high)
        return high

    def _times(self, count: int) -> Paired:
        """As many questions, of which the same shares are lost and gained."""
        return Paired(self.lost * count / self.count, self.gained * count / self.count, count)

    def _score(self, loss: float) -> float:
        """Tango's score statistic (his equations 3 and 4) for a true loss."""
        n, b, c = self.count, self.lost, self.gained
        linear = -b - c + (2 * n - b + c) * loss
        constant = -c * loss * (1 - loss)
        other = (math.sqrt(max(linear * linear - 8 * n * constant, 0.0)) - linear) / (4 * n)
        variance = n * (2 * other + loss * (1 - loss))
        difference = b - c - n * loss
        return difference / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, difference or -1.0)
