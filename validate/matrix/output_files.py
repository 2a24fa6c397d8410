"""The files that a validation writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...runtime.artifact.artifact import Artifact
from ...runtime.errors import ArtifactError
from ..report.html import matrix_page
from ..report.junit import to_junit
from ..report.markdown import to_markdown
from ..report.matrix import Cell, Matrix
from ..report.report import CheckGroup, Report, failed
from ..store_verdict import ValidationResult, contract_hash, store_verdict
from .runner import MatrixResult


def report_files(result: MatrixResult) -> dict[str, bytes]:
    """Every form of the report, by file name: parity.json, .xml (JUnit), .md and .html."""
    return {
        "parity.json": result.matrix.to_json(),
        "parity.xml": to_junit(result.matrix),
        "parity.md": to_markdown(result.matrix).encode(),
        "parity.html": matrix_page(result.matrix, result.plot_data).encode(),
    }


def store_cells(folder: Path, result: MatrixResult) -> Artifact:
    """Store the verdict of every cell in an artifact, each with its own report.

    Raises:
        ArtifactError: The artifact cannot be written, or was changed during validation.
    """
    artifact = Artifact.open(folder)
    validated = {cell.report.contract_sha256 for cell in result.matrix.cells if cell.report is not None}
    if validated - {contract_hash(artifact.contract)}:
        raise ArtifactError(f"The artifact {folder} changed during validation.", "Run validate again.")
    for cell in result.matrix.cells:
        report = cell.report or _unfinished(result.matrix, cell, artifact)
        if report is not None:
            artifact = store_verdict(artifact, ValidationResult(report, result.plot_data.get(cell.name)))
    return artifact


def _unfinished(matrix: Matrix, cell: Cell, artifact: Artifact) -> Report | None:
    """A report of a cell that did not finish, so that no earlier PASS outlives it; None without the variant."""
    if not cell.required or artifact.contract.variant(cell.precision, cell.provider) is None:
        return None
    return Report(
        created=matrix.created,
        seconds=cell.seconds,
        artifact=artifact.contract.name,
        contract_sha256=contract_hash(artifact.contract),
        precision=cell.precision,
        provider=cell.provider,
        reference=matrix.reference,
        reference_sha256="",
        data=matrix.data,
        environment=matrix.environment,
        verdict=cell.verdict,
        checks=(replace(failed(CheckGroup.CONTRACT, "can be validated", cell.problem), verdict=cell.verdict),),
    )
