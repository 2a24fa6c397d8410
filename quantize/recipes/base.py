"""Base class of the recipes: frozen options, which calibrate a tower and return how to derive the quantized one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from ...exporter.graph.load import load_graph
from ...runtime.arrays import AnyArray, FloatArray
from ...runtime.artifact.contract import Precision
from ...runtime.errors import InputError
from ..calibration.blockwise import stream
from ..sites import Exclusions, sites


@dataclass(frozen=True)
class CalibrationTower:
    """An fp32 tower and the rows to calibrate it with.

    Attributes:
        path: ONNX file of the tower.
        rows: Inputs, [samples, ...].
        report_share: Called with the share of the calibration that is done, from 0 to 1.
    """

    path: Path
    rows: AnyArray
    report_share: Callable[[float], None] = field(default=lambda share: None)

    def load(self) -> ir.Model:
        """Return a fresh copy of the graph, whose weights are read from disk when they are used."""
        return load_graph(self.path)

    def observe(self, taps: Iterable[str], reduce: Callable[[AnyArray], Any]) -> Iterable[dict[str, list[Any]]]:
        """Yield the tapped values of each block; see `stream`."""
        return stream(self.load(), self.rows, set(taps), reduce, self.report_share)


@dataclass(frozen=True)
class PreparedTower:
    """A calibrated tower.

    Attributes:
        derive: Returns a new quantized tower, with the given sites left at higher precision.
        notes: Decisions of the calibration, by name of a value or node; shown in the report.
        derive_cuda: Returns the tower with fused operators for CUDA; None if the recipe has no such graph.
    """

    derive: Callable[[Exclusions], ir.Model]
    notes: dict[str, str]
    derive_cuda: Callable[[Exclusions], ir.Model] | None = None


@dataclass(frozen=True)
class Recipe(ABC):
    """Options of a precision; each subclass makes one precision from the fp32 graphs.

    Attributes:
        exclude: Names of sites or modules to leave at higher precision, such as layers.0.mlp.fc2.
    """

    precision: ClassVar[Precision]

    exclude: tuple[str, ...] = ()

    @property
    def samples(self) -> int:
        """Number of calibration pairs that the recipe asks for; 0 if it needs no calibration."""
        return 0

    @property
    def needs_user_data(self) -> bool:
        """Whether the bundled photos are too unlike the user's data to calibrate with."""
        return False

    def candidates(self, graph: ir.Graph) -> dict[str, int]:
        """Names that may be excluded, with their numbers of weights."""
        return {name: site.size for name, site in sites(graph).items()}

    @abstractmethod
    def prepare(self, tower: CalibrationTower) -> PreparedTower:
        """Calibrate a tower."""


def activations(
    tower: CalibrationTower, names: Iterable[str], reduce: Callable[[AnyArray], AnyArray] = lambda array: array
) -> Iterator[tuple[str, FloatArray]]:
    """Yield values of the calibration run by name, float32 [samples, ...].

    Args:
        tower: The tower to run.
        names: Names of the values.
        reduce: Applied to the value of each sample, [1, ...], to save memory.
    """
    taps = set(names)
    for block in tower.observe(taps, reduce) if taps else ():
        for name, arrays in block.items():
            yield name, np.concatenate(arrays)


def require_at_least(name: str, value: float, minimum: float) -> None:
    """Raise InputError unless an option is a finite number of at least `minimum`."""
    if not minimum <= value < float("inf"):
        raise InputError(f"{name} must be a finite number of at least {minimum:g}, got {value}.", "Change that option.")
