"""What a report is drawn from: the numbers of every row, which the checks sum up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from ...runtime.artifact.contract import Role

Array = NDArray[Any]
WORST: Final = 10


@dataclass(frozen=True)
class WorstImage:
    """An image whose logits moved most.

    Attributes:
        name: Of the image.
        thumbnail: A WebP file of at most 128 pixels a side.
        candidate: Our five best labels and their probabilities.
        reference: The reference's.
    """

    name: str
    thumbnail: bytes
    candidate: tuple[tuple[str, float], ...]
    reference: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class PlotData:
    """What one cell measured.

    Attributes:
        candidate: Our logits of images and labels, float32 [images, labels]; drawn at random where there are many.
        reference: The reference's, of the same places.
        cosines: Centered cosine of each row with the reference's, by role.
        rows: Name of each of these rows, by role.
        worst: The ten images whose logits moved most, the worst first.
    """

    candidate: Array
    reference: Array
    cosines: dict[Role, Array]
    rows: dict[Role, tuple[str, ...]]
    worst: tuple[WorstImage, ...]

    def write(self, path: Path) -> None:
        """Write everything into one file, for another process to read."""
        arrays: dict[str, Any] = {"candidate": self.candidate, "reference": self.reference}
        arrays |= {f"cosines.{role}": values for role, values in self.cosines.items()}
        rest = msgspec.msgpack.encode({"rows": self.rows, "worst": self.worst})
        arrays["rest"] = np.frombuffer(rest, np.uint8)
        with path.open("wb") as file:
            np.savez(file, **arrays)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read what `write` wrote; raises ValueError or OSError for anything else."""
        with np.load(path, allow_pickle=False) as stored:
            rest = msgspec.msgpack.decode(stored["rest"].tobytes(), type=_Rest)
            cosines = {role: stored[f"cosines.{role}"] for role in rest.rows}
            return cls(stored["candidate"], stored["reference"], cosines, rest.rows, rest.worst)


class _Rest(msgspec.Struct):
    rows: dict[Role, tuple[str, ...]]
    worst: tuple[WorstImage, ...]
