"""The report of a gate: every cell of precisions and providers, and one verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import msgspec

from ...runtime.artifact.contract import Precision, Provider, Verdict
from ...runtime.files import as_json
from .report import DataRecord, Report

MATRIX_VERSION: Final = 1


@dataclass(frozen=True)
class Cell:
    """One precision on one provider.

    Attributes:
        verdict: FAIL also where the cell could not run though it is required, crashed or took too long.
        required: Whether the gate's verdict stands on it; an optional cell that could not run is not.
        report: What was measured; None where the cell never came to a report.
        problem: Why it did not, in a sentence or two.
        seconds: How long it took.
    """

    precision: Precision
    provider: Provider
    verdict: Verdict
    required: bool = True
    report: Report | None = None
    problem: str = ""
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """As people write it."""
        return f"{self.precision} on {self.provider}"


@dataclass(frozen=True)
class Matrix:
    """Every cell of a gate, and the verdict that they make together; this is the JSON of `validate --output`."""

    created: str
    seconds: float
    artifact: str
    reference: str
    data: DataRecord
    verdict: Verdict
    cells: tuple[Cell, ...]
    environment: dict[str, str]
    schema_version: Literal[1] = MATRIX_VERSION

    def to_json(self) -> bytes:
        """The report as indented JSON."""
        return as_json(self)

    @staticmethod
    def from_json(data: bytes) -> Matrix:
        """Read what `to_json` wrote; raises msgspec.DecodeError for anything else."""
        return msgspec.json.decode(data, type=Matrix)


def matrix_verdict(cells: Sequence[Cell]) -> Verdict:
    """The worst verdict of the cells that are required; INCONCLUSIVE where none is."""
    order = (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS)
    return min((cell.verdict for cell in cells if cell.required), key=order.index, default=Verdict.INCONCLUSIVE)
