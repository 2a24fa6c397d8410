"""The users' API: images and texts to embeddings, embeddings to logits and probabilities."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np

from .arrays import AnyArray, FloatArray, IntArray
from .artifact.artifact import Artifact
from .artifact.contract import EmbeddingSpec, Precision, Provider, Role
from .auto_select import AUTO, select
from .device_arrays import DeviceTower
from .engines.options import SessionOptions
from .engines.providers import PROVIDERS
from .errors import InputError, ProviderError
from .preprocessing.image import ImageInput, ImageOptions, ImageProcessor
from .preprocessing.input_checks import check_rows, require_batch
from .preprocessing.prefetch import batched, prefetch
from .preprocessing.prompts import Label, TextCache, format_prompts, warn_truncated
from .preprocessing.tokenizer import Tokenizer
from .session import GraphSession, identity
from .tower_pool import TowerPool
from .vectors import normalized, sigmoid, usable

PROBABILITIES: Final = "probabilities"  # output of a vision graph with frozen labels
_log = logging.getLogger(__name__)


class Siglip:
    """A SigLIP model, run without PyTorch. Threads may share it; each tower is loaded when it is first used.

    >>> with Siglip.load(folder) as model:  # the folder of an artifact
    ...     best = model.classify([image], ["pizza", "bear"])[0][0]
    >>> best.label, round(best.probability, 2)
    ('bear', 0.99)

    A model can be pickled and sent to another process, and used in a forked process, which loads towers of its own.
    Calls release the GIL while they compute, so `await asyncio.to_thread(model.encode_image, …)` does not block an
    event loop.

    Args:
        artifact: The artifact to run.
        precision: The variant to run.
        options: Session options.
        image_options: Preprocessing options; the defaults do what the PyTorch reference does.
        text_cache: Cache of text embeddings, which several models may share; None makes a new one.

    Attributes:
        contract: The artifact's contract.
        images: The image processor.

    Raises:
        ArtifactError: The artifact lacks that variant.
        InputError: An option does not apply to the provider.
    """

    def __init__(
        self,
        artifact: Artifact,
        precision: Precision = Precision.FP32,
        options: SessionOptions | None = None,
        image_options: ImageOptions | None = None,
        text_cache: TextCache | None = None,
    ) -> None:
        self.artifact, self.contract, self.precision = artifact, artifact.contract, precision
        self.options = options or SessionOptions()
        self.options.check_provider()
        self.images = ImageProcessor(self.contract.image, image_options)
        self._text_cache = TextCache() if text_cache is None else text_cache
        for role in self.contract.towers:  # report a missing variant now, not at the first inference
            artifact.graph(role, precision, self.options.provider)
        self._towers = TowerPool(artifact, precision, self.options)

    @classmethod
    def load(
        cls,
        artifact: str | Path,
        precision: str = "fp32",
        provider: str = "cpu",
        *,
        options: SessionOptions | None = None,
        image_options: ImageOptions | None = None,
        text_cache: TextCache | None = None,
    ) -> Siglip:
        """Open the artifact in a folder.

        Args:
            artifact: The folder.
            precision: Name of a `Precision`; or `auto` for the fastest one here that carries a PASS.
            provider: Name of a `Provider`, which is never replaced by another one; or `auto`, as for the precision.
            options: Session options; the provider in them is ignored.
            image_options: Preprocessing options; the defaults do what the PyTorch reference does.
            text_cache: Cache of text embeddings, which several models may share; None makes a new one.

        >>> model = Siglip.load(folder, "auto", "auto")
        >>> str(model.precision), str(model.options.provider)
        ('fp32', 'cpu')

        Raises:
            ArtifactError: The artifact is missing or damaged, or lacks that precision.
            ProviderError: The provider does not work here; or with `auto`, nothing that works here carries a PASS.
            InputError: The precision or provider is unknown, or an option does not apply to the provider.
        """
        opened = Artifact.open(artifact)
        variant, chosen = select(opened, precision, provider, options)
        if AUTO in (precision, provider):
            _log.info("%s: selected %s on %s", opened.folder, variant, chosen.provider)
        return cls(opened, variant, chosen, image_options, text_cache)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.artifact, self.precision, self.options, self.images.options)

    def encode_image(
        self, images: Sequence[ImageInput], *, batch_size: int | None = None, normalize: bool = True
    ) -> FloatArray:
        """Embeddings of images, float32 [images, size]. Images are decoded while the tower computes earlier ones.

        Args:
            images: Paths, contents of files (bytes), Pillow images or arrays; see `load_image`.
            batch_size: Images per run of the tower; None uses the provider's fastest size.
            normalize: Scale each embedding to length 1, as `logits` expects.

        >>> Siglip.load(folder).encode_image([image]).shape
        (1, 192)

        Raises:
            InputError: An image cannot be used, there is none, or the batch size is below 1.
            ProviderError: The tower failed, or an embedding is zero or not finite.
        """
        require_batch(images, "image")
        size = self.batch_size(Role.VISION, batch_size)
        self.session(Role.VISION)
        rows = self.encode_batches(Role.VISION, self._pixel_batches(images, size))
        return self._checked(Role.VISION, np.concatenate(list(rows)), normalize)

    def encode_text(self, texts: Sequence[str], *, batch_size: int | None = None, normalize: bool = True) -> FloatArray:
        """Embeddings of texts, float32 [texts, size]. Equal texts are encoded once, and cached texts not at all.

        Args:
            texts: The texts; a text that is too long for the model is truncated, with a TextTruncatedWarning.
            batch_size: Texts per run of the tower; None uses the provider's fastest size.
            normalize: Scale each embedding to length 1, as `logits` expects.

        >>> Siglip.load(folder).encode_text(["a bear", "pizza"]).shape
        (2, 192)

        Raises:
            InputError: A text is not a valid string, there is none, or the batch size is below 1.
            ArtifactError: The artifact is a classifier with frozen labels.
            ProviderError: The tower failed, or an embedding is zero or not finite.
        """
        require_batch(texts, "text")
        size = self.batch_size(Role.TEXT, batch_size)
        ids = self.tokenizer(texts, warn_truncated)

        def encode(rows: IntArray) -> FloatArray:
            batches = (rows[start : start + size] for start in range(0, len(rows), size))
            return np.concatenate(list(self.encode_batches(Role.TEXT, batches)))

        return self._checked(Role.TEXT, self._text_cache.encode(self.identity(Role.TEXT), ids, encode), normalize)

    def encode_labels(self, labels: Sequence[str], template: str | Sequence[str] = "{}") -> FloatArray:
        """Embeddings of labels, float32 [labels, size], each of length 1.

        Several templates form an ensemble, as in CLIP's zero-shot classifiers (https://arxiv.org/abs/2103.00020,
        3.1.4): the mean of the embeddings of all prompts of a label, scaled to length 1 again.

        Args:
            labels: The labels.
            template: One prompt template or several; `{}` is replaced by the label, as in "a photo of {}".

        >>> Siglip.load(folder).encode_labels(["bear", "pizza"], ["{}", "an emoji of {}"]).shape
        (2, 192)

        Raises:
            InputError: A label is not a valid string, there is none, or a template has no `{}`.
            ArtifactError: The artifact is a classifier with frozen labels.
            ProviderError: The tower failed, or an embedding is zero or not finite.
        """
        require_batch(labels, "label")
        prompts = format_prompts(template, labels)
        flat = self.encode_text([prompt for group in prompts for prompt in group])
        if len(prompts[0]) == 1:
            return flat
        return normalized(flat.reshape(len(labels), len(prompts[0]), -1).mean(axis=1))

    def similarity(self, image_embeddings: FloatArray, text_embeddings: FloatArray) -> FloatArray:
        """Cosines of normalized embeddings, [images, size] and [texts, size]: float32 [images, texts]."""
        return image_embeddings @ text_embeddings.T

    def logits(self, image_embeddings: FloatArray, text_embeddings: FloatArray) -> FloatArray:
        """The model's logits of normalized embeddings, float32 [images, texts]: scale * cosine + bias."""
        scale, bias = np.float32(self.contract.logits.scale), np.float32(self.contract.logits.bias)
        return np.asarray(self.similarity(image_embeddings, text_embeddings) * scale + bias, np.float32)

    def probabilities(self, image_embeddings: FloatArray, text_embeddings: FloatArray) -> FloatArray:
        """The probability that each text fits each image, float32 [images, texts]: sigmoid(logit).

        >>> model = Siglip.load(folder)
        >>> images, texts = model.encode_image([image]), model.encode_text(["bear", "pizza"])
        >>> model.probabilities(images, texts).round(2).tolist()
        [[0.9900000095367432, 0.0]]
        """
        return sigmoid(self.logits(image_embeddings, text_embeddings))

    def classify(
        self,
        images: Sequence[ImageInput],
        labels: Sequence[str] | None = None,
        *,
        template: str | Sequence[str] = "{}",
    ) -> list[list[Label]]:
        """All labels with their probabilities for each image, the most probable label first.

        Args:
            images: As for `encode_image`.
            labels: The labels; None only for a classifier with frozen labels, which takes no others.
            template: As for `encode_labels`; not for a classifier with frozen labels.

        Raises:
            InputError: An image, label or template cannot be used, or there are no labels.
            ProviderError: A tower failed, or an embedding or probability is not finite.
        """
        require_batch(images, "image")
        if self.contract.labels is None:
            table, labels = self._zero_shot(images, labels, template), labels or ()
        else:
            table, labels = self._frozen(images, labels, template), self.contract.labels.labels
        return [[Label(labels[i], float(row[i])) for i in np.argsort(-row, kind="stable")] for row in table]

    def _zero_shot(
        self, images: Sequence[ImageInput], labels: Sequence[str] | None, template: str | Sequence[str]
    ) -> FloatArray:
        if labels is None:
            raise InputError("Expected labels, got none.", "Pass a list of labels.")
        self.load_towers()
        texts = self.encode_labels(labels, template)
        return self.probabilities(self.encode_image(images), texts)

    def _frozen(
        self, images: Sequence[ImageInput], labels: Sequence[str] | None, template: str | Sequence[str]
    ) -> FloatArray:
        if labels is not None:
            raise InputError(
                f"{self.artifact.folder} is a classifier with frozen labels and takes no others.", "Pass no labels."
            )
        if template not in ("{}", ("{}",), ["{}"]):
            raise InputError(
                f"The labels of {self.artifact.folder} are frozen together with their templates.",
                "Pass no template, or freeze the labels again with yours.",
            )
        session = self.session(Role.VISION)
        batches = self._pixel_batches(images, self.batch_size(Role.VISION, None))
        table: FloatArray = np.concatenate([session.rows(batch, [PROBABILITIES])[PROBABILITIES] for batch in batches])
        if not np.isfinite(table).all():
            raise ProviderError(
                f"The {self.precision} variant of {self.artifact.folder} computed a probability that is not finite.",
                "Use a variant that carries a PASS.",
            )
        return table

    def encode(self, role: Role, inputs: AnyArray) -> FloatArray:
        """Embeddings of preprocessed rows, as the tower computes them, float32 [rows, size].

        Args:
            role: The tower.
            inputs: Rows of `images` (float32 [rows, 3, height, width] in most artifacts) or of `tokenizer` (int64
                [rows, length]).

        Raises:
            InputError: The dtype or shape is not the contract's, or a value is out of range.
            ProviderError: The tower failed.
        """
        inputs, session = self._in_range(role, inputs), self.session(role)
        name = session.embedding.output
        embeddings: FloatArray = session.rows(inputs, [name])[name]
        return embeddings

    def encode_batches(self, role: Role, batches: Iterable[AnyArray]) -> Iterator[FloatArray]:
        """Embeddings of each batch, as by `encode`; on CUDA, batches are uploaded while earlier ones are computed."""
        if self.options.provider is not Provider.CUDA or not self.session(role).plain:
            yield from (self.encode(role, batch) for batch in batches)
            return
        yield from self.on_device(role).encode(self._in_range(role, batch) for batch in batches)

    def on_device(self, role: Role) -> DeviceTower:
        """The tower for arrays in the device's memory (DLPack), on CUDA or on the CPU.

        >>> model = Siglip.load(folder)
        >>> ids = model.tokenizer(["a bear"])  # or a CUDA tensor, if the model is on CUDA
        >>> np.from_dlpack(model.on_device(Role.TEXT)(ids)).shape
        (1, 192)

        Raises:
            ProviderError: The provider is neither CUDA nor the CPU, or the graph's batch is fixed.
        """
        return self._pool().device_tower(role)

    @property
    def tokenizer(self) -> Tokenizer:
        """The artifact's tokenizer.

        Raises:
            ArtifactError: Its file is damaged; or the artifact has frozen labels and thus no tokenizer.
        """
        return self._pool().tokenizer()

    def session(self, role: Role) -> GraphSession:
        """The graph of a role; the first call loads it.

        Raises:
            ArtifactError: The graph is missing, damaged, or not what the contract says.
            ProviderError: The provider does not run the graph.
        """
        return self._pool().session(role)

    def embedding(self, role: Role) -> EmbeddingSpec:
        """The embedding's output, its size, and whether the graph normalizes it."""
        graph = self.artifact.graph(role, self.precision, self.options.provider)
        return graph.embedding(self.contract.embedding)

    def batch_size(self, role: Role, requested: int | None) -> int:
        """Rows per run of a tower: the graph's fixed batch, or the requested size, or the provider's fastest size.

        Raises:
            InputError: The requested size is below 1.
        """
        fixed = self.artifact.graph(role, self.precision, self.options.provider).batch
        if requested is not None and requested < 1:
            raise InputError(f"batch_size must be at least 1, got {requested}.", "Pass a larger one, or None.")
        return fixed or requested or PROVIDERS[self.options.provider].batch[role]

    def identity(self, role: Role) -> str:
        """SHA-256 (64 hex digits) of everything that embeddings depend on: graph, weights, provider and arithmetic."""
        options, graph = self.options, self.artifact.graph(role, self.precision, self.options.provider)
        facts = (
            identity(self.artifact, graph),
            options.provider,
            options.openvino_precision or "",
            str(options.allow_fallback),
        )
        return hashlib.sha256("\0".join(facts).encode()).hexdigest()

    def load_towers(self) -> None:
        """Load both towers in parallel, before their first use."""
        self._pool().load_towers()

    def release(self, role: Role) -> None:
        """Free one graph; the next use loads it again."""
        self._pool().release(role)

    def close(self) -> None:
        """Free all graphs and threads; the next use loads them again."""
        self._pool().close()

    def _pool(self) -> TowerPool:
        """The loaded towers of this process."""
        if self._towers.check_fork():
            self._text_cache = TextCache(self._text_cache.entries)  # the old cache's lock may stay locked
        return self._towers

    def _pixel_batches(self, images: Sequence[ImageInput], size: int) -> Iterator[AnyArray]:
        """Batches of rows of images; other threads decode up to two batches ahead."""
        decoded = prefetch(self._pool().executor, self.images.one, images, 2 * size)
        for futures in batched(decoded, size):
            yield futures[0].result()[None] if len(futures) == 1 else np.stack([future.result() for future in futures])

    def _checked(self, role: Role, embeddings: FloatArray, normalize: bool) -> FloatArray:
        unusable = np.flatnonzero(~usable(embeddings))
        if len(unusable):
            raise ProviderError(
                f"The {self.precision} variant of {self.artifact.folder} on {self.options.provider} computed an "
                f"embedding that is zero or not finite, for item {unusable[0]}.",
                "Use a variant that carries a PASS.",
            )
        return normalized(embeddings) if normalize and not self.embedding(role).normalized else embeddings

    def _in_range(self, role: Role, inputs: AnyArray) -> AnyArray:
        """The inputs, unless they hold pixels that were never normalized or ids of another vocabulary."""
        if role is Role.VISION:
            check_rows(role, inputs, self.images.value_range)
        elif role is Role.TEXT:
            check_rows(role, inputs, (0, self.tokenizer.spec.vocab_size - 1))
        return inputs
