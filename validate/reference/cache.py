"""Cache of reference outputs, keyed by input hash.

All variants of a model are compared with the same reference outputs, and a full-size reference takes gigabytes and
minutes. Each output is stored under the hash of the row that it belongs to, so other pixels or ids never find it. A
cache file belongs to one reference (weights, configuration, versions) and one data set.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec
import numpy as np

from ...runtime.arrays import AnyArray, Float64Array, FloatArray, IntArray
from ...runtime.artifact.contract import Role
from ...runtime.errors import InputError
from ...runtime.files import write_file
from ..data.images import ImageSource
from ..stats import metrics
from .fp32_variant import Fp32Reference

_BATCH: Final = 8  # rows that the reference computes at once
_DIGEST: Final = 32  # bytes of SHA-256


class Oracle(Protocol):
    """A source of reference outputs: `PyTorchReference` or `Fp32Reference`.

    Attributes:
        sha256: Hash of its weights, or of the report by which the fp32 variant passed.
        identity: Hash over everything that its outputs depend on besides the inputs.
        logit_scale: Factor on the cosine.
        logit_bias: Term added to the scaled cosine.
    """

    @property
    def sha256(self) -> str:
        """See the class."""

    @property
    def identity(self) -> str:
        """See the class."""

    @property
    def logit_scale(self) -> float:
        """See the class."""

    @property
    def logit_bias(self) -> float:
        """See the class."""

    def ids(self, texts: Sequence[str]) -> IntArray:
        """input_ids of texts, int64 [texts, length]."""

    def pixels(self, images: Sequence[ImageSource]) -> AnyArray:
        """Pixels of images, float32 [images, 3, height, width], or patch records."""

    def embeddings(self, role: Role, rows: AnyArray) -> FloatArray:
        """pooler_output of a tower, float32 [rows, size]."""

    def outputs(self, role: Role, name: str, rows: AnyArray) -> FloatArray:
        """Another output of a tower, float32 [rows, ...]."""

    def check(self, pixels: AnyArray, ids: IntArray) -> None:
        """Raise CheckpointError if it contradicts itself on a few images and texts."""

    def release(self) -> None:
        """Free the weights; the next use loads them again."""


class _Header(msgspec.Struct):
    identity: str
    data: str
    scale: float
    bias: float


class ReferenceCache:
    """Outputs of an oracle, each computed once.

    Attributes:
        oracle: The reference.
        complete: Whether a complete file was read, or `save` was called.

    Args:
        oracle: The reference.
        data: Hash of the data set.
        folder: Folder of the cache files; None keeps the outputs in memory only.

    Raises:
        InputError: The cache file is damaged, or belongs to another reference or other data.
    """

    def __init__(self, oracle: Oracle, data: str, folder: Path | None = None) -> None:
        self.oracle, self.complete, self._data = oracle, False, data
        self._outputs: dict[str, dict[bytes, Any]] = {}
        self._pixel_digests: dict[bytes, bytes] = {}
        self._scale_and_bias: tuple[float, float] | None = None
        self._path = None if folder is None else folder / f"{oracle.identity[:20]}-{data[:20]}.npz"
        if self._path is not None and self._path.exists():
            self._read(self._path)

    @property
    def fp32(self) -> Fp32Reference | None:
        """The oracle if it is the fp32 variant."""
        return self.oracle if isinstance(self.oracle, Fp32Reference) else None

    def ids(self, texts: Sequence[str]) -> IntArray:
        """input_ids of texts, int64 [texts, length]."""
        return self.oracle.ids(texts)

    def pixels(self, images: Sequence[ImageSource]) -> AnyArray:
        """Pixels of images, float32 [images, 3, height, width], or patch records.

        Raises:
            InputError: An image cannot be read.
        """
        return self.oracle.pixels(images)

    def remember_pixels(self, image: str, pixels: AnyArray) -> None:
        """Remember the hash of the reference's pixels of an image by its name in the data."""
        self._pixel_digests.setdefault(_name_digest(image), _pixel_digest(pixels))

    def equals_pixels(self, image: str, pixels: AnyArray) -> bool:
        """Whether pixels are, bit for bit, the remembered ones of an image; False if none are remembered."""
        digest = self._pixel_digests.get(_name_digest(image))
        return digest is not None and digest == _pixel_digest(pixels)

    def embeddings(self, role: Role, rows: AnyArray) -> FloatArray:
        """pooler_output of a tower, float32 [rows, size]."""
        return self._cached(f"{role}.embeddings", rows, lambda batch: self.oracle.embeddings(role, batch))

    def outputs(self, role: Role, name: str, rows: AnyArray) -> FloatArray:
        """Another output of a tower, float32 [rows, ...]."""
        return self._cached(f"{role}.{name}", rows, lambda batch: self.oracle.outputs(role, name, batch))

    def logits(self, images: AnyArray, texts: AnyArray) -> Float64Array:
        """Logits of pooler_outputs, float64 [images, texts]."""
        return metrics.logits(images, texts, *self._logit_parameters())

    def _logit_parameters(self) -> tuple[float, float]:
        if self._scale_and_bias is None:
            self._scale_and_bias = self.oracle.logit_scale, self.oracle.logit_bias
        return self._scale_and_bias

    def save(self) -> None:
        """Mark the cache complete, write it to its file, and free the reference's weights.

        Raises:
            InputError: The folder cannot be written.
        """
        header = _Header(self.oracle.identity, self._data, *self._logit_parameters())
        if self._path is not None and not self.complete:
            arrays: dict[str, Any] = {"meta": np.frombuffer(msgspec.json.encode(header), np.uint8)}
            arrays["images"] = np.frombuffer(b"".join(self._pixel_digests), np.uint8)
            arrays["pixels"] = np.frombuffer(b"".join(self._pixel_digests.values()), np.uint8)
            for name, rows in self._outputs.items():
                arrays[f"keys.{name}"] = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1)
                arrays[f"rows.{name}"] = np.stack(list(rows.values()))
            _write(self._path, arrays)
        self.complete = True
        self.oracle.release()

    def _cached(self, name: str, rows: AnyArray, compute: Callable[[AnyArray], FloatArray]) -> FloatArray:
        cached, keys = self._outputs.setdefault(name, {}), [hashlib.sha256(row.tobytes()).digest() for row in rows]
        missing = list({key: i for i, key in enumerate(keys) if key not in cached}.values())
        for start in range(0, len(missing), _BATCH):
            batch = missing[start : start + _BATCH]
            cached.update(zip([keys[i] for i in batch], compute(rows[batch]), strict=True))
        return np.stack([cached[key] for key in keys])

    def _read(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as stored:
                header = msgspec.json.decode(stored["meta"].tobytes(), type=_Header)
                images, pixels = (_digests(stored[name]) for name in ("images", "pixels"))
                self._pixel_digests = dict(zip(images, pixels, strict=True))
                for name in (key.removeprefix("keys.") for key in stored if key.startswith("keys.")):
                    keys = [row.tobytes() for row in stored[f"keys.{name}"]]
                    self._outputs[name] = dict(zip(keys, stored[f"rows.{name}"], strict=True))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, msgspec.DecodeError) as error:
            raise InputError(f"The reference cache {path} is damaged ({error}).", "Delete the file.") from error
        if (header.identity, header.data) != (self.oracle.identity, self._data):
            raise InputError(
                f"The reference cache {path} belongs to another reference or other data.", "Delete the file."
            )
        # `save` writes complete caches only.
        self._scale_and_bias, self.complete = (header.scale, header.bias), True


def _digests(rows: AnyArray) -> list[bytes]:
    return [row.tobytes() for row in rows.reshape(-1, _DIGEST)]


def _name_digest(image: str) -> bytes:
    return hashlib.sha256(image.encode("utf-8", "surrogatepass")).digest()


def _pixel_digest(pixels: AnyArray) -> bytes:
    form = f"{pixels.dtype.descr} {pixels.shape} "
    return hashlib.sha256(form.encode() + pixels.tobytes()).digest()


def _write(path: Path, arrays: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, buffer.getvalue())
    except OSError as error:
        raise InputError(
            f"The reference cache cannot be written into {path.parent} ({error.strerror}).",
            "Name another folder with SIGLIP_ONNX_CACHE.",
        ) from error
