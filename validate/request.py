"""The request of a validation: the candidate, the reference, the data, and the limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..runtime.artifact.contract import Precision, Provider
from ..runtime.engines.options import SessionOptions
from ..runtime.errors import InconclusiveError, InputError
from .data.samples import DataOptions
from .limits.toml_file import LimitTable
from .report.report import CheckGroup, Report


@dataclass(frozen=True)
class ValidationRequest:
    """A validation of an artifact; the precision and provider come with each cell.

    Attributes:
        artifact: Folder of the candidate: an artifact, or the files of an external model.
        reference: Folder or hub id of the checkpoint that it was made from; None compares it with its fp32 variant.
        data: Images in one of the forms of docs/data.md; None takes the bundled photos.
        data_options: How to read the data.
        limits: The limits of each precision and provider.
        baseline: Accepted reports of the last release; the candidate may not be worse. Empty for none.
        dialect: Dialect of the checkpoint's weights; None detects it.
        tower_map: TOML file that says which file of an external model is which tower; None detects them.
        cache: Folder of the reference cache; None keeps reference outputs in memory only.
        options: How graphs are loaded; the cell replaces the provider.
        allow_unvalidated: Accept an fp32 variant without a PASS as the reference.
        exclude_groups: Check groups to leave out.
    """

    artifact: Path
    reference: str | None = None
    data: Path | None = None
    data_options: DataOptions = field(default_factory=DataOptions)
    limits: LimitTable = field(default_factory=LimitTable)
    baseline: tuple[Report, ...] = ()
    dialect: str | None = None
    tower_map: Path | None = None
    cache: Path | None = None
    options: SessionOptions = field(default_factory=SessionOptions)
    allow_unvalidated: bool = False
    exclude_groups: frozenset[CheckGroup] = frozenset()

    def accepted_report(self, precision: Precision, provider: Provider) -> Report | None:
        """The accepted report of a cell; None without a baseline.

        Raises:
            InconclusiveError: The baseline has no such cell.
            InputError: The limits have a latency, and there is no baseline.
        """
        for report in self.baseline:
            if (report.precision, report.provider) == (precision, provider):
                return report
        if self.baseline:
            raise InconclusiveError(
                f"The baseline has no {precision} on {provider}.",
                "Leave out this cell, or accept a release that has it first.",
            )
        if self.limits.limits_for(precision, provider).latency is not None:
            raise InputError("The limit latency needs a baseline to compare with.", "Name one with --baseline.")
        return None


@dataclass(frozen=True)
class KnownHashes:
    """Hashes that another process of the same matrix has computed.

    Attributes:
        data: `Samples.sha256` of the data.
        reference: `sha256` of the reference.
    """

    data: str
    reference: str
