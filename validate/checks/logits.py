"""Logits of the candidate from the files to the end, and the reference's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from ...runtime.arrays import AnyArray
from ...runtime.artifact.contract import Role
from ...runtime.model import Siglip
from ...runtime.preprocessing.prompts import format_prompts
from ...runtime.vectors import normalized
from ..reference.cache import ReferenceCache
from ..stats import metrics
from .texts import LabelTable
from .tower_run import USER_ROWS, Towers

_NOISE_ROWS = 64  # rows of the other tower that the noise of a logit is measured with


class LogitTables:
    """Tables of logits, each as a pair: the candidate's and the reference's.

    Args:
        model: The candidate.
        reference: The reference.
        towers: Embeddings of both.
        labels: The labels of the samples; None for a candidate with frozen labels.
    """

    def __init__(self, model: Siglip, reference: ReferenceCache, towers: Towers, labels: LabelTable | None) -> None:
        self._model, self._reference, self._towers, self._labels = model, reference, towers, labels

    def of(self, images: Sequence[int], texts: Sequence[int]) -> tuple[AnyArray, AnyArray]:
        """Logits of rows of both towers, [images, texts]."""
        vision, text = self._towers.run(Role.VISION), self._towers.run(Role.TEXT)
        actual = self._model.logits(normalized(vision.end_to_end[images]), normalized(text.end_to_end[texts]))
        return actual, self._reference.logits(vision.expected[images], text.expected[texts])

    @cached_property
    def by_label(self) -> tuple[AnyArray, AnyArray]:
        """Logits of every image and label, [images, labels]."""
        vision = self._towers.run(Role.VISION)
        if self._labels is not None:
            text = self._towers.run(Role.TEXT)
            actual, expected = (self._labels.embeddings(rows) for rows in (text.end_to_end, text.expected))
            logits = self._model.logits(normalized(vision.end_to_end), actual.astype(np.float32))
            return logits, self._reference.logits(vision.expected, expected)
        if self._reference.fp32 is not None:
            return vision.outputs["logits"], vision.expected_outputs["logits"]
        return vision.outputs["logits"], self._reference.logits(vision.expected, self.frozen_labels())

    def frozen_labels(self) -> AnyArray:
        """The PyTorch reference's embeddings of the frozen labels: the mean over their templates, [labels, size]."""
        frozen = self._model.contract.labels
        assert frozen is not None  # noqa: S101  for artifacts with frozen labels only
        prompts = format_prompts(frozen.templates, frozen.labels)
        ids = self._reference.ids([text for group in prompts for text in group])
        rows = metrics.unit_rows(self._reference.embeddings(Role.TEXT, ids))
        return np.asarray(rows.reshape(len(prompts), len(prompts[0]), -1).mean(1))

    @cached_property
    def user_probabilities(self) -> tuple[AnyArray, AnyArray] | str:
        """Probabilities of a few images and texts by the functions that users call; or the error message."""
        vision = self._towers.run(Role.VISION)
        if self._model.contract.labels is not None:
            actual = vision.outputs["probabilities"][:USER_ROWS]
            return actual, metrics.sigmoid(self.by_label[1][: len(actual)])
        text = self._towers.run(Role.TEXT)
        if isinstance(vision.users, str):
            return vision.users
        if isinstance(text.users, str):
            return text.users
        expected = self._reference.logits(vision.expected[: len(vision.users)], text.expected[: len(text.users)])
        return self._model.probabilities(vision.users, text.users), metrics.sigmoid(expected)

    @cached_property
    def noise(self) -> float:
        """Largest change of a logit between batched and single runs of the same rows."""
        return max((self._noise_of(role) for role in self._model.contract.towers), default=0.0)

    def _noise_of(self, role: Role) -> float:
        tower, others = self._towers.run(role), [other for other in self._model.contract.towers if other is not role]
        if tower.batched is None:
            return 0.0
        other = self._towers.run(others[0]) if others else tower
        pair = (tower.batched, tower.actual[tower.batch_rows])
        batched, single = (self._reference.logits(rows, other.expected[:_NOISE_ROWS]) for rows in pair)
        return float(np.abs(batched - single).max())
