"""What the ladder of checks measures, each thing once and when it is first needed.

Images are read one at a time and rows leave as soon as they are embedded; a tower is loaded, asked everything, and
let go before the next one is loaded. So the memory that a verdict takes is that of one graph and of the embeddings.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from ...exporter.options import Dialect
from ...runtime.arrays import Float64Array
from ...runtime.artifact.contract import Precision, ReferenceKind, Role
from ...runtime.errors import ArtifactError, InputError
from ...runtime.model import Siglip
from ...runtime.preprocessing.prompts import format_prompts
from ...runtime.vectors import normalized
from ..data.samples import Samples
from ..limits.defaults import Limits
from ..reference.cache import ReferenceCache
from ..reference.fp32_variant import Fp32Reference
from ..reference.pytorch import ImageSource
from ..report.report import CheckGroup
from ..stats import metrics
from .tower_run import HIDDEN, USERS, TowerRun, ask

if TYPE_CHECKING:
    from ...exporter.checkpoint.checkpoint import Checkpoint

Progress = Callable[[str], None]
Array = NDArray[Any]
_CHUNK: Final = 8  # images in memory at a time


class CheckContext:
    """Everything that the check groups measure.

    Args:
        model: What is judged.
        source: The checkpoint that it was made from; None to compare with the fp32 variant.
        answers: What is right: the checkpoint as transformers computes it, or the fp32 variant.
        samples: On what.
        gate: The limits.
        without: Check groups for which the judged files bring nothing of their own.
        progress: Told what is being done, in a few words, before each longer step.
    """

    def __init__(
        self,
        model: Siglip,
        source: Checkpoint | None,
        answers: ReferenceCache,
        samples: Samples,
        gate: Limits,
        progress: Progress,
        without: frozenset[CheckGroup] = frozenset(),
    ) -> None:
        self.model, self.source, self.answers = model, source, answers
        self.samples, self.gate, self.progress, self.without = samples, gate, progress, without
        self.frozen, self.towers = model.contract.labels, model.contract.towers
        self._asked: dict[Role, TowerRun | Exception] = {}
        self.counted: dict[object, Any] = {}  # what the check groups of tasks have counted already

    def prepare(self) -> None:
        """Ask the reference for everything, unless its answers are known, and let go of it.

        Raises:
            InputError: An image or text cannot be read.
            CheckpointError: The reference contradicts itself.
        """
        self.progress("Running the reference")
        if self.answers.complete:
            return
        first = self.pixels_of(self.files[:2])
        if self.compares_hidden(Role.VISION):
            self.answers.outputs(Role.VISION, HIDDEN, first[:1])
        for start in range(0, len(self.files), _CHUNK):
            self.progress(f"Running the reference, image {start} of {len(self.files)}")
            self.answers.embeddings(Role.VISION, self.pixels_of(self.files[start : start + _CHUNK]))
        if self.baseline is None:
            self.answers.oracle.check(first, self.ids[:2])
        if self.baseline is None or Role.TEXT in self.towers:
            self.progress("Running the reference, texts")
            if Role.TEXT in self.towers and self.compares_hidden(Role.TEXT):
                self.answers.outputs(Role.TEXT, HIDDEN, self.ids[:1])
            self.answers.embeddings(Role.TEXT, self.ids)
        _ = self.frozen_labels
        self.answers.save()

    @property
    def against(self) -> ReferenceKind:
        """What the model is compared with."""
        return ReferenceKind.FP32 if self.source is None else ReferenceKind.CHECKPOINT

    @property
    def baseline(self) -> Fp32Reference | None:
        """The fp32 variant, where that is compared with."""
        return self.answers.oracle if isinstance(self.answers.oracle, Fp32Reference) else None

    def compares_hidden(self, role: Role) -> bool:
        """Whether both our graph and what it is compared with give last_hidden_state."""
        precisions = [self.model.precision] if self.baseline is None else [self.model.precision, Precision.FP32]
        graphs = [self.model.artifact.graph(role, which, self.model.options.provider) for which in precisions]
        return all(HIDDEN in {spec.name for spec in graph.outputs} for graph in graphs)

    @property
    def foreign(self) -> Dialect | None:
        """The dialect of the checkpoint, where it is not the one that transformers reads itself."""
        dialect = self.source.weights.dialect if self.source else None
        return None if dialect is None or dialect is Dialect.TRANSFORMERS else dialect

    @property
    def graphs(self) -> frozenset[Role]:
        """The graphs that the variant has."""
        variant = self.model.contract.variant(self.model.precision, self.model.options.provider)
        return frozenset(variant.graphs) if variant else frozenset()

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint, for the check groups that are climbed only where there is one."""
        assert self.source is not None  # noqa: S101  see rungs_due
        return self.source

    @cached_property
    def files(self) -> Sequence[ImageSource]:
        """The images, in the order of `names`."""
        return _Files(self.samples)

    @cached_property
    def names(self) -> list[str]:
        """What the images are called."""
        return list(self.samples.images)

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """The reference's ids of every text, int64 [texts, length]."""
        return self.answers.ids(self.samples.texts)

    @cached_property
    def our_ids(self) -> NDArray[np.int64]:
        """The runtime's ids of every text."""
        return self.model.tokenizer(self.samples.texts)

    def pixels_of(self, images: Sequence[ImageSource]) -> Array:
        """The reference's pixels, float32 [images, 3, height, width], or its patches."""
        return self.answers.pixels(list(images))

    def seen(self, image: ImageSource) -> Array:
        """The pixels of one image that the vision tower sees, whether they are made before the graph or in it."""
        images, form = self.model.images, self.model.contract.image.input
        if form == "bytes":
            return images.normalize(images.bytes_of(image))
        if form == "image":
            name = "pixel_values"
            seen: Array = self.model.session(Role.VISION).rows(images.one(image)[None], [name])[name][0]
            return seen
        return images.one(image)

    def tower(self, role: Role) -> TowerRun:
        """What a tower answers to everything; it is loaded, asked and let go at the first call."""
        if role not in self._asked:
            try:
                self._asked[role] = ask(self, role)
            except Exception as error:  # a broken artifact may break anything; every group that needs it tells
                self._asked[role] = error
            self.model.release(role)
        known = self._asked[role]
        if isinstance(known, Exception):
            raise known
        return known

    def inputs(self, role: Role) -> Iterator[tuple[Array, Array, Array | None]]:
        """For each row of a tower the reference's input, the same as our graph takes it, and ours if it differs."""
        if role is Role.TEXT:
            for theirs, ours in zip(self.ids, self._our_rows, strict=True):
                yield theirs, theirs, None if ours is None or np.array_equal(ours, theirs) else ours
            return
        images = self.model.images
        for image in self.files:
            theirs = self.pixels_of([image])[0]
            same = np.array_equal(self.seen(image), theirs)
            yield theirs, images.rows_of(theirs[None])[0], None if same else images.one(image)

    def first_inputs(self, role: Role, count: int) -> Array:
        """The reference's inputs of the first rows, as our graphs take them."""
        return np.stack([given for _, given, _ in itertools.islice(self.inputs(role), count)])

    @property
    def _our_rows(self) -> Sequence[Array | None]:
        try:
            return list(self.our_ids)
        except (ArtifactError, InputError):  # the group TOKENS says so
            return [None] * len(self.ids)

    @cached_property
    def _places(self) -> dict[str, int]:
        return {text: i for i, text in enumerate(self.samples.texts)}

    def rows(self, texts: Sequence[str]) -> list[int]:
        """Where texts stand among `samples.texts`."""
        return [self._places[text] for text in texts]

    @cached_property
    def choices(self) -> list[int]:
        """Which labels there are to choose among: those that read the same only once."""
        last_first = reversed(range(len(self.samples.labels)))
        return list({self._kind_of_label(i): i for i in last_first}.values())[::-1]

    @cached_property
    def _prompts(self) -> list[list[str]]:
        return format_prompts(self.samples.templates, self.samples.labels)

    @property
    def label_names(self) -> list[str]:
        """What the columns of `label_logits` are called."""
        return list(self.frozen.labels) if self.frozen else [self.samples.labels[i] for i in self.choices]

    @cached_property
    def label_logits(self) -> tuple[Array, Array]:
        """Our logits and the reference's of every image and label, [images, labels], from the files to the end."""
        vision = self.tower(Role.VISION)
        if self.frozen is None:
            ours, theirs = (self._of_labels(rows) for rows in (self.text.end_to_end, self.text.wanted))
            found = self.model.logits(normalized(vision.end_to_end), ours.astype(np.float32))
            return found, self.answers.logits(vision.wanted, theirs)
        if self.baseline is not None:
            return vision.other["logits"], vision.wanted_other["logits"]
        assert self.frozen_labels is not None  # noqa: S101  there are frozen labels, and a reference that reads texts
        return vision.other["logits"], self.answers.logits(vision.wanted, self.frozen_labels)

    @property
    def text(self) -> TowerRun:
        """The text tower."""
        return self.tower(Role.TEXT)

    def _of_labels(self, texts: Array) -> Float64Array:
        """Embeddings of labels, of length 1: the mean of their templates'."""
        flat = metrics.unit_rows(texts[self.rows([prompt for i in self.choices for prompt in self._prompts[i]])])
        groups = flat.reshape(len(self.choices), -1, flat.shape[1])
        return groups[:, 0] if groups.shape[1] == 1 else metrics.unit_rows(groups.mean(1))

    @cached_property
    def frozen_labels(self) -> Array | None:
        """What the reference makes of the frozen labels: the mean of each one's templates, [labels, size]."""
        if self.frozen is None or self.baseline is not None:
            return None
        prompts = format_prompts(self.frozen.templates, self.frozen.labels)
        rows = self.answers.embeddings(Role.TEXT, self.answers.ids([text for group in prompts for text in group]))
        return np.asarray(metrics.unit_rows(rows).reshape(len(prompts), len(prompts[0]), -1).mean(1))

    def logits(self, images: Sequence[int], texts: Sequence[int]) -> tuple[Array, Array]:
        """Our logits and the reference's of rows of both towers, from the files to the end."""
        vision, text = self.tower(Role.VISION), self.text
        found = self.model.logits(normalized(vision.end_to_end[images]), normalized(text.end_to_end[texts]))
        return found, self.answers.logits(vision.wanted[images], text.wanted[texts])

    @cached_property
    def users_probabilities(self) -> tuple[Array, Array] | str:
        """Probabilities of a few images and texts as users get them, and the reference's; or why there are none."""
        vision = self.tower(Role.VISION)
        if self.frozen is not None:
            found = vision.other["probabilities"][:USERS]
            return found, metrics.sigmoid(self.label_logits[1][: len(found)])
        images, texts = vision.users, self.text.users
        if isinstance(images, str) or isinstance(texts, str):
            return images if isinstance(images, str) else str(texts)
        theirs = self.answers.logits(vision.wanted[: len(images)], self.text.wanted[: len(texts)])
        return self.model.probabilities(images, texts), metrics.sigmoid(theirs)

    @cached_property
    def captions(self) -> Captions:
        """Every caption, and which is true of which image."""
        rows = self.rows([text for own in self.samples.captions for text in own])
        kinds = np.unique(self.ids[rows], axis=0, return_inverse=True)[1].ravel()
        owners = np.repeat(np.arange(len(self.samples.captions)), [len(own) for own in self.samples.captions])
        return Captions(rows, kinds, owners)

    @cached_property
    def class_truth(self) -> NDArray[np.bool_]:
        """Which label is true of which image, [images, labels], of images whose class is known."""
        kinds = [self._kind_of_label(i) for i in range(len(self.samples.labels))]
        own = [kinds[i] for i in self.samples.classes]
        columns = [kinds[i] for i in self.choices]
        return np.asarray([[column == kind for column in columns] for kind in own], bool)

    def _kind_of_label(self, label: int) -> bytes:
        """The same for labels that read the same."""
        return self.ids[self.rows(self._prompts[label])].tobytes()

    @cached_property
    def label_truth(self) -> NDArray[np.bool_] | None:
        """The same, or by labels that are captions; None where nobody knows."""
        if self.frozen is not None or not (self.samples.classes or self.samples.pairs):
            return None
        if self.samples.classes:
            return self.class_truth
        known = [{self.ids[row].tobytes() for row in self.rows(own)} for own in self.samples.captions]
        columns = [self._kind_of_label(i) for i in self.choices]
        truth = np.asarray([[column in own for column in columns] for own in known], bool)
        return truth if truth.any(1).all() else None

    @cached_property
    def logit_floor(self) -> float:
        """How far a logit moves when its rows are computed in a batch, and nothing else changes."""
        moves = []
        for role in self.towers:
            tower = self.tower(role)
            if tower.batched is None:
                continue
            other = self.tower(Role.TEXT if role is Role.VISION else Role.VISION) if len(self.towers) > 1 else tower
            alone = tower.found[tower.batch_rows]
            pair = [self.answers.logits(rows, other.wanted[:64]) for rows in (tower.batched, alone)]
            moves.append(float(np.abs(pair[0] - pair[1]).max()))
        return max(moves, default=0.0)


@dataclass(frozen=True)
class Captions:
    """Captions, the same for those that read the same.

    Attributes:
        rows: Where each stands among the texts.
        kinds: A number for each, equal where they read the same.
        owners: Which image each was given to.
    """

    rows: list[int]
    kinds: Array
    owners: Array

    def truth(self, images: range, captions: range) -> NDArray[np.bool_]:
        """Which caption is true of which image, [images, captions]: its own, and what reads the same as one."""
        inside = (self.owners >= images.start) & (self.owners < images.stop)
        true = np.zeros((len(images), int(self.kinds.max(initial=0)) + 1), np.bool_)
        true[self.owners[inside] - images.start, self.kinds[inside]] = True
        return np.asarray(true[:, self.kinds[captions.start : captions.stop]])


class _Files(Sequence[ImageSource]):
    """The images of samples by number; each is opened when it is asked for."""

    def __init__(self, samples: Samples) -> None:
        self._images, self._names = samples.images, list(samples.images)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self._images[name] for name in self._names[place]]
        return self._images[self._names[place]]
