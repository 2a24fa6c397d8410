"""How far the answers of a consumer may be from ours, at the same precision.

Components of embeddings of length 1 differ by the rounding of the arithmetic: about 1e-7 in float32, which also the
bf16 graphs compute in, and 5e-4 (2 to the power of -11) for one that computes in float16. Integer kernels agree but for
values that lie near the border between two steps; a value that falls on the other side moves by a whole step, so that
two right kernels may be nearly as far apart as the variant is from fp32 (0.009, 0.011, 0.006 and 0.039 for the bundled
model). The limits lie below that, and 1.4 times or more above what any consumer here shows.

A probability moves by at most a quarter of what its logit moves, that is 9 times what the cosine moves, for this model.
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
