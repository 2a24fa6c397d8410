"""Array types that the whole package shares; the dtype is part of the name, shapes are given where they are used."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

AnyArray = NDArray[Any]
BoolArray = NDArray[np.bool_]
ByteArray = NDArray[np.uint8]
FloatArray = NDArray[np.float32]
Float64Array = NDArray[np.float64]
Int8Array = NDArray[np.int8]
IntArray = NDArray[np.int64]
