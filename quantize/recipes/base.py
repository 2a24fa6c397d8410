"""What every recipe is: frozen options that calibrate a tower and return how to derive it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from ...runtime.artifact.contract import Precision
from ...runtime.errors import InputError
from ..calibration.blockwise import stream
from ..sites import Array, Floats, sites

Keep = frozenset[str]
SearchStep = Callable[[float], None]


@dataclass(frozen=True)
class CalibrationTower:
    """A float32 tower and what to calibrate it with.

    Attributes:
        path: Its ONNX file.
        rows: Inputs, [samples, ...].
        step: Told the share of the calibration that is done.
    """

    path: Path
    rows: Array
    step: SearchStep = field(default=lambda share: None)

    def load(self) -> ir.Model:
        """A fresh copy of the graph, whose weights are read when they are used."""
        return ir.load(self.path)

    def observe(self, taps: Iterable[str], reduce: Callable[[Array], Any]) -> Iterable[dict[str, list[Any]]]:
        """What flows through the tapped values, block by block; see `stream`."""
        return stream(self.load(), self.rows, set(taps), reduce, self.step)


@dataclass(frozen=True)
class PreparedTower:
    """A calibrated tower.

    Attributes:
        derive: Makes the tower anew, with the named sites left at higher precision.
        notes: What calibration decided, by name; for the report.
        fused: The same for CUDA, where the recipe has such a graph.
    """

    derive: Callable[[Keep], ir.Model]
    notes: dict[str, str]
    fused: Callable[[Keep], ir.Model] | None = None


@dataclass(frozen=True)
class Recipe(ABC):
    """Options of a precision.

    Attributes:
        keep: Sites or modules left at higher precision, by name.
    """

    precision: ClassVar[Precision]

    keep: tuple[str, ...] = ()

    @property
    def samples(self) -> int:
        """How many pairs calibration likes to have; 0 where there is nothing to calibrate."""
        return 0

    @property
    def fitted(self) -> bool:
        """Whether it is fitted so closely to the calibration data that only the user's own will do."""
        return False

    def candidates(self, graph: ir.Graph) -> dict[str, int]:
        """What may be left at higher precision, with its number of weights."""
        return {name: site.size for name, site in sites(graph).items()}

    @abstractmethod
    def prepare(self, tower: CalibrationTower) -> PreparedTower:
        """Calibrate a tower."""


def module(node: ir.Node) -> str:
    """The module that a node belongs to, such as layers.0.mlp.fc1."""
    return str(node.name).rpartition("/")[0]


def seen(
    tower: CalibrationTower, names: Iterable[str], reduce: Callable[[Array], Array] = lambda array: array
) -> Iterator[tuple[str, Floats]]:
    """Values by name, float32 [samples, ...], as calibration finds them, or what is left of them."""
    wanted = set(names)
    for block in tower.observe(wanted, reduce) if wanted else ():
        for name, arrays in block.items():
            yield name, np.concatenate(arrays)


def sensible(name: str, value: float, least: float) -> None:
    """Raises InputError unless the option is a finite number from `least`."""
    if not least <= value < float("inf"):
        raise InputError(f"A {name} of {value} is none.", f"Use a number from {least:g}.")
