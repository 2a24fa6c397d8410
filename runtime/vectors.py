"""Arithmetic on embeddings and logits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


def normalized(embeddings: FloatArray) -> FloatArray:
    """Each row scaled to length 1."""
    return np.asarray(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True), np.float32)


def usable(embeddings: FloatArray) -> NDArray[np.bool_]:
    """Which rows are finite and not zero, bool [rows]; others have no direction."""
    return np.asarray(np.isfinite(embeddings).all(axis=1) & (embeddings != 0).any(axis=1))


def sigmoid(logits: FloatArray) -> FloatArray:
    """1 / (1 + exp(-logit)), float32, without overflow at either end."""
    return np.asarray(np.exp(-np.logaddexp(np.float32(0), -logits)), np.float32)
