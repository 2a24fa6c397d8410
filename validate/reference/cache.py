"""What is right, asked once: the answers of a reference, kept by what it was asked.

Ten variants of a model are compared with the same answers, and a full-size reference takes gigabytes and minutes. Each
answer is kept under the hash of the row that it answers, so that other pixels or ids than those it was given for can
never find it; a file of answers belongs to one reference (weights, configuration and versions) and one set of data.
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
from numpy.typing import NDArray

from ...runtime.artifact.contract import Role
from ...runtime.errors import InputError
from ...runtime.files import write_file
from ..data.images import ImageSource
from ..stats import metrics
from .pytorch import Floats

_ROWS: Final = 8  # that a reference is given at once


class Oracle(Protocol):
    """Whoever knows what is right: `Reference` or `Baseline`.

    Attributes:
        sha256: Hash of its weights, or of the report that it passed by.
        identity: Hash over all that its answers depend on.
        logit_scale: Factor on the cosine.
        logit_bias: Added to the scaled cosine.
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

    def ids(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """int64 [texts, length]."""

    def pixels(self, images: Sequence[ImageSource]) -> NDArray[Any]:
        """float32 [images, 3, height, width], or records of patches."""

    def embeddings(self, role: Role, rows: NDArray[Any]) -> Floats:
        """pooler_output of a tower, [rows, size]."""

    def outputs(self, role: Role, name: str, rows: NDArray[Any]) -> Floats:
        """Another output of a tower, a row for each row."""

    def check(self, pixels: NDArray[Any], ids: NDArray[np.int64]) -> None:
        """Raise CheckpointError if it contradicts itself on a few images and texts."""

    def release(self) -> None:
        """Let go of the weights until they are needed again."""


class _Meta(msgspec.Struct):
    identity: str
    data: str
    scale: float
    bias: float


class ReferenceCache:
    """An oracle that is asked everything once.

    Args:
        oracle: Whom to ask.
        data: Hash of the data that it is asked about.
        folder: Where answers are kept for the next run; None keeps them in memory alone.

    Raises:
        InputError: The file of answers is damaged, or those of another reference.
    """

    def __init__(self, oracle: Oracle, data: str, folder: Path | None = None) -> None:
        self.oracle, self.complete, self._data = oracle, False, data
        self._known: dict[str, dict[bytes, Any]] = {}
        self._numbers: tuple[float, float] | None = None
        self._path = None if folder is None else folder / f"{oracle.identity[:20]}-{data[:20]}.npz"
        if self._path is not None and self._path.exists():
            self._read(self._path)

    @property
    def _scale_and_bias(self) -> tuple[float, float]:
        if self._numbers is None:
            self._numbers = self.oracle.logit_scale, self.oracle.logit_bias
        return self._numbers

    def ids(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """int64 [texts, length]."""
        return self.oracle.ids(texts)

    def pixels(self, images: Sequence[ImageSource]) -> NDArray[Any]:
        """float32 [images, 3, height, width], or records of patches; raises InputError for one not to be read."""
        return self.oracle.pixels(images)

    def embeddings(self, role: Role, rows: NDArray[Any]) -> Floats:
        """pooler_output of a tower, [rows, size]."""
        return self._ask(f"{role}.embeddings", rows, lambda some: self.oracle.embeddings(role, some))

    def outputs(self, role: Role, name: str, rows: NDArray[Any]) -> Floats:
        """Another output of a tower, a row for each row."""
        return self._ask(f"{role}.{name}", rows, lambda some: self.oracle.outputs(role, name, some))

    def logits(self, images: NDArray[Any], texts: NDArray[Any]) -> NDArray[np.float64]:
        """Logits [images, texts] of pooler_outputs, in float64."""
        return metrics.logits(images, texts, *self._scale_and_bias)

    def save(self) -> None:
        """Note that all was asked; keep the answers for the next run, and let go of the weights.

        Raises:
            InputError: The folder cannot be written.
        """
        meta = _Meta(self.oracle.identity, self._data, *self._scale_and_bias)
        if self._path is not None and not self.complete:
            arrays = {"meta": np.frombuffer(msgspec.json.encode(meta), np.uint8)}
            for name, rows in self._known.items():
                arrays[f"keys.{name}"] = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), -1)
                arrays[f"rows.{name}"] = np.stack(list(rows.values()))
            _write(self._path, arrays)
        self.complete = True
        self.oracle.release()

    def _ask(self, name: str, rows: NDArray[Any], ask: Callable[[NDArray[Any]], Floats]) -> Floats:
        known, keys = self._known.setdefault(name, {}), [hashlib.sha256(row.tobytes()).digest() for row in rows]
        missing = list({key: i for i, key in enumerate(keys) if key not in known}.values())
        for start in range(0, len(missing), _ROWS):
            some = missing[start : start + _ROWS]
            known.update(zip([keys[i] for i in some], ask(rows[some]), strict=True))
        return np.stack([known[key] for key in keys])

    def _read(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as stored:
                meta = msgspec.json.decode(stored["meta"].tobytes(), type=_Meta)
                for name in (key.removeprefix("keys.") for key in stored if key.startswith("keys.")):
                    keys = [row.tobytes() for row in stored[f"keys.{name}"]]
                    self._known[name] = dict(zip(keys, stored[f"rows.{name}"], strict=True))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, msgspec.DecodeError) as error:
            raise InputError(f"The answers in {path} are damaged ({error}).", "Delete the file.") from error
        if (meta.identity, meta.data) != (self.oracle.identity, self._data):
            raise InputError(f"The answers in {path} are those of another reference or other data.", "Delete the file.")
        self._numbers, self.complete = (meta.scale, meta.bias), True  # only what is complete is kept


def _write(path: Path, arrays: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, buffer.getvalue())
    except OSError as error:
        raise InputError(
            f"The reference's answers cannot be kept in {path.parent} ({error.strerror}).",
            "Name another folder with SIGLIP_ONNX_CACHE.",
        ) from error
