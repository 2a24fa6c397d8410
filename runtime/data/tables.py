"""Tables: CSV, TSV, JSON lines and parquet, read row by row."""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol

from ..errors import InputError
from .images import MAX_FILE_BYTES, suffix
from .parquet import ParquetTable
from .policy import Problem, ProblemKind
from .rows import TableRow, unique_columns
from .texts import decoded_lines


class Table(Protocol):
    """A table in a file."""

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Names of the columns; None for JSON lines, where every row has its own."""

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[TableRow]:
        """Every row, with at least the given columns (default: all).

        Raises:
            InputError: The file is damaged.
        """


class _Csv(csv.excel):
    strict = True  # without it, a misplaced quote begins a cell that swallows the rows after it


class _Tsv(csv.excel_tab):
    quoting = csv.QUOTE_NONE  # most TSV files use a quote like any other character


# Separators of CSV files whose first line has no comma: spreadsheets of many countries write semicolons.
_OTHER_SEPARATORS: Final = ";\t|"


class SeparatedTable:
    """A CSV or TSV file, whose first line names the columns.

    Args:
        path: The file.
        dialect: Quotes, and the separator; in CSV another separator is recognized by the first line.
    """

    def __init__(self, path: str | Path, dialect: type[csv.Dialect]) -> None:
        self._path, self._dialect = path, dialect

    @functools.cached_property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns.

        Raises:
            InputError: The file cannot be read, or two columns have the same name.
        """
        return unique_columns(next(self._lines(), (0, []))[1], str(self._path))

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[TableRow]:
        """Every row that is not blank; a cell that the line lacks is None."""
        lines = ((number, cells) for number, cells in islice(self._lines(), 1, None) if cells)
        for number, (line, cells) in enumerate(lines):
            where = f"Line {line} of {self._path}"
            padded = [*cells, *[None] * (len(self.columns) - len(cells))]
            yield TableRow(
                where=where,
                problem=self._cell_count(len(cells), where),
                number=number,
                cells=dict(zip(self.columns, padded, strict=False)),
                typed=False,
            )

    def _cell_count(self, count: int, where: str) -> Problem | None:
        if count == len(self.columns):
            return None
        return Problem(
            ProblemKind.CELL_COUNT,
            f"{where} has {count} cells, expected {len(self.columns)} as in the first line.",
            "Correct the line; in CSV, put quotes around a text that contains a comma.",
        )

    @functools.cached_property
    def _separator(self) -> str:
        first = next(decoded_lines(self._path), "")
        if self._dialect.delimiter != "," or "," in first:
            return self._dialect.delimiter
        return next((separator for separator in _OTHER_SEPARATORS if separator in first), ",")

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        """Cells of every line, with the number of the line, from 1."""
        csv.field_size_limit(MAX_FILE_BYTES)
        reader = csv.reader(decoded_lines(self._path), dialect=self._dialect, delimiter=self._separator)
        try:
            for cells in reader:
                yield reader.line_num, cells
        except csv.Error as error:
            raise InputError(
                f"Line {reader.line_num} of {self._path} is not a line of a table ({error}).", "Correct the line."
            ) from error


class JsonLinesTable:
    """A file with a JSON object on each line.

    Args:
        path: The file.
    """

    columns: Final = None

    def __init__(self, path: str | Path) -> None:
        self._path = path

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[TableRow]:
        """Every row; a line that is not a JSON object is a row with a problem."""
        for number, line in enumerate(decoded_lines(self._path)):
            if line.strip():
                where = f"Line {number + 1} of {self._path}"
                cells = json_object(line, where)
                problem = cells if isinstance(cells, Problem) else None
                cells = {} if isinstance(cells, Problem) else cells
                yield TableRow(where=where, problem=problem, number=number, cells=cells)


def json_object(text: str, where: str) -> dict[str, Any] | Problem:
    """A JSON object, or the problem with the text."""
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        return Problem(ProblemKind.NOT_JSON, f"{where} is not JSON ({error}).", "Correct it.")
    if not isinstance(value, dict):
        message = f"{where} is not a JSON object, but of type {type(value).__name__}."
        return Problem(
            ProblemKind.NOT_JSON, message, 'Write an object such as {"image": "cat.jpg", "caption": "a cat"}.'
        )
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; json itself would keep the last of two values with the same key."""
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key {next(key for key in keys if keys.count(key) > 1)!r} occurs twice")
    return value


_TABLES: Final[dict[str, Callable[[str | Path], Table]]] = {
    ".csv": lambda path: SeparatedTable(path, _Csv),
    ".tsv": lambda path: SeparatedTable(path, _Tsv),
    ".jsonl": JsonLinesTable,
    ".ndjson": JsonLinesTable,
    ".parquet": ParquetTable,
}
TABLE_SUFFIXES: Final = tuple(_TABLES)


def open_table(path: str | Path) -> Table:
    """The table in a file whose suffix is one of `TABLE_SUFFIXES`; nothing is read yet."""
    return _TABLES[suffix(str(path))](path)
