"""The parity report of a gate: all cells of precisions and providers, and their overall verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ...runtime.artifact.contract import Precision, Provider, Verdict
from ...runtime.files import as_json
from .report import DataRecord, Report, decode_versioned

MATRIX_VERSION: Final = 2


@dataclass(frozen=True)
class Cell:
    """One precision on one provider.

    Attributes:
        precision: Validated precision.
        provider: Provider that ran the graphs.
        verdict: Verdict of the report; FAIL if a required cell could not run, crashed or timed out.
        required: Whether the gate's verdict depends on this cell; false for an optional cell that could not run.
        report: Report of the cell; null if the cell produced none.
        problem: Reason for a missing report, in a sentence or two; empty otherwise.
        seconds: Duration of the cell, in seconds.
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
        """Name of the cell, such as "int8 on cpu"."""
        return f"{self.precision} on {self.provider}"


@dataclass(frozen=True)
class Matrix:
    """Parity report of a gate: all its cells and their overall verdict, written as parity.json.

    Attributes:
        created: Time of writing, ISO 8601 in UTC.
        seconds: Duration of the gate, in seconds.
        artifact: Name of the artifact.
        reference: Name of the reference checkpoint, or of the fp32 variant.
        data: Data of the validation.
        verdict: Overall verdict: the worst of the required cells.
        cells: All cells, in the order of precisions and providers.
        environment: Package versions and machine.
        schema_version: Version of this schema.
    """

    created: str
    seconds: float
    artifact: str
    reference: str
    data: DataRecord
    verdict: Verdict
    cells: tuple[Cell, ...]
    environment: dict[str, str]
    schema_version: Literal[2] = MATRIX_VERSION

    def to_json(self) -> bytes:
        """Serialize as indented JSON."""
        return as_json(self)

    @staticmethod
    def from_json(data: bytes) -> Matrix:
        """Parse the JSON of `to_json`.

        Raises:
            msgspec.DecodeError: The JSON is invalid, or of another schema version, which the message names.
        """
        return decode_versioned(data, Matrix, MATRIX_VERSION)


def matrix_verdict(cells: Sequence[Cell]) -> Verdict:
    """WorstImage verdict of the required cells; INCONCLUSIVE if no cell is required."""
    order = (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS)
    return min((cell.verdict for cell in cells if cell.required), key=order.index, default=Verdict.INCONCLUSIVE)
