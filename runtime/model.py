"""Run an artifact: images and texts to embeddings, embeddings to logits and probabilities."""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from .artifact.artifact import Artifact
from .artifact.contract import EmbeddingSpec, Precision, Provider, Role
from .auto_select import AUTO, choose
from .device_arrays import DeviceTower
from .engines import host
from .engines.options import SessionOptions
from .engines.providers import PROVIDERS
from .errors import ArtifactError, InputError, ProviderError
from .labels import Label
from .preprocessing.image import ImageInput, ImageOptions, ImageProcessor
from .preprocessing.input_checks import check_rows, require_batch
from .preprocessing.prefetch import batched, prefetch
from .preprocessing.prompts import TextCache, format_prompts, warn_truncated
from .preprocessing.tokenizer import Tokenizer
from .session import GraphSession, identity
from .vectors import FloatArray, normalized, sigmoid, usable

PROBABILITIES: Final = "probabilities"
_log = logging.getLogger(__name__)


class Siglip:
    """A SigLIP model without PyTorch. Threads may share it; each tower is loaded when it is first used.

    >>> with Siglip.load(folder) as model:  # an artifact's
    ...     best = model.classify([image], ["pizza", "bear"])[0][0]
    >>> best.label, round(best.probability, 2)
    ('bear', 0.99)

    It may be sent to another process (pickled), and used in a forked one, which loads towers of its own. Calls release
    Python's lock while they compute, so `await asyncio.to_thread(model.encode_image, …)` keeps an event loop running.

    Args:
        artifact: What to run.
        precision: Which variant of it.
        options: How its graphs are loaded.
        image_options: Choices that change pixels; the defaults are the reference's.
        text_cache: Embeddings of texts that are known already; models may share one.
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
        for role in self.contract.towers:  # a variant that is not there is an error now, not at first use
            artifact.graph(role, precision, self.options.provider)
        self._start()

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
        """Open the artifact in a folder and get it ready to run.

        Args:
            artifact: The folder.
            precision: One of `Precision`, or `auto`: the fastest here that carries a PASS.
            provider: One of `Provider`, never another one in its stead; or `auto`, likewise.
            options: How graphs are loaded; their provider is the one that is named here.
            image_options: Choices that change pixels; the defaults are the reference's.
            text_cache: Embeddings of texts that are known already; models may share one.

        >>> model = Siglip.load(folder, "auto", "auto")
        >>> str(model.precision), str(model.options.provider)
        ('fp32', 'cpu')

        Raises:
            ArtifactError: The artifact is missing, damaged, or lacks that precision.
            ProviderError: The provider is missing; or with `auto`, nothing that works here carries a PASS.
            InputError: There is no precision or provider of that name.
        """
        opened = Artifact.open(artifact)
        variant, chosen = choose(opened, precision, provider, options)
        if AUTO in (precision, provider):
            _log.info("%s: chose %s on %s", opened.folder, variant, chosen.provider)
        return cls(opened, variant, chosen, image_options, text_cache)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of what was loaded; a model that is used again loads it again."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._start()

    def release(self, role: Role) -> None:
        """Let go of one graph; it is loaded again when it is used again."""
        self._own()
        with self._locks[role]:
            self._sessions.pop(role, None)
            self._device_towers.pop(role, None)

    def _start(self) -> None:
        self._tokenizer: Tokenizer | None = None
        self._sessions: dict[Role, GraphSession] = {}
        self._device_towers: dict[Role, DeviceTower] = {}
        self._locks = {role: threading.Lock() for role in Role}
        self._text_lock = threading.Lock()
        self._executor = ThreadPoolExecutor(host.cores(), "siglip-onnx")
        self._process = os.getpid()

    def _own(self) -> None:
        """Start anew in a forked process: it has neither the threads nor, maybe, the unlocked locks of its parent."""
        if self._process != os.getpid():
            _inherited.append((self._sessions, self._executor))  # ending them would wait for threads that are not here
            self._text_cache = TextCache(self._text_cache.entries)  # the lock of the old one may be taken for ever
            self._start()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.artifact, self.precision, self.options, self.images.options)

    @property
    def tokenizer(self) -> Tokenizer:
        """The artifact's tokenizer.

        Raises:
            ArtifactError: It is damaged, or there is none, because the artifact's labels are frozen.
        """
        self._own()
        with self._text_lock:
            if self._tokenizer is None:
                spec = self.contract.tokenizer
                if spec is None:
                    raise ArtifactError(
                        f"{self.artifact.folder} is a classifier of frozen labels and reads no texts.",
                        "Use the artifact that it was made from.",
                    )
                if self.options.verify:
                    self.artifact.verify((spec.file,))
                self._tokenizer = Tokenizer.load(self.artifact.path(spec.file), spec)
            return self._tokenizer

    def encode_image(
        self, images: Sequence[ImageInput], *, batch_size: int | None = None, normalize: bool = True
    ) -> FloatArray:
        """Embeddings of images, float32 [images, size]. Images are decoded while others are in the tower.

        Args:
            images: Paths, bytes of files, Pillow images or arrays; see `load_image`.
            batch_size: How many go through the tower at once; None takes what is fastest on the provider.
            normalize: Scale each embedding to length 1, as `logits` needs them.

        >>> Siglip.load(folder).encode_image([image]).shape
        (1, 192)

        Raises:
            InputError: An image cannot be used, or there is none.
        """
        require_batch(images, "image")
        size = self.batch_size(Role.VISION, batch_size)
        self.session(Role.VISION)
        rows = self.encode_batches(Role.VISION, self._pixels(images, size))
        return self._finished(Role.VISION, np.concatenate(list(rows)), normalize)

    def encode_text(self, texts: Sequence[str], *, batch_size: int | None = None, normalize: bool = True) -> FloatArray:
        """Embeddings of texts, float32 [texts, size]. Equal texts are encoded once, and known ones not again.

        Args:
            texts: Strings; a TextTruncatedWarning tells of those that the model does not read to their end.
            batch_size: How many go through the tower at once; None takes what is fastest on the provider.
            normalize: Scale each embedding to length 1, as `logits` needs them.

        >>> Siglip.load(folder).encode_text(["a bear", "pizza"]).shape
        (2, 192)

        Raises:
            InputError: A text cannot be used, or there is none.
        """
        require_batch(texts, "text")
        size = self.batch_size(Role.TEXT, batch_size)
        ids = self.tokenizer(texts, warn_truncated)

        def encode(rows: NDArray[np.int64]) -> FloatArray:
            batches = (rows[start : start + size] for start in range(0, len(rows), size))
            return np.concatenate(list(self.encode_batches(Role.TEXT, batches)))

        return self._finished(Role.TEXT, self._text_cache.encode(self.identity(Role.TEXT), ids, encode), normalize)

    def encode_labels(self, labels: Sequence[str], template: str | Sequence[str] = "{}") -> FloatArray:
        """Embeddings of labels, float32 [labels, size], of length 1.

        Several templates make an ensemble, as in CLIP's zero-shot classifiers (https://arxiv.org/abs/2103.00020,
        3.1.4): the mean of their embeddings, scaled to length 1 again.

        Args:
            labels: What to choose among.
            template: What the model reads for a label, or several; `{}` stands for it, as in "a photo of {}".

        >>> Siglip.load(folder).encode_labels(["bear", "pizza"], ["{}", "an emoji of {}"]).shape
        (2, 192)

        Raises:
            InputError: A label cannot be used, there is none, or a template has no `{}`.
        """
        require_batch(labels, "label")
        prompts = format_prompts(template, labels)
        flat = self.encode_text([prompt for group in prompts for prompt in group])
        if len(prompts[0]) == 1:
            return flat
        return normalized(flat.reshape(len(labels), len(prompts[0]), -1).mean(axis=1))

    def encode(self, role: Role, inputs: NDArray[Any]) -> FloatArray:
        """Embeddings, as the tower gives them, of ready rows of `images` or input_ids: float32 [rows, size].

        Raises:
            InputError: The inputs have another dtype or shape than the contract says, or values that no image or
                vocabulary has.
        """
        self._check_range(role, inputs)
        session = self.session(role)
        name = session.embedding.output
        embeddings: FloatArray = session.rows(inputs, [name])[name]
        return embeddings

    def encode_batches(self, role: Role, batches: Iterable[NDArray[Any]]) -> Iterator[FloatArray]:
        """Embeddings of each batch as by `encode`; on CUDA the next batch is uploaded while one is computed."""
        if self.options.provider is not Provider.CUDA or not self.session(role).plain:
            yield from (self.encode(role, batch) for batch in batches)
            return
        yield from self.on_device(role).encode(self._in_range(role, batches))

    def on_device(self, role: Role) -> DeviceTower:
        """The tower for arrays that lie in the device's memory (DLPack); on CUDA or the CPU.

        >>> model = Siglip.load(folder)
        >>> ids = model.tokenizer(["a bear"])  # or a CUDA tensor, where the model is on CUDA
        >>> np.from_dlpack(model.on_device(Role.TEXT)(ids)).shape
        (1, 192)

        Raises:
            ProviderError: The model runs elsewhere.
        """
        session = self.session(role)
        with self._locks[role]:
            if role not in self._device_towers:
                self._device_towers[role] = DeviceTower(session, self.options, session.embedding)
            return self._device_towers[role]

    def similarity(self, image_embeddings: FloatArray, text_embeddings: FloatArray) -> FloatArray:
        """Cosines, float32 [images, texts], of normalized embeddings."""
        return image_embeddings @ text_embeddings.T

    def logits(self, image_embeddings: FloatArray, text_embeddings: FloatArray) -> FloatArray:
        """The model's logits, float32 [images, texts], of normalized embeddings: scale * cosine + bias."""
        scale, bias = np.float32(self.contract.logits.scale), np.float32(self.contract.logits.bias)
        return np.asarray(self.similarity(image_embeddings, text_embeddings) * scale + bias, np.float32)

    def probabilities(self, image_embeddings: FloatArray, text_embeddings: FloatArray) -> FloatArray:
        """The probability of each pair, float32 [images, texts]: sigmoid(logit).

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
        """For each image all labels, the most probable first; arguments as for `encode_image` and `encode_labels`.

        A classifier of frozen labels has its own, and takes no others.

        Raises:
            InputError: An image or label cannot be used, a template has no `{}`, or there are no labels.
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
            raise InputError("There are no labels to choose among.", "Pass some.")
        self._load_both()
        texts = self.encode_labels(labels, template)
        return self.probabilities(self.encode_image(images), texts)

    def _frozen(
        self, images: Sequence[ImageInput], labels: Sequence[str] | None, template: str | Sequence[str]
    ) -> FloatArray:
        if labels is not None:
            raise InputError(
                f"{self.artifact.folder} is a classifier of its own labels and takes no others.", "Pass no labels."
            )
        if template not in ("{}", ("{}",), ["{}"]):
            raise InputError(
                f"{self.artifact.folder} is a classifier of labels that are frozen with their templates.",
                "Pass no template, or freeze the labels again with yours.",
            )
        session = self.session(Role.VISION)
        rows = [
            session.rows(batch, [PROBABILITIES])[PROBABILITIES]
            for batch in self._pixels(images, self.batch_size(Role.VISION, None))
        ]
        table: FloatArray = np.concatenate(rows)
        if not np.isfinite(table).all():
            raise ProviderError(
                f"The {self.precision} variant of {self.artifact.folder} gives a probability that is not finite.",
                "Use a variant that carries a PASS.",
            )
        return table

    def session(self, role: Role) -> GraphSession:
        """The loaded graph of a role; loads it when it is first asked for."""
        self._own()
        with self._locks[role]:
            if role not in self._sessions:
                session = GraphSession(self.artifact, role, self.precision, self.options)
                outputs = {spec.name for spec in session.graph.outputs}
                if role is not Role.JOINT and session.embedding.output not in outputs:
                    raise ArtifactError(
                        f"The {role} graph has no output {session.embedding.output!r}.", "Export again."
                    )
                self._sessions[role] = session
            return self._sessions[role]

    def identity(self, role: Role) -> str:
        """What tells the embeddings of a role from others: graph, weights, provider and arithmetic; 64 hex digits."""
        options, graph = self.options, self.artifact.graph(role, self.precision, self.options.provider)
        facts = (
            identity(self.artifact, graph),
            options.provider,
            options.openvino_precision or "",
            str(options.allow_fallback),
        )
        return hashlib.sha256("\0".join(facts).encode()).hexdigest()

    def _load_both(self) -> None:
        """Load the towers at the same time."""
        self._own()
        list(self._executor.map(self.session, self.contract.towers))

    def _pixels(self, images: Sequence[ImageInput], size: int) -> Iterator[NDArray[np.float32]]:
        """Batches of pixel_values, decoded by other threads, two batches ahead."""
        each = prefetch(self._executor, self.images.one, images, 2 * size)
        for futures in batched(each, size):
            yield futures[0].result()[None] if len(futures) == 1 else np.stack([future.result() for future in futures])

    def _finished(self, role: Role, embeddings: FloatArray, normalize: bool) -> FloatArray:
        bad = np.flatnonzero(~usable(embeddings))
        if len(bad):
            raise ProviderError(
                f"The {self.precision} variant of {self.artifact.folder} on {self.options.provider} gives an embedding "
                f"that is not finite, or zero, for item {bad[0]}.",
                "Use a variant that carries a PASS.",
            )
        return normalized(embeddings) if normalize and not self.embedding(role).normalized else embeddings

    def embedding(self, role: Role) -> EmbeddingSpec:
        """Which output of a tower is the embedding, how wide it is, and whether the graph has normalized it."""
        graph = self.artifact.graph(role, self.precision, self.options.provider)
        return graph.embedding(self.contract.embedding)

    def batch_size(self, role: Role, wanted: int | None) -> int:
        """How many rows go through a tower at once: as wanted, what is fastest, or what its graph is fixed to.

        Raises:
            InputError: Less than one is wanted.
        """
        fixed = self.artifact.graph(role, self.precision, self.options.provider).batch
        if wanted is not None and wanted < 1:
            raise InputError(f"A batch cannot hold {wanted} items.", "Use a batch size of at least 1.")
        return fixed or wanted or PROVIDERS[self.options.provider].batch[role]

    def _in_range(self, role: Role, batches: Iterable[NDArray[Any]]) -> Iterator[NDArray[Any]]:
        for batch in batches:
            self._check_range(role, batch)
            yield batch

    def _check_range(self, role: Role, inputs: NDArray[Any]) -> None:
        """Refuse bytes that were never normalized, and ids of another vocabulary."""
        if role is not Role.JOINT:
            check_rows(
                role, inputs, self.images.span if role is Role.VISION else (0, self.tokenizer.spec.vocab_size - 1)
            )


# What a forked process got from its parent and must not end.
_inherited: Final[list[object]] = []
