"""What an artifact must reach, by precision. Where each number comes from is in docs/parity.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ..runtime.contract import Precision


@dataclass(frozen=True)
class Gate:
    """Limits of one precision; cosines, agreements and sample counts from below, everything else from above.

    Attributes:
        cosine: Cosine of an embedding with the reference's, of the worst row.
        centred_cosine: The same after the reference's mean embedding is taken off both.
        relative_error: Largest difference of an element, relative to the tower's largest element.
        logit_max: Largest difference of a logit.
        logit_p999: The difference that one logit in a thousand exceeds.
        logit_offset: Mean difference of the logits.
        logit_slope: How far the slope of the logits over the reference's is from 1.
        probability: Largest difference of a probability.
        top1: Share of pictures with the reference's best label.
        top5: Mean share of the reference's five best labels among the five best.
        recall_drop: Recall at 1 and at 5 that may be lost, in either direction.
        tie: Logits that differ by no more count as equal where ranks are compared; a fraction of `logit_p999`.
        batch: 1 - cosine of a row alone and the same row in a batch, of the worst row.
        samples: Pictures, texts and pairs below which a verdict is not given.
    """

    cosine: float
    centred_cosine: float
    relative_error: float
    logit_max: float
    logit_p999: float
    logit_offset: float
    logit_slope: float
    probability: float
    top1: float
    top5: float
    recall_drop: float
    batch: float
    tie: float = 0.0
    samples: int = 8


_FP32: Final = Gate(
    cosine=0.999999,
    centred_cosine=0.99999,
    relative_error=1e-4,
    logit_max=0.02,
    logit_p999=0.01,
    logit_offset=0.005,
    logit_slope=0.001,
    probability=0.005,
    top1=1.0,
    top5=0.999,
    recall_drop=0.0,
    batch=1e-6,
)
_FP16: Final = Gate(
    cosine=0.9999,
    centred_cosine=0.9999,
    relative_error=0.01,
    logit_max=0.25,
    logit_p999=0.1,
    logit_offset=0.02,
    logit_slope=0.005,
    probability=0.05,
    top1=0.99,
    top5=0.99,
    recall_drop=0.005,
    batch=1e-5,
    tie=0.02,
)
_BF16: Final = Gate(
    cosine=0.9998,
    centred_cosine=0.9995,
    relative_error=0.02,
    logit_max=0.6,
    logit_p999=0.3,
    logit_offset=0.05,
    logit_slope=0.01,
    probability=0.1,
    top1=0.99,
    top5=0.98,
    recall_drop=0.005,
    batch=1e-4,
    tie=0.05,
)
_EIGHT: Final = Gate(
    cosine=0.995,
    centred_cosine=0.98,
    relative_error=0.1,
    logit_max=3.0,
    logit_p999=1.5,
    logit_offset=0.2,
    logit_slope=0.03,
    probability=0.3,
    top1=0.95,
    top5=0.95,
    recall_drop=0.01,
    batch=5e-3,
    tie=0.25,
)
_FOUR: Final = Gate(
    cosine=0.95,
    centred_cosine=0.92,
    relative_error=0.3,
    logit_max=8.0,
    logit_p999=4.0,
    logit_offset=0.5,
    logit_slope=0.05,
    probability=0.7,
    top1=0.9,
    top5=0.9,
    recall_drop=0.03,
    batch=5e-3,
    tie=0.5,
)

GATES: Final = {
    Precision.FP32: _FP32,
    Precision.FP16: _FP16,
    Precision.BF16: _BF16,
    Precision.INT8: _EIGHT,
    Precision.INT8_STATIC: _EIGHT,
    Precision.INT8_WEIGHTS: _EIGHT,
    Precision.INT4: _FOUR,
}
