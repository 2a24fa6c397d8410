"""The files that a gate writes."""

from __future__ import annotations

from pathlib import Path

from ..runtime.artifact import Artifact
from .html import matrix_page, page
from .junit import to_junit
from .matrix import Outcome
from .run import store
from .summary import to_markdown


def matrix_files(outcome: Outcome) -> dict[str, bytes]:
    """Every form of the report, by file name."""
    matrix, evidence = outcome
    return {
        "parity.json": matrix.to_json(),
        "parity.xml": to_junit(matrix),
        "parity.md": to_markdown(matrix).encode(),
        "parity.html": matrix_page(matrix, evidence).encode(),
    }


def store_cells(folder: Path, outcome: Outcome) -> None:
    """Note the verdict of every cell in an artifact, with a report of its own.

    Raises:
        ArtifactError: The artifact cannot be written, or was changed in the meantime.
    """
    artifact = Artifact.open(folder)
    for cell in outcome.matrix.cells:
        if cell.report is not None:
            artifact = store(artifact, cell.report, page(cell.report, outcome.evidence.get(cell.name)))
