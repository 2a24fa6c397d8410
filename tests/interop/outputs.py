"""A consumer's outputs for the samples, and their differences from ours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from siglip_onnx.runtime.arrays import Float64Array


@dataclass(frozen=True)
class ConsumerOutputs:
    """A consumer's outputs for the samples: from each tower alone, and from the joint graph.

    Attributes:
        images: Embeddings of the vision tower, [images, size].
        texts: Embeddings of the text tower, [texts, size].
        probabilities: Probability of each pair, [images, texts], from the joint graph's logits.
        joint_images: Image embeddings of the joint graph, [images, size]; None if the consumer does not run it.
        joint_texts: Text embeddings of the joint graph, [texts, size]; None if the consumer does not run it.
    """

    images: Float64Array
    texts: Float64Array
    probabilities: Float64Array
    joint_images: Float64Array | None = None
    joint_texts: Float64Array | None = None

    @classmethod
    def read(cls, result: dict[str, Any]) -> Self:
        """Read the outputs that a script printed."""
        return cls(
            images=array(result["images"]),
            texts=array(result["texts"]),
            probabilities=sigmoid(array(result["logits"])),
            joint_images=array(result["joint_images"]) if "joint_images" in result else None,
            joint_texts=array(result["joint_texts"]) if "joint_texts" in result else None,
        )


def array(values: ArrayLike) -> Float64Array:
    """Nested lists as a float64 array; null, JSON's form of NaN, becomes NaN."""
    return np.asarray(values, np.float64)


def sigmoid(logits: Float64Array) -> Float64Array:
    """SigLIP's probability of a pair."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -logits)))


def difference(actual: ArrayLike, expected: ArrayLike) -> float:
    """The largest absolute difference; infinite if any value is not finite, so that no limit can pass."""
    one, other = array(actual), array(expected)
    assert one.shape == other.shape, f"expected shape {other.shape}, got {one.shape}"
    return float(np.abs(one - other).max()) if np.isfinite(one).all() and np.isfinite(other).all() else float("inf")


def embedding_difference(actual: ArrayLike, expected: ArrayLike) -> float:
    """The largest absolute difference of a component of embeddings scaled to length 1."""
    return difference(_unit(array(actual)), _unit(array(expected)))


def largest_embedding_difference(actual: ConsumerOutputs, expected: ConsumerOutputs) -> float:
    """The largest difference over all embeddings, including the joint graph's if the consumer runs it."""
    pairs = [(actual.images, expected.images), (actual.texts, expected.texts)]
    if actual.joint_images is not None and actual.joint_texts is not None:
        pairs += [(actual.joint_images, expected.images), (actual.joint_texts, expected.texts)]
    return max(embedding_difference(one, other) for one, other in pairs)


def _unit(rows: Float64Array) -> Float64Array:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))
