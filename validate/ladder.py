"""What the ladder of checks measures, each thing once and when it is first needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.contract import Role, Yardstick
from ..runtime.model import PROBABILITIES, Siglip
from ..runtime.text import fill
from ..runtime.vectors import normalized
from . import metrics
from .baseline import Baseline
from .gates import Gate
from .reference import Picture, Reference
from .report import Rung, rungs_due
from .samples import Samples

if TYPE_CHECKING:
    from ..exporter.checkpoint import Checkpoint

Progress = Callable[[str], None]
Array = NDArray[Any]


class Ladder:
    """Everything that the rungs measure.

    Args:
        model: What is judged.
        source: The checkpoint that it was made from; None to compare with the fp32 variant.
        reference: What is right: the checkpoint as transformers computes it, or the fp32 variant.
        samples: On what.
        gate: The limits.
        progress: Told what is being done, in a few words, before each longer step.
    """

    def __init__(
        self,
        model: Siglip,
        source: Checkpoint | None,
        reference: Reference | Baseline,
        samples: Samples,
        gate: Gate,
        progress: Progress,
    ) -> None:
        self.model, self.source, self.reference = model, source, reference
        self.samples, self.gate, self.progress = samples, gate, progress
        self.frozen, self.towers = model.contract.labels, model.contract.towers

    def prepare(self) -> None:
        """Read the data and try the reference.

        Raises:
            InputError: A picture or text cannot be read.
            CheckpointError: The reference contradicts itself.
        """
        self.progress("Reading the data")
        if isinstance(self.reference, Reference):
            self.reference.check_logits(self.pixels, self.ids)
        else:
            _ = self.pixels

    @property
    def due(self) -> frozenset[Rung]:
        """The rungs that the verdict stands on."""
        return rungs_due(self.against, frozen=self.frozen is not None)

    @property
    def against(self) -> Yardstick:
        """What the model is compared with."""
        return Yardstick.FP32 if self.source is None else Yardstick.CHECKPOINT

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint, for the rungs that are climbed only where there is one."""
        assert self.source is not None  # noqa: S101  see rungs_due
        return self.source

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """The reference's ids of every text, int64 [texts, length]."""
        return self.reference.ids(self.samples.texts)

    @cached_property
    def our_ids(self) -> NDArray[np.int64]:
        """The runtime's ids of every text."""
        return self.model.tokenizer(self.samples.texts)

    @cached_property
    def pixels(self) -> Array:
        """The reference's pixels of every picture, float32 [images, 3, height, width], or its patches."""
        return self.reference.pixels(list(self.samples.images.values()))

    @cached_property
    def our_pixels(self) -> Array:
        """The runtime's pixels of every picture."""
        return self.seen(list(self.samples.images.values()))

    def seen(self, images: Sequence[Picture]) -> Array:
        """The pixels that the vision tower sees, whether they are made before the graph or in it."""
        images_of, form = self.model.images, self.model.contract.image.input
        if form == "bytes":
            return np.stack([images_of.normalize(images_of.bytes_of(image)) for image in images])
        if form == "picture":
            session, name = self.model.session(Role.VISION), "pixel_values"
            return np.concatenate([session.rows(images_of.one(image)[None], [name])[name] for image in images])
        return images_of(images)

    @cached_property
    def inputs(self) -> dict[Role, Array]:
        """What the reference feeds each tower, its own pixels and ids, in the form that our graphs take."""
        images = self.model.images
        return {role: images.rows_of(self.pixels) if role is Role.VISION else self.ids for role in self.towers}

    @cached_property
    def wanted(self) -> dict[Role, Array]:
        """The reference's embeddings, [rows, size], of its own inputs."""
        self.progress("Running the reference")
        return {
            role: self.reference.embeddings(role, self.pixels if role is Role.VISION else self.ids)
            for role in self.towers
        }

    @cached_property
    def found(self) -> dict[Role, Array]:
        """Our embeddings of the reference's inputs, each row run alone."""
        return {role: self._alone(role, rows) for role, rows in self.inputs.items()}

    def _alone(self, role: Role, rows: Sequence[Array] | Array) -> Array:
        self.progress(f"Running the {role} tower")
        return np.concatenate([self.model.encode(role, row[None]) for row in rows])

    @cached_property
    def our_pictures(self) -> Sequence[Array]:
        """What the runtime feeds the vision tower."""
        return [self.model.images.one(image) for image in self.samples.images.values()]

    @cached_property
    def end_to_end(self) -> dict[Role, Array]:
        """Our embeddings of our own inputs; the towers run again only where these differ."""
        return {role: self._end_to_end(role) for role in self.towers}

    def _end_to_end(self, role: Role) -> Array:
        vision = role is Role.VISION
        ours, theirs = (self.our_pixels, self.pixels) if vision else (self.our_ids, self.ids)
        if np.array_equal(ours, theirs):
            return self.found[role]
        return self._alone(role, self.our_pictures if vision else self.our_ids)

    def rows(self, texts: tuple[str, ...]) -> list[int]:
        """Where texts stand among `samples.texts`."""
        place = {text: i for i, text in enumerate(self.samples.texts)}
        return [place[text] for text in texts]

    @cached_property
    def choices(self) -> list[int]:
        """Labels among the texts, those with the same ids only once."""
        rows = self.rows(self.samples.labels)
        return list({self.ids[row].tobytes(): row for row in reversed(rows)}.values())[::-1]

    @property
    def label_names(self) -> list[str]:
        """What the columns of `label_logits` are called."""
        return list(self.frozen.labels) if self.frozen else [self.samples.texts[row] for row in self.choices]

    @cached_property
    def label_logits(self) -> tuple[Array, Array]:
        """`logits` of every picture and label."""
        if self.frozen is None:
            return self.logits(self.choices)
        if isinstance(self.reference, Baseline):
            return self.outputs("logits"), self.reference.outputs("logits", self.pixels)
        return self.outputs("logits"), self.reference.logits(self.wanted[Role.VISION], self.frozen_labels)

    def outputs(self, name: str, count: int | None = None) -> Array:
        """An output of the vision graph for every picture, or the first `count`, each run alone from its file."""
        session = self.model.session(Role.VISION)
        return np.concatenate([session.rows(row[None], [name])[name] for row in self.our_pictures[:count]])

    @cached_property
    def frozen_labels(self) -> Array:
        """What the reference makes of the frozen labels: the mean of each one's templates, [labels, size]."""
        assert self.frozen is not None  # noqa: S101  asked for by the rungs of such an artifact alone
        prompts = fill(self.frozen.templates, self.frozen.labels)
        rows = self.reference.embeddings(Role.TEXT, self.reference.ids([text for group in prompts for text in group]))
        return np.asarray(metrics.unit(rows).reshape(len(prompts), len(prompts[0]), -1).mean(1))

    def logits(self, texts: list[int]) -> tuple[Array, Array]:
        """Our logits and the reference's, [images, texts], from the files to the end."""
        ours, theirs = self.end_to_end, self.wanted
        found = self.model.logits(normalized(ours[Role.VISION]), normalized(ours[Role.TEXT][texts]))
        return found, self.reference.logits(theirs[Role.VISION], theirs[Role.TEXT][texts])

    def users_probabilities(self, count: int) -> Array:
        """Probabilities of `count` pictures and as many labels, as the runtime's users get them."""
        if self.frozen is not None:
            return self.outputs(PROBABILITIES, count)
        model, files = self.model, list(self.samples.images.values())[:count]
        texts = [self.samples.texts[row] for row in self.choices[:count]]
        return model.probabilities(model.encode_image(files, batch_size=1), model.encode_text(texts, batch_size=1))
