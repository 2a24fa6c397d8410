"""Rows of tables: their columns, and the images and texts in their cells."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from .images import too_large
from .policy import DataRow, Problem, ProblemKind


@dataclass(frozen=True, kw_only=True)
class TableRow(DataRow):
    """One row of a table.

    Attributes:
        number: The row's number from 0. In CSV and TSV blank lines do not count; in JSON lines they do.
        cells: Values by column; empty where the row cannot be decoded.
        typed: Whether a cell has a type of its own; in CSV and TSV every cell is text.
    """

    number: int
    cells: dict[str, Any]
    typed: bool = True


def require_columns(names: Iterable[str | None], columns: Sequence[str], where: str) -> None:
    """Check that the columns that a user named exist.

    Args:
        names: The columns that the user named; None where the user named none.
        columns: The columns of the table.
        where: The table in words, for the error.

    Raises:
        InputError: A column does not exist.
    """
    for name in names:
        if name is not None and name not in columns:
            raise InputError(f"{where} has no column {name!r}.", f"Its columns are: {', '.join(columns) or 'none'}.")


def unique_columns(columns: Sequence[str], where: str) -> tuple[str, ...]:
    """The columns of a table, none of which may hide another one.

    Raises:
        InputError: Two columns have the same name.
    """
    twice = next((column for column in columns if columns.count(column) > 1), None)
    if twice is not None:
        raise InputError(f"{where} has two columns named {twice!r}.", "Rename one of them.")
    return tuple(columns)


def image_in_cell(value: Any, column: str, where: str) -> str | bytes | Problem:
    """The image in a cell: its path, or the bytes of its file, or the problem with the cell.

    A cell may also hold a record with the keys `bytes` and `path`, as in Hugging Face datasets.
    """
    if isinstance(value, dict):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        return too_large(len(value), where) or value
    if isinstance(value, str) and value:
        return value
    return _no_content("image", value, column, where)


def text_in_cell(value: Any, column: str, where: str) -> str | Problem:
    """The text in a cell, or the problem with the cell."""
    return value if isinstance(value, str) else _no_content("text", value, column, where)


def _no_content(expected: str, value: Any, column: str, where: str) -> Problem:
    actual = "nothing" if value in (None, "", b"") else f"{reprlib.repr(value)} ({type(value).__name__})"
    next_step = "Write the path of an image, from the table's folder." if expected == "image" else "Write a string."
    message = f"{where} has no {expected} in column {column!r}, but {actual}."
    return Problem(ProblemKind.NO_CONTENT, message, next_step)
