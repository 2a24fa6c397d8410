"""Labels and captions of the samples, and which of them are true of which image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...runtime.arrays import AnyArray, BoolArray, Float64Array, IntArray
from ...runtime.preprocessing.prompts import format_prompts
from ..data.samples import Samples
from ..stats import metrics


@dataclass(frozen=True)
class TextIndex:
    """Finds texts among those of the samples.

    Attributes:
        texts: Every text of the samples, each once.
        ids: The reference's ids of them, int64 [texts, length].
    """

    texts: tuple[str, ...]
    ids: IntArray

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {text: number for number, text in enumerate(self.texts)}

    def rows(self, texts: Sequence[str]) -> list[int]:
        """The row of each text."""
        return [self._numbers[text] for text in texts]

    def key(self, texts: Sequence[str]) -> bytes:
        """A key that is equal for texts with equal ids."""
        return self.ids[self.rows(texts)].tobytes()


@dataclass(frozen=True)
class LabelTable:
    """The labels that images are classified into.

    Labels whose prompts have equal ids are one choice: no model can tell them apart.

    Attributes:
        samples: Images, labels and templates.
        index: Every text of the samples.
    """

    samples: Samples
    index: TextIndex

    @cached_property
    def choices(self) -> list[int]:
        """Numbers of the labels to choose among; of labels with equal ids, the first."""
        last_first = reversed(range(len(self.samples.labels)))
        return list({self._keys[i]: i for i in last_first}.values())[::-1]

    @property
    def names(self) -> list[str]:
        """The labels to choose among."""
        return [self.samples.labels[i] for i in self.choices]

    def embeddings(self, texts: AnyArray) -> Float64Array:
        """Label embeddings of length 1, [choices, size]: the mean over templates of `texts`, [texts, size]."""
        prompts = [prompt for i in self.choices for prompt in self._prompts[i]]
        flat = metrics.unit_rows(texts[self.index.rows(prompts)])
        groups = flat.reshape(len(self.choices), -1, flat.shape[1])
        return groups[:, 0] if groups.shape[1] == 1 else metrics.unit_rows(groups.mean(1))

    @cached_property
    def class_truth(self) -> BoolArray:
        """Which label is each image's class, bool [images, choices]."""
        classes = [self._keys[i] for i in self.samples.classes]
        return np.asarray([[column == key for column in self._columns] for key in classes], bool)

    @cached_property
    def truth(self) -> BoolArray | None:
        """Which labels are true of which image, by class or caption, bool [images, choices]; None if unknown."""
        if self.samples.classes:
            return self.class_truth
        if not self.samples.pairs:
            return None
        captions = [{self.index.key([text]) for text in own} for own in self.samples.captions]
        truth = np.asarray([[column in own for column in self._columns] for own in captions], bool)
        return truth if truth.any(1).all() else None

    @cached_property
    def _prompts(self) -> list[list[str]]:
        return format_prompts(self.samples.templates, self.samples.labels)

    @cached_property
    def _keys(self) -> list[bytes]:
        return [self.index.key(prompts) for prompts in self._prompts]

    @property
    def _columns(self) -> list[bytes]:
        return [self._keys[i] for i in self.choices]


@dataclass(frozen=True)
class CaptionTable:
    """Every caption of the samples; captions with equal ids count as the same.

    Attributes:
        rows: Row of each caption among the texts.
        kinds: A number for each caption, equal for captions with equal ids, int64 [captions].
        owners: Number of the image that each caption belongs to, int64 [captions].
    """

    rows: list[int]
    kinds: IntArray
    owners: IntArray

    @classmethod
    def of(cls, samples: Samples, index: TextIndex) -> CaptionTable:
        """The captions of samples."""
        rows = index.rows([text for own in samples.captions for text in own])
        kinds = np.unique(index.ids[rows], axis=0, return_inverse=True)[1].ravel()
        owners = np.repeat(np.arange(len(samples.captions)), [len(own) for own in samples.captions])
        return cls(rows, kinds, owners)

    def truth(self, images: range, captions: range) -> BoolArray:
        """Which captions are true of which images, bool [images, captions]: its own, and those with equal ids."""
        inside = (self.owners >= images.start) & (self.owners < images.stop)
        true = np.zeros((len(images), int(self.kinds.max(initial=0)) + 1), np.bool_)
        true[self.owners[inside] - images.start, self.kinds[inside]] = True
        return np.asarray(true[:, self.kinds[captions.start : captions.stop]])
