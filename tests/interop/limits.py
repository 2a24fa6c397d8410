"""Largest differences between a consumer's outputs and ours, at the same precision.

Components of embeddings of length 1 differ by rounding: about 1e-7 in float32, in which bf16 graphs compute as well,
and 5e-4 (2 to the power of -11) in float16. Integer kernels agree except for values near the border between two
quantization steps; such a value may move by a whole step, so two correct kernels can differ nearly as much as the
variant differs from fp32 (0.009, 0.011, 0.006 and 0.039 for int8, int8-static, int8-weights and int4 of the bundled
model). The limits are lower than that, and at least 1.4 times the largest difference of any consumer here.

A probability changes by at most a quarter of its logit's change, which is 9 times the cosine's change for this model.
"""

from __future__ import annotations

from typing import Final

from siglip_onnx.runtime.artifact.contract import Precision

EMBEDDINGS: Final = {
    Precision.FP32: 1e-5,
    Precision.FP16: 5e-4,
    Precision.BF16: 1e-5,
    Precision.INT8: 8e-3,
    Precision.INT8_STATIC: 8e-3,
    Precision.INT8_WEIGHTS: 5e-3,
    Precision.INT4: 5e-3,
}
PROBABILITIES: Final = {
    Precision.FP32: 1e-4,
    Precision.FP16: 4e-3,
    Precision.BF16: 1e-4,
    Precision.INT8: 5e-2,
    Precision.INT8_STATIC: 5e-2,
    Precision.INT8_WEIGHTS: 3e-2,
    Precision.INT4: 3e-2,
}
