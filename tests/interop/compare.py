"""The comparison that every consumer goes through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from siglip_onnx.runtime.arrays import Float64Array
from siglip_onnx.runtime.artifact.contract import Precision

from . import limits
from .consumers import ConsumerSamples, Json
from .outputs import ConsumerOutputs, array, difference, largest_embedding_difference
from .proofs import Prove


@dataclass(frozen=True)
class Comparison:
    """Compares a consumer's outputs with ours and records the result.

    Attributes:
        samples: The inputs of both.
        ours: Our outputs at a precision.
        classified: Our probabilities at a precision, for the texts in the template.
        prove: Asserts and records that a difference is within its limit.
    """

    samples: ConsumerSamples
    ours: Callable[[Precision], ConsumerOutputs]
    classified: Callable[[Precision], Float64Array]
    prove: Prove

    def graphs(self, consumer: str, version: str, precision: Precision, outputs: ConsumerOutputs) -> None:
        """Compare the embeddings of towers and joint graph, and the joint graph's probabilities."""
        expected = self.ours(precision)
        embeddings = largest_embedding_difference(outputs, expected)
        self.prove(consumer, version, precision, "embeddings", limits.EMBEDDINGS[precision], embeddings)
        probabilities = difference(outputs.probabilities, expected.probabilities)
        self.prove(consumer, version, precision, "probabilities", limits.PROBABILITIES[precision], probabilities)

    def everything(self, consumer: str, version: str, precision: Precision, result: Json) -> None:
        """Compare a script's result: the graphs, and a zero-shot pipeline, which must also choose the same texts."""
        assert "error" not in result, result["error"]
        self.graphs(consumer, version, precision, ConsumerOutputs.read(result))
        scores = array([[image[text] for text in self.samples.texts] for image in result["pipeline"]])
        expected = self.classified(precision)
        assert np.array_equal(scores.argmax(axis=1), expected.argmax(axis=1))
        error = difference(scores, expected)
        self.prove(consumer, version, precision, "pipeline", limits.PROBABILITIES[precision], error)
