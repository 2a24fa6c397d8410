"""Store a verdict in the artifact that it is about."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from ..runtime.artifact.artifact import REPORTS, Artifact
from ..runtime.artifact.contract import Contract, Parity, encode
from .report.plot_data import PlotData
from .report.report import Report

if TYPE_CHECKING:
    from .report.html import VariantRecord


class ValidationResult(NamedTuple):
    """A verdict, and the data of its plots.

    Attributes:
        report: The verdict and everything that it depends on.
        plot_data: Data of the page's plots; None if the candidate could not be run that far.
        notes: Assumptions about an external model, a sentence each.
    """

    report: Report
    plot_data: PlotData | None = None
    notes: tuple[str, ...] = ()

    def html(self, provenance: VariantRecord | None = None) -> str:
        """The report as a self-contained page.

        Args:
            provenance: How the variant was made, to show it on the page.
        """
        from .report.html import cell_page

        return cell_page(self.report, self.plot_data, provenance)


def store_verdict(artifact: Artifact, result: ValidationResult, provenance: VariantRecord | None = None) -> Artifact:
    """Write a report into an artifact, as JSON and as a page, and its verdict into the contract.

    Args:
        artifact: The artifact that was validated.
        result: The verdict.
        provenance: How the variant was made, to show it on the page.

    Returns:
        The artifact with the verdict.

    Raises:
        ArtifactError: The artifact cannot be written, or was changed after it was opened.
    """
    report, name = result.report, report_path(result.report)
    data = report.to_json()
    parity = Parity(report.verdict, report.provider, name, hashlib.sha256(data).hexdigest(), report.against)
    files = {name: data, name.removesuffix(".json") + ".html": result.html(provenance).encode()}
    return artifact.with_report(report.precision, parity, files)


def report_path(report: Report) -> str:
    """Path of a stored report, relative to the artifact's folder."""
    return f"{REPORTS}/parity-{report.precision}-{report.provider}.json"


def contract_hash(contract: Contract) -> str:
    """Hash of a contract without its verdicts."""
    return hashlib.sha256(encode(contract.without_verdicts())).hexdigest()
