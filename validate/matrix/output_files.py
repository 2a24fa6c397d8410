"""The files that a gate writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ...runtime.artifact.artifact import Artifact
from ...runtime.errors import ArtifactError
from ..report.html import cell_page, matrix_page
from ..report.junit import to_junit
from ..report.markdown import to_markdown
from ..report.matrix import Cell, Matrix
from ..report.report import CheckGroup, Report, failed
from ..validate_variant import contract_hash, store
from .runner import MatrixResult


def matrix_files(outcome: MatrixResult) -> dict[str, bytes]:
    """Every form of the report, by file name."""
    matrix, evidence = outcome
    return {
        "parity.json": matrix.to_json(),
        "parity.xml": to_junit(matrix),
        "parity.md": to_markdown(matrix).encode(),
        "parity.html": matrix_page(matrix, evidence).encode(),
    }


def store_cells(folder: Path, outcome: MatrixResult) -> None:
    """Note the verdict of every cell in an artifact, with a report of its own.

    Raises:
        ArtifactError: The artifact cannot be written, or is no longer what was judged.
    """
    artifact = Artifact.open(folder)
    judged = {cell.report.contract_sha256 for cell in outcome.matrix.cells if cell.report is not None}
    if judged - {contract_hash(artifact.contract)}:
        raise ArtifactError(f"The artifact {folder} was changed while it was judged.", "Judge it again, as it is now.")
    for cell in outcome.matrix.cells:
        report = cell.report or _unfinished(outcome.matrix, cell, artifact)
        if report is not None:
            artifact = store(artifact, report, cell_page(report, outcome.evidence.get(cell.name)))


def _unfinished(matrix: Matrix, cell: Cell, artifact: Artifact) -> Report | None:
    """A report of a cell that came to none, so that an earlier PASS does not outlive it; None without that variant."""
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
        checks=(replace(failed(CheckGroup.CONTRACT, "can be judged", cell.problem), verdict=cell.verdict),),
    )
