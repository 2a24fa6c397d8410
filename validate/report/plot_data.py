"""Data of a report's plots and images: the per-row numbers behind the checks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import numpy as np

from ...runtime.arrays import AnyArray
from ...runtime.artifact.contract import Role

WORST: Final = 10  # number of images that a page shows


@dataclass(frozen=True)
class WorstImage:
    """Image with one of the largest logit differences.

    Attributes:
        name: Name of the image.
        thumbnail: WebP file of at most 128 by 128 pixels.
        candidate: The candidate's five best labels with their probabilities.
        reference: The reference's five best labels with their probabilities.
    """

    name: str
    thumbnail: bytes
    candidate: tuple[tuple[str, float], ...]
    reference: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class PlotData:
    """Measurements of one cell, for its plots and images.

    Attributes:
        candidate: Candidate logits, float32 [images, labels]; a random subset of the images if there are many.
        reference: Reference logits of the same images and labels, float32 [images, labels].
        cosines: Centered cosine of each row with the reference's row, [rows], by role.
        rows: Names of these rows, by role.
        worst: The `WORST` images with the largest logit differences, worst first.
    """

    candidate: AnyArray
    reference: AnyArray
    cosines: dict[Role, AnyArray]
    rows: dict[Role, tuple[str, ...]]
    worst: tuple[WorstImage, ...]

    def write(self, path: Path) -> None:
        """Write all data into one NPZ file, to pass it to another process."""
        arrays: dict[str, Any] = {"candidate": self.candidate, "reference": self.reference}
        arrays |= {f"cosines.{role}": values for role, values in self.cosines.items()}
        rest = msgspec.msgpack.encode({"rows": self.rows, "worst": self.worst})
        arrays["rest"] = np.frombuffer(rest, np.uint8)
        with path.open("wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a file of `write`.

        Raises:
            OSError: The file cannot be read.
            ValueError: The file was not written by `write`.
        """
        with np.load(path, allow_pickle=False) as stored:
            rest = msgspec.msgpack.decode(stored["rest"].tobytes(), type=_Rest)
            cosines = {role: stored[f"cosines.{role}"] for role in rest.rows}
            return cls(stored["candidate"], stored["reference"], cosines, rest.rows, rest.worst)


class _Rest(msgspec.Struct):
    rows: dict[Role, tuple[str, ...]]
    worst: tuple[WorstImage, ...]
