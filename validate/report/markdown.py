"""GitHub Markdown of a gate, for the summary of a CI job."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from ...runtime.artifact.contract import Verdict
from . import formatting
from .matrix import Cell, Matrix
from .report import Check

_SIGNS: Final = {"PASS": "✅", "FAIL": "❌", "INCONCLUSIVE": "⚠️", "not run": "➖"}
_MAX_PROBLEMS: Final = 5  # per cell, above the folded table of all its checks
_COLUMNS: Final = ("verdict", "check group", "check", "measured", "limit", "noise", "detail")
_INVISIBLE: Final = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_SPECIAL: Final = re.compile(r"([\\`*_{}\[\]|~#!$])")


def to_markdown(matrix: Matrix) -> str:
    """Verdict, its limitations, a table of all cells, and the problems with measured values beside their limits.

    Markdown and HTML in names and details are escaped.
    """
    return "\n".join(_lines(matrix)) + "\n"


def _lines(matrix: Matrix) -> Iterator[str]:
    yield f"# {_SIGNS[matrix.verdict]} {matrix.verdict}: {_plain(matrix.artifact)}"
    yield ""
    data = _plain(formatting.data(matrix.data))
    yield f"{formatting.cell_counts(matrix)}. Validated on {data}, compared with “{_plain(matrix.reference)}”."
    yield ""
    if matrix.data.scope:
        yield f"> **Limitation:** {_plain(matrix.data.scope)}."
        yield ""
    yield from _overview(matrix)
    for cell in sorted(matrix.cells, key=lambda cell: cell.verdict is Verdict.PASS):
        yield from _cell(cell)


def _overview(matrix: Matrix) -> Iterator[str]:
    """Table of verdicts: a row per precision, a column per provider."""
    providers = tuple(dict.fromkeys(cell.provider for cell in matrix.cells))
    cells = {(cell.precision, cell.provider): cell for cell in matrix.cells}
    rows = (
        (precision, *(_verdict(cells.get((precision, provider))) for provider in providers))
        for precision in dict.fromkeys(cell.precision for cell in matrix.cells)
    )
    yield from _table(("", *providers), rows)


def _verdict(cell: Cell | None) -> str:
    if cell is None:
        return ""
    state = formatting.state(cell)
    return f"{_SIGNS[state]} {state}" + ("" if cell.required else " (optional)")


def _cell(cell: Cell) -> Iterator[str]:
    """All checks of a cell, folded; if the cell did not pass, its problems come first, unfolded."""
    if cell.verdict is not Verdict.PASS:
        yield f"## {_verdict(cell)}: {cell.name}"
        yield ""
        yield _plain(formatting.first_problem(cell))
        yield ""
        problems = cell.report.problems() if cell.report else ()
        if problems:
            yield from _checks(problems[:_MAX_PROBLEMS])
        if len(problems) > _MAX_PROBLEMS:
            yield f"And {len(problems) - _MAX_PROBLEMS} more."
            yield ""
    if cell.report is not None:
        yield from _folded(f"{_verdict(cell)} {cell.name}: {len(cell.report.checks)} checks", cell.report.checks)


def _folded(title: str, checks: Sequence[Check]) -> Iterator[str]:
    yield f"<details><summary>{html.escape(title)}</summary>"
    yield ""  # ends the HTML block, so that the table is parsed as Markdown
    yield from _checks(checks)
    yield "</details>"
    yield ""


def _checks(checks: Iterable[Check]) -> Iterator[str]:
    yield from _table(_COLUMNS, map(_row, checks))


def _row(check: Check) -> tuple[str, ...]:
    numbers = formatting.measured(check), formatting.limit(check), formatting.noise(check)
    verdict = f"{_SIGNS[check.verdict]} {check.verdict}"
    return (verdict, check.group, _plain(check.name), *numbers, _plain(check.detail))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for row in (head, ["---"] * len(head), *rows):
        yield f"| {' | '.join(row)} |"
    yield ""


def _plain(text: str) -> str:
    """Escape a text for Markdown and HTML, on one line; control characters become Python escapes."""
    one = _INVISIBLE.sub(lambda match: ascii(match[0])[1:-1], " ".join(text.split()))
    return _SPECIAL.sub(r"\\\1", html.escape(one, quote=False))
