"""Run an artifact: pictures and texts to embeddings, embeddings to logits and probabilities."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .artifact import Artifact
from .contract import Precision, Provider, Role
from .errors import ArtifactError, InputError
from .image import ImageInput, ImageOptions, ImageProcessor
from .session import GraphSession, SessionOptions, require
from .tokenizer import Tokenizer

FloatArray = NDArray[np.float32]
_Choice = TypeVar("_Choice", Precision, Provider)


@dataclass(frozen=True)
class Label:
    """A label and the probability that it is true of a picture; SigLIP's probabilities do not add up to one."""

    label: str
    probability: float


class Siglip:
    """A SigLIP model without PyTorch. Threads may share it; each tower is loaded when it is first used.

        model = Siglip.load("siglip-large")
        best = model.classify(["cat.jpg"], ["a cat", "a dog"])[0][0]
        print(best.label, best.probability)

    Args:
        artifact: What to run.
        precision: Which variant of it.
        options: How its graphs are loaded.
        image_options: Choices that change pixels; the defaults are the reference's.
    """

    def __init__(
        self,
        artifact: Artifact,
        precision: Precision = Precision.FP32,
        options: SessionOptions | None = None,
        image_options: ImageOptions | None = None,
    ) -> None:
        self.artifact, self.contract, self.precision = artifact, artifact.contract, precision
        self.options = options or SessionOptions()
        self.images = ImageProcessor(self.contract.image, image_options)
        self._tokenizer: Tokenizer | None = None
        self._sessions: dict[Role, GraphSession] = {}
        self._lock = threading.Lock()
        for role in (Role.VISION, Role.TEXT):
            artifact.graph(
                role, precision, self.options.provider
            )  # a variant that is not there is an error now, not at first use

    @classmethod
    def load(
        cls,
        artifact: str | Path,
        precision: str = "fp32",
        provider: str = "cpu",
        *,
        threads: int | None = None,
        verify: bool = True,
        image_options: ImageOptions | None = None,
    ) -> Siglip:
        """Open the artifact in a folder and get it ready to run.

        Args:
            artifact: The folder.
            precision: One of `Precision`.
            provider: One of `Provider`; never another one in its stead.
            threads: Threads of one run; None leaves it to ONNX Runtime.
            verify: Check the SHA-256 of what is loaded.
            image_options: Choices that change pixels; the defaults are the reference's.

        Raises:
            ArtifactError: The artifact is missing, damaged, or lacks that precision.
            ProviderError: The provider is missing.
            InputError: There is no precision or provider of that name.
        """
        options = SessionOptions(_member(Provider, provider), threads, verify)
        require(options.provider)  # a missing provider is an error now, not at first use
        return cls(Artifact.open(artifact), _member(Precision, precision), options, image_options)

    @property
    def tokenizer(self) -> Tokenizer:
        """The artifact's tokenizer."""
        with self._lock:
            if self._tokenizer is None:
                spec = self.contract.tokenizer
                if self.options.verify:
                    self.artifact.verify((spec.file,))
                self._tokenizer = Tokenizer(self.artifact.path(spec.file), spec)
            return self._tokenizer

    def encode_image(self, images: Sequence[ImageInput], *, batch_size: int = 8, normalize: bool = True) -> FloatArray:
        """Embeddings of pictures, float32 [images, size].

        Args:
            images: Paths, bytes of files, Pillow images or arrays; see `load_image`.
            batch_size: How many go through the tower at once.
            normalize: Scale each embedding to length 1, as `logits` needs them.

        Raises:
            InputError: A picture cannot be used, or there is none.
        """
        return self._encode(images, self.images, Role.VISION, batch_size, normalize)

    def encode_text(self, texts: Sequence[str], *, batch_size: int = 32, normalize: bool = True) -> FloatArray:
        """Embeddings of texts, float32 [texts, size]; arguments and errors as for `encode_image`."""
        return self._encode(texts, self.tokenizer, Role.TEXT, batch_size, normalize)

    def encode(self, role: Role, inputs: NDArray[Any]) -> FloatArray:
        """Embeddings, as the tower gives them, of ready pixel_values or input_ids: float32 [rows, size].

        Raises:
            InputError: The inputs have another dtype or shape than the contract says.
        """
        session = self.session(role)
        output: FloatArray = session.run({session.graph.inputs[0].name: inputs})[self.contract.embedding.output]
        return output

    def similarity(self, image_embeddings: FloatArray, text_embeddings: FloatArray) -> FloatArray:
        """Cosines, float32 [images, texts], of normalised embeddings."""
        return image_embeddings @ text_embeddings.T

    def logits(self, image_embeddings: FloatArray, text_embeddings: FloatArray) -> FloatArray:
        """The model's logits, float32 [images, texts], of normalised embeddings: scale * cosine + bias."""
        scale, bias = np.float32(self.contract.logits.scale), np.float32(self.contract.logits.bias)
        return np.asarray(self.similarity(image_embeddings, text_embeddings) * scale + bias, np.float32)

    def probabilities(self, image_embeddings: FloatArray, text_embeddings: FloatArray) -> FloatArray:
        """The probability of each pair, float32 [images, texts]: sigmoid(logit)."""
        logits = self.logits(image_embeddings, text_embeddings)
        return np.asarray(np.exp(-np.logaddexp(np.float32(0), -logits)), np.float32)  # no overflow at either end

    def classify(
        self, images: Sequence[ImageInput], labels: Sequence[str], *, template: str = "{}"
    ) -> list[list[Label]]:
        """For each picture all labels, the most probable first.

        Args:
            images: As for `encode_image`.
            labels: Texts to choose among.
            template: What the model reads for a label; `{}` stands for it, as in "a photo of {}".

        Raises:
            InputError: A picture or label cannot be used, or the template has no `{}`.
        """
        if "{}" not in template:
            raise InputError(f"The template {template!r} has no place for a label.", "Write {} where it belongs.")
        _require_several(labels, "label")
        if not all(isinstance(label, str) for label in labels):
            raise InputError("A label is no string.", "Pass a list of str.")
        texts = self.encode_text([template.replace("{}", label) for label in labels])
        table = self.probabilities(self.encode_image(images), texts)
        return [[Label(labels[i], float(row[i])) for i in np.argsort(-row, kind="stable")] for row in table]

    def _encode(
        self,
        items: Sequence[Any],
        prepare: Callable[[Sequence[Any]], NDArray[Any]],
        role: Role,
        batch_size: int,
        normalize: bool,
    ) -> FloatArray:
        _require_several(items, "picture or text")
        if batch_size < 1:
            raise InputError(f"A batch cannot hold {batch_size} items.", "Use a batch size of at least 1.")
        batches = (items[start : start + batch_size] for start in range(0, len(items), batch_size))
        embeddings = np.concatenate([self.encode(role, prepare(batch)) for batch in batches])
        return normalized(embeddings) if normalize and not self.contract.embedding.normalized else embeddings

    def session(self, role: Role) -> GraphSession:
        """The loaded graph of a role; loads it when it is first asked for."""
        with self._lock:
            if role not in self._sessions:
                session = GraphSession(self.artifact, role, self.precision, self.options)
                outputs = {spec.name for spec in session.graph.outputs}
                if role is not Role.JOINT and self.contract.embedding.output not in outputs:
                    raise ArtifactError(
                        f"The {role} graph has no output {self.contract.embedding.output!r}.", "Export again."
                    )
                self._sessions[role] = session
            return self._sessions[role]


def normalized(embeddings: FloatArray) -> FloatArray:
    """Each row scaled to length 1."""
    return np.asarray(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True), np.float32)


def _require_several(items: object, what: str) -> None:
    """Refuse one item where a sequence is due; most single items are sequences of something else."""
    one_array = isinstance(items, np.ndarray) and items.ndim <= 3
    if one_array or isinstance(items, str | bytes) or not isinstance(items, Sized):
        raise InputError(f"A single {what}, or none ({type(items).__name__}).", f"Pass a list, even for one {what}.")
    if not len(items):
        raise InputError("Nothing to encode.", f"Pass at least one {what}.")


def _member(kind: type[_Choice], name: str) -> _Choice:
    try:
        return kind(name)
    except ValueError:
        known = ", ".join(kind)
        raise InputError(f"There is no {kind.__name__.lower()} {name!r}.", f"Use one of: {known}.") from None
