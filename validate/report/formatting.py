"""The words and numbers of a report, the same on the page, in the summary and in JUnit's XML."""

from __future__ import annotations

from typing import Final

from ...runtime.artifact.contract import ReferenceKind, Verdict
from .matrix import Cell, Matrix
from .report import Check, CheckGroup, DataRecord, Report, describe

NOTHING: Final = "–"


def measured(check: Check) -> str:
    """The limit that a check would need to pass: what was measured."""
    return NOTHING if check.measured is None else f"{check.measured:.7g}"


def limit(check: Check) -> str:
    """The limit that it has, with its sense."""
    return NOTHING if check.limit is None else f"{check.direction} {check.limit:.7g}"


def noise(check: Check) -> str:
    """How far the number moves by itself."""
    return NOTHING if check.noise is None else f"{check.noise:.2g}"


def used(check: Check) -> float | None:
    """Which part of what is allowed is taken up, from 0 on and over 1 where it fails; None where nothing may be.

    A check from below is of something that is 1 at best, so what is allowed is the way from 1 to its limit.
    """
    if check.measured is None or check.limit is None:
        return None
    below = check.direction == "at least"
    taken, room = (1 - check.measured, 1 - check.limit) if below else (check.measured, check.limit)
    return max(taken, 0.0) / room if room > 0 else None


def duration(seconds: float) -> str:
    """Seconds in three digits and a unit that suits them."""
    if seconds >= 1:
        return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"
    return f"{seconds * 1e3:.3g} ms"


def size(count: int) -> str:
    """Bytes as megabytes (1e6) or gigabytes."""
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def data(record: DataRecord) -> str:
    """What was looked at."""
    drawn = f", drawn: {record.sample}" if record.sample else ""
    return f"{record.images} images and {record.texts} texts of “{record.name}”{drawn}"


def reference(report: Report) -> str:
    """What a cell was compared with."""
    whose = "the PyTorch reference " if report.against is ReferenceKind.CHECKPOINT else ""
    return f"{whose}“{report.reference}”"


def unmeasured(report: Report) -> tuple[CheckGroup, ...]:
    """Check groups that are due and have no check, for which a report cannot pass."""
    climbed = {check.group for check in report.checks}
    return tuple(group for group in report.expected if group not in climbed)


def first_problem(cell: Cell) -> str:
    """Why a cell is no PASS, in a sentence or two; empty where it is."""
    if cell.report is None:
        return cell.problem or "It came to no report."
    if found := cell.report.first_problem():
        return f"{found.group}: {found.name}. {describe(found)}".strip()
    missing = ", ".join(unmeasured(cell.report))
    return f"Not measured: {missing}." if missing else cell.problem


def state(cell: Cell) -> str:
    """A cell's verdict, or that it could not run where it need not."""
    return "not run" if cell.report is None and not cell.required else str(cell.verdict)


def ran(matrix: Matrix) -> str:
    """How many cells there are and how they ended."""
    due = [cell for cell in matrix.cells if cell.required]
    passed = sum(cell.verdict is Verdict.PASS for cell in due)
    optional = len(matrix.cells) - len(due)
    return f"{passed} of {len(due)} required cells pass" + (f", {optional} optional" if optional else "")
