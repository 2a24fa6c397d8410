"""Print the result of `siglip-onnx validate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import rich.table
import rich.text

from .console import colored, stdout, table

if TYPE_CHECKING:
    from ..validate import Cell, Check, Matrix, MatrixResult


def print_result(result: MatrixResult, folder: Path) -> None:
    """Print the checks of a single cell, or the cells of a matrix, and the verdict.

    Args:
        result: The result.
        folder: Folder of the reports.
    """
    matrix, console = result.matrix, stdout()
    for note in result.notes:
        console.print(note, soft_wrap=True)
    single = matrix.cells[0].report if len(matrix.cells) == 1 else None
    console.print(_check_table(single.checks) if single else _cell_table(matrix.cells))
    console.print(colored(matrix.verdict), f" {_summary(matrix)}", sep="", soft_wrap=True)
    if matrix.data.scope:
        console.print(f"Note: {matrix.data.scope}.", soft_wrap=True)
    console.print(f"Report: {folder / 'parity.html'} (and .json, .xml, .md)", soft_wrap=True)


def _summary(matrix: Matrix) -> str:
    cells = f" at {matrix.cells[0].precision} on {matrix.cells[0].provider}" if len(matrix.cells) == 1 else ""
    data = f"{matrix.data.images} images and {matrix.data.texts} texts of {matrix.data.name}"
    return f"{matrix.artifact}{cells}, on {data}, against {matrix.reference}."


def _check_table(checks: tuple[Check, ...]) -> rich.table.Table:
    from ..validate.report import formatting

    rows = table("group", "check", "measured", "limit", "noise", "verdict", "detail")
    for check in checks:
        numbers = formatting.measured(check), formatting.limit(check), formatting.noise(check)
        rows.add_row(check.group, check.name, *numbers, colored(check.verdict), rich.text.Text(check.detail))
    return rows


def _cell_table(cells: tuple[Cell, ...]) -> rich.table.Table:
    rows = table("precision", "provider", "verdict", "first problem", "measured", "limit", "seconds")
    for cell in cells:
        provider = cell.provider + ("" if cell.required else " (may be missing)")
        rows.add_row(cell.precision, provider, colored(cell.verdict), *_first_problem(cell), f"{cell.seconds:.0f}")
    return rows


def _first_problem(cell: Cell) -> tuple[rich.text.Text, str, str]:
    from ..validate.report import formatting

    check = cell.report.first_problem() if cell.report else None
    if check is None:
        return rich.text.Text(cell.problem or formatting.NOTHING), formatting.NOTHING, formatting.NOTHING
    name = rich.text.Text(f"{check.group}: {check.name}")
    return name, formatting.measured(check), formatting.limit(check)
