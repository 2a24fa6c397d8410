"""What an artifact must reach, by precision and provider. Where each number comes from is in docs/parity.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ...runtime.artifact.contract import Precision


@dataclass(frozen=True)
class Limits:
    """Limits of one precision; cosines, agreements and sample counts from below, everything else from above.

    Attributes:
        cosine: Cosine of an embedding with the reference's, of the worst row.
        centered_cosine: The same after the reference's mean embedding is taken off both.
        relative_error: Largest difference of an element, relative to the tower's largest element.
        batch: 1 - cosine of a row alone and the same row in a batch, of the worst row.
        logit_max: Largest difference of a logit.
        logit_p999: The difference that one logit in a thousand exceeds.
        logit_offset: Mean difference of the logits; it can be calibrated away.
        logit_slope: How far the slope of the logits over the reference's is from 1; it can be calibrated away.
        logit_sigma: Standard deviation of the logits once offset and slope are taken off; nothing takes it away.
        probability: Largest difference of a probability, in every bucket of the reference's.
        flips: Share of the yeses at `threshold`, of either, that may come out otherwise.
        calibration: How much the expected calibration error may grow.
        top1: Share of images with the reference's best label.
        top5: Mean share of the reference's five best labels among the five best.
        order: Share of pairs among the reference's ten best labels that stand in its order.
        recall_drop: Accuracy and recall at 1, 5 and 10 that may be lost on these very samples, in either direction.
        margin: Accuracy and recall that may be lost on all images like these, at `confidence`.
        tie: Logits that differ by no more count as equal where ranks are compared; a fraction of `logit_p999`.
        samples: Images below which a verdict is not given.
        threshold: Probability from which on the user takes a label as true.
        confidence: One-sided, of `margin`.
        latency: Time of a row over that of `--baseline`, where that is to be judged.
    """

    cosine: float
    centered_cosine: float
    relative_error: float
    batch: float
    logit_max: float
    logit_p999: float
    logit_offset: float
    logit_slope: float
    logit_sigma: float
    probability: float
    flips: float
    calibration: float
    top1: float
    top5: float
    order: float
    recall_drop: float
    margin: float
    tie: float = 0.0
    samples: int = 8
    threshold: float = 0.5
    confidence: float = 0.95
    latency: float | None = None


_FP32: Final = Limits(
    cosine=0.999999,
    centered_cosine=0.99999,
    relative_error=1e-4,
    batch=1e-6,
    logit_max=0.02,
    logit_p999=0.01,
    logit_offset=0.005,
    logit_slope=0.001,
    logit_sigma=0.004,
    probability=0.005,
    flips=0.0,
    calibration=1e-3,
    top1=1.0,
    top5=0.999,
    order=0.999,
    recall_drop=0.0,
    margin=0.02,
    tie=0.001,
)
_FP16: Final = Limits(
    cosine=0.9999,
    centered_cosine=0.9999,
    relative_error=0.01,
    batch=1e-5,
    logit_max=0.25,
    logit_p999=0.1,
    logit_offset=0.02,
    logit_slope=0.005,
    logit_sigma=0.03,
    probability=0.05,
    flips=0.01,
    calibration=5e-3,
    top1=0.99,
    top5=0.99,
    order=0.99,
    recall_drop=0.005,
    margin=0.02,
    tie=0.02,
)
_BF16: Final = Limits(
    cosine=0.9998,
    centered_cosine=0.9995,
    relative_error=0.02,
    batch=1e-4,
    logit_max=0.6,
    logit_p999=0.3,
    logit_offset=0.05,
    logit_slope=0.01,
    logit_sigma=0.1,
    probability=0.1,
    flips=0.02,
    calibration=0.01,
    top1=0.99,
    top5=0.98,
    order=0.98,
    recall_drop=0.005,
    margin=0.02,
    tie=0.05,
)
_EIGHT: Final = Limits(
    cosine=0.995,
    centered_cosine=0.98,
    relative_error=0.1,
    batch=5e-3,
    logit_max=3.0,
    logit_p999=1.5,
    logit_offset=0.2,
    logit_slope=0.03,
    logit_sigma=0.5,
    probability=0.3,
    flips=0.05,
    calibration=0.02,
    top1=0.95,
    top5=0.95,
    order=0.95,
    recall_drop=0.01,
    margin=0.03,
    tie=0.25,
)
_FOUR: Final = Limits(
    cosine=0.95,
    centered_cosine=0.92,
    relative_error=0.3,
    batch=5e-3,
    logit_max=8.0,
    logit_p999=4.0,
    logit_offset=0.5,
    logit_slope=0.05,
    logit_sigma=1.3,
    probability=0.7,
    flips=0.1,
    calibration=0.05,
    top1=0.9,
    top5=0.9,
    order=0.9,
    recall_drop=0.03,
    margin=0.06,
    tie=0.5,
)

DEFAULT_LIMITS: Final = {
    Precision.FP32: _FP32,
    Precision.FP16: _FP16,
    Precision.BF16: _BF16,
    Precision.INT8: _EIGHT,
    Precision.INT8_STATIC: _EIGHT,
    Precision.INT8_WEIGHTS: _EIGHT,
    Precision.INT4: _FOUR,
}
