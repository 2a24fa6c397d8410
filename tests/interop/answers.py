"""Answers about the samples, and how far two of them are apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """What a consumer gives for the samples: of each tower alone, and of the joint graph.

    Attributes:
        images: Embeddings of the vision tower, [images, size].
        texts: Embeddings of the text tower, [texts, size].
        probabilities: Of each pair, [images, texts], from the joint graph's logits.
        joint_images: Embeddings of the joint graph; None where nothing runs it.
        joint_texts: Likewise.
    """

    images: FloatArray
    texts: FloatArray
    probabilities: FloatArray
    joint_images: FloatArray | None = None
    joint_texts: FloatArray | None = None

    @classmethod
    def read(cls, said: dict[str, Any]) -> Self:
        """Answers as the scripts give them."""
        return cls(
            images=array(said["images"]),
            texts=array(said["texts"]),
            probabilities=sigmoid(array(said["logits"])),
            joint_images=array(said["joint_images"]) if "joint_images" in said else None,
            joint_texts=array(said["joint_texts"]) if "joint_texts" in said else None,
        )


def array(values: ArrayLike) -> FloatArray:
    """Nested lists as an array; null, which is how JSON says NaN, becomes NaN."""
    return np.asarray(values, np.float64)


def sigmoid(logits: FloatArray) -> FloatArray:
    """SigLIP's probability of a pair."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -logits)))


def difference(theirs: ArrayLike, ours: ArrayLike) -> float:
    """The largest difference; infinite where one is not finite, so that no comparison with a limit can pass."""
    one, other = array(theirs), array(ours)
    assert one.shape == other.shape, f"They give {one.shape}, we give {other.shape}."
    return float(np.abs(one - other).max()) if np.isfinite(one).all() and np.isfinite(other).all() else float("inf")


def apart(theirs: ArrayLike, ours: ArrayLike) -> float:
    """The largest difference of any component of embeddings scaled to length 1."""
    return difference(_unit(array(theirs)), _unit(array(ours)))


def embeddings_apart(theirs: Answers, ours: Answers) -> float:
    """The largest difference of all embeddings: of the towers, and of the joint graph where both have it."""
    pairs = [(theirs.images, ours.images), (theirs.texts, ours.texts)]
    if theirs.joint_images is not None and theirs.joint_texts is not None:
        pairs += [(theirs.joint_images, ours.images), (theirs.joint_texts, ours.texts)]
    return max(apart(one, other) for one, other in pairs)


def _unit(rows: FloatArray) -> FloatArray:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))
