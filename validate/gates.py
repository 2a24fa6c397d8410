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
_SIXTEEN: Final = Gate(
    cosine=0.9999,
    centred_cosine=0.9995,
    relative_error=0.02,
    logit_max=0.2,
    logit_p999=0.1,
    logit_offset=0.05,
    logit_slope=0.01,
    probability=0.05,
    top1=0.99,
    top5=0.99,
    recall_drop=0.005,
    batch=1e-5,
)
_EIGHT: Final = Gate(
    cosine=0.995,
    centred_cosine=0.98,
    relative_error=0.2,
    logit_max=2.0,
    logit_p999=1.0,
    logit_offset=0.2,
    logit_slope=0.03,
    probability=0.3,
    top1=0.95,
    top5=0.95,
    recall_drop=0.01,
    batch=5e-3,
)
_FOUR: Final = Gate(
    cosine=0.96,
    centred_cosine=0.9,
    relative_error=0.5,
    logit_max=6.0,
    logit_p999=3.0,
    logit_offset=0.5,
    logit_slope=0.1,
    probability=0.6,
    top1=0.85,
    top5=0.85,
    recall_drop=0.03,
    batch=5e-3,
)

GATES: Final = {
    Precision.FP32: _FP32,
    Precision.FP16: _SIXTEEN,
    Precision.BF16: _SIXTEEN,
    Precision.INT8: _EIGHT,
    Precision.INT8_STATIC: _EIGHT,
    Precision.INT8_WEIGHTS: _EIGHT,
    Precision.INT4: _FOUR,
}
