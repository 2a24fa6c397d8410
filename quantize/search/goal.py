"""Goal of a search, and the measurements that it is compared with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ...runtime.errors import InputError

BISECTION_TRIALS: Final = 12  # trials that are set aside for the steps after the ranking


class Metric(StrEnum):
    """Metric of a goal.

    CENTERED_COSINE is the mean over rows, LOGIT_SIGMA the standard deviation of the logits' differences after offset
    and slope are removed, RETRIEVAL_DROP the larger loss of R@1 of both directions.
    """

    CENTERED_COSINE = "centered-cosine"
    LOGIT_SIGMA = "logit-sigma"
    RETRIEVAL_DROP = "retrieval-drop"


DEFAULT_TARGETS: Final = {Metric.CENTERED_COSINE: 0.999, Metric.LOGIT_SIGMA: 0.2, Metric.RETRIEVAL_DROP: 0.005}


@dataclass(frozen=True)
class Measurement:
    """A quantized tower compared with its fp32 tower.

    Attributes:
        centered_cosine: Mean over rows; None, as the other metrics, if it is NaN.
        centered_cosine_min: Smallest of the rows.
        logit_sigma: Standard deviation of the logits' differences after offset and slope are removed.
        retrieval_drop: The larger loss of R@1 of both directions, from 0 to 1.
        bytes: Size of the tower's files.
        speed: How many times as fast as the fp32 tower; None if it was not timed.
    """

    centered_cosine: float | None
    centered_cosine_min: float | None
    logit_sigma: float | None
    retrieval_drop: float | None
    bytes: int
    speed: float | None = None


@dataclass(frozen=True)
class Goal:
    """Goal of a search: a metric and the target that it has to reach.

    Attributes:
        target: The smallest acceptable centered cosine, or the largest acceptable sigma or drop.
        metric: Metric of the target.
        max_trials: Largest number of towers to derive and measure.

    Raises:
        InputError: The target is out of range, or `max_trials` is too small.
    """

    target: float
    metric: Metric = Metric.CENTERED_COSINE
    max_trials: int = 160

    def __post_init__(self) -> None:
        if not self._is_in_range():
            expected = {
                Metric.CENTERED_COSINE: "between 0 and 1",
                Metric.LOGIT_SIGMA: "a finite number of at least 0",
                Metric.RETRIEVAL_DROP: "at least 0 and below 1",
            }[self.metric]
            raise InputError(
                f"The target of {self.metric} must be {expected}, got {self.target}.",
                f"Use {DEFAULT_TARGETS[self.metric]}, for example.",
            )
        if self.max_trials <= BISECTION_TRIALS:
            raise InputError(
                f"The number of trials must be more than {BISECTION_TRIALS}, got {self.max_trials}.",
                "Allow more trials; 160 is the default.",
            )

    def _is_in_range(self) -> bool:
        if self.metric is Metric.CENTERED_COSINE:
            return 0 < self.target < 1
        return 0 <= self.target < (1 if self.metric is Metric.RETRIEVAL_DROP else math.inf)

    def value(self, measurement: Measurement) -> float | None:
        """Return the metric of a measurement."""
        return getattr(measurement, str(self.metric).replace("-", "_"))  # type: ignore[no-any-return]

    def loss(self, measurement: Measurement) -> float:
        """Return the metric as a number that is better when it is smaller; infinite if the metric is None."""
        value = self.value(measurement)
        if value is None:
            return math.inf
        return 1 - value if self.metric is Metric.CENTERED_COSINE else value

    def is_met(self, measurement: Measurement) -> bool:
        """Return whether a measurement reaches the target."""
        limit = 1 - self.target if self.metric is Metric.CENTERED_COSINE else self.target
        return self.loss(measurement) <= limit

    def describe(self, measurement: Measurement) -> str:
        """Return the name and value of the metric."""
        value = self.value(measurement)
        return f"{self.metric} {'not a number' if value is None else f'{value:.6f}'}"
