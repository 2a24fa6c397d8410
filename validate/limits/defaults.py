"""Default limits of each precision.

docs/parity.md, section "Limits", derives every number: the fp32 limits from the sigmoid's slope and from rounding, the
limits of lower precisions from correct variants of the bundled model, with room for a larger logit scale.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ...runtime.artifact.contract import Precision


@dataclass(frozen=True)
class Limits:
    """Limits of one cell, by the names that a limits file uses.

    Cosines, agreements and `samples` are lower limits, all others are upper limits. Differences are candidate minus
    reference; logits are scale * cosine + bias, without a unit.

    Attributes:
        cosine: Smallest cosine of a row's embedding with the reference's. The 0.1 % and 1 % quantiles and the median
            have the same limit.
        centered_cosine: The same after the reference's mean embedding is subtracted from both embeddings.
        relative_error: Largest absolute difference of an element of the embeddings, divided by the largest absolute
            element of the reference's embeddings; the same for last_hidden_state.
        batch: Largest 1 - cosine of a row computed alone with the same row computed in a batch.
        logit_max: Largest absolute difference of a logit.
        logit_p999: 99.9 % quantile of the absolute differences of the logits.
        logit_offset: Absolute mean difference of the logits; users can correct for it with a constant.
        logit_slope: Distance from 1 of the least-squares slope of the logits over the reference's; users can correct
            for it with a factor.
        logit_sigma: Standard deviation of the logit differences after offset and slope are removed; users cannot
            correct for it.
        probability: Largest absolute difference of a probability, in each bucket of the reference's probability.
        flips: Fraction of decisions at `threshold` that differ, among those where candidate or reference says yes.
        calibration: Increase of the expected calibration error (Guo et al. 2017, https://arxiv.org/abs/1706.04599).
        top1: Fraction of images whose best label is the reference's.
        top5: Mean fraction of the reference's five best labels among the candidate's five best.
        order: Fraction of pairs among the reference's ten best labels that the candidate orders as the reference does.
        recall_drop: Loss of accuracy or of recall at 1, 5 or 10, on the validated samples.
        margin: Upper confidence bound of the loss of accuracy or recall on all images like the validated ones, at
            `confidence` (Tango 1998, see `stats.paired_bound`).
        tie: Largest difference of two logits that count as equal when ranks are compared. The defaults are between a
            tenth and a fifth of `logit_p999`.
        samples: Smallest number of images for a verdict; with fewer, checks are INCONCLUSIVE.
        threshold: Probability from which on users consider a label true.
        confidence: One-sided confidence level of `margin`.
        latency: Largest ratio of the time per row to that of `--baseline`; None disables the check.
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
_INT8: Final = Limits(
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
_INT4: Final = Limits(
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
    Precision.INT8: _INT8,
    Precision.INT8_STATIC: _INT8,
    Precision.INT8_WEIGHTS: _INT8,
    Precision.INT4: _INT4,
}
