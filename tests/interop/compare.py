"""The comparison that every consumer goes through."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from siglip_onnx.runtime.artifact.contract import Precision

from . import limits
from .answers import Answers, FloatArray, array, difference, embeddings_apart
from .consumers import Json, Samples
from .ledger import Prove


@dataclass(frozen=True)
class Comparison:
    """Proves that a consumer's answers are ours.

    Attributes:
        samples: What both were asked about.
        ours: Our answers at a precision.
        classified: Our probabilities at a precision, for the texts in the template.
        prove: Records what holds.
    """

    samples: Samples
    ours: Callable[[Precision], Answers]
    classified: Callable[[Precision], FloatArray]
    prove: Prove

    def graphs(self, consumer: str, version: str, precision: Precision, theirs: Answers) -> None:
        """Embeddings of the towers and of the joint graph, and the joint graph's probabilities."""
        expected = self.ours(precision)
        found = embeddings_apart(theirs, expected)
        self.prove(consumer, version, precision, "embeddings", limits.EMBEDDINGS[precision], found)
        found = difference(theirs.probabilities, expected.probabilities)
        self.prove(consumer, version, precision, "probabilities", limits.PROBABILITIES[precision], found)

    def everything(self, consumer: str, version: str, precision: Precision, answer: Json) -> None:
        """What a script says: graphs, and a zero-shot pipeline from files and texts, which also picks as we do."""
        assert "error" not in answer, answer["error"]
        self.graphs(consumer, version, precision, Answers.read(answer))
        scores = array([[image[text] for text in self.samples.texts] for image in answer["pipeline"]])
        expected = self.classified(precision)
        assert np.array_equal(scores.argmax(axis=1), expected.argmax(axis=1))
        found = difference(scores, expected)
        self.prove(consumer, version, precision, "pipeline", limits.PROBABILITIES[precision], found)
