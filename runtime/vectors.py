"""Arithmetic on embeddings and logits."""

from __future__ import annotations

import numpy as np

from .arrays import BoolArray, FloatArray


def normalized(embeddings: FloatArray) -> FloatArray:
    """Embeddings scaled to length 1, float32 [rows, size]."""
    return np.asarray(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True), np.float32)


def usable(embeddings: FloatArray) -> BoolArray:
    """Whether each embedding has a direction, that is, is finite and not zero: bool [rows]."""
    return np.asarray(np.isfinite(embeddings).all(axis=1) & (embeddings != 0).any(axis=1))


def sigmoid(logits: FloatArray) -> FloatArray:
    """1 / (1 + exp(-logit)), float32, of the shape of the logits; overflows for no logit."""
    return np.asarray(np.exp(-np.logaddexp(np.float32(0), -logits)), np.float32)
