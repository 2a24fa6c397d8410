"""Texts and numbers that every form of a report shares: the page, Markdown, JUnit and the terminal."""

from __future__ import annotations

from typing import Final

from ...runtime.artifact.contract import ReferenceKind, Verdict
from .matrix import Cell, Matrix
from .report import Check, CheckGroup, DataRecord, Report, describe, headroom

NOTHING: Final = "–"


def measured(check: Check) -> str:
    """Measured value of a check, to 7 digits."""
    return NOTHING if check.measured is None else f"{check.measured:.7g}"


def limit(check: Check) -> str:
    """Limit of a check with its direction, such as "at least 0.98"."""
    return NOTHING if check.limit is None else f"{check.direction} {check.limit:.7g}"


def noise(check: Check) -> str:
    """Noise floor of a check."""
    return NOTHING if check.noise is None else f"{check.noise:.2g}"


def used_headroom(check: Check) -> float | None:
    """Fraction of the headroom that the measured value uses: above 1 if the check fails, None without headroom.

    With the limit L, the fraction is (1 - measured) / (1 - L) for "at least", and measured / L for "at most".
    """
    if check.measured is None or check.limit is None:
        return None
    room = headroom(check.limit, check.direction)
    return max(headroom(check.measured, check.direction), 0.0) / room if room > 0 else None


def duration(seconds: float) -> str:
    """Duration with three digits, in seconds or milliseconds."""
    if seconds >= 1:
        return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"
    return f"{seconds * 1e3:.3g} ms"


def size(count: int) -> str:
    """Bytes as megabytes (1e6) or gigabytes (1e9)."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def data(record: DataRecord) -> str:
    """Size and name of the data, such as "12 images and 20 texts of “pairs”"."""
    subset = f" (random subset: {record.sample})" if record.sample else ""
    return f"{record.images} images and {record.texts} texts of “{record.name}”{subset}"


def reference(report: Report) -> str:
    """Kind and name of the reference."""
    kind = "the PyTorch reference " if report.against is ReferenceKind.CHECKPOINT else ""
    return f"{kind}“{report.reference}”"


def unmeasured(report: Report) -> tuple[CheckGroup, ...]:
    """Expected check groups without a check; a report that has any cannot pass."""
    measured_groups = {check.group for check in report.checks}
    return tuple(group for group in report.expected if group not in measured_groups)


def first_problem(cell: Cell) -> str:
    """Reason why a cell did not pass, in a sentence or two; empty if it passed."""
    if cell.report is None:
        return cell.problem or "The cell produced no report."
    if problem := cell.report.first_problem():
        return f"{problem.group}: {problem.name}. {describe(problem)}".strip()
    missing = ", ".join(unmeasured(cell.report))
    return f"Not measured: {missing}." if missing else cell.problem


def state(cell: Cell) -> str:
    """Verdict of a cell, or "not run" for an optional cell without a report."""
    return "not run" if cell.report is None and not cell.required else str(cell.verdict)


def cell_counts(matrix: Matrix) -> str:
    """Number of cells by outcome, such as "3 of 4 required cells pass, 1 optional"."""
    required = [cell for cell in matrix.cells if cell.required]
    passed = sum(cell.verdict is Verdict.PASS for cell in required)
    optional = len(matrix.cells) - len(required)
    return f"{passed} of {len(required)} required cells pass" + (f", {optional} optional" if optional else "")
