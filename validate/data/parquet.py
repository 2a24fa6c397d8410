"""Parquet: cells of a few rows at a time, and images that are kept in a column."""

from __future__ import annotations

import bisect
import functools
import itertools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ...runtime.bulk.embeddings_file import pyarrow
from ...runtime.errors import InputError

_BATCH: Final = 16  # rows that are in memory at once


def schema(path: Path) -> tuple[tuple[str, ...], dict[bytes, bytes]]:
    """Names of a file's columns, and what it says of itself.

    Raises:
        InputError: The file is damaged.
        ProviderError: pyarrow is missing.
    """
    arrow, parquet = pyarrow()
    try:
        found = parquet.read_schema(path)
    except (OSError, arrow.ArrowException) as error:
        raise _damaged(path, error) from error
    return tuple(found.names), found.metadata or {}


def class_names(path: Path, column: str) -> tuple[str, ...]:
    """What the numbers in a column stand for, as Hugging Face datasets keep it; nothing where the file does not say.

    Raises:
        InputError: The file is damaged.
        ProviderError: pyarrow is missing.
    """
    try:
        names = json.loads(schema(path)[1][b"huggingface"])["info"]["features"][column]["names"]
    except (KeyError, ValueError, TypeError):  # written by others, or a column of another type
        return ()
    return tuple(map(str, names))


def read_cells(path: Path, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The cells of each row in some columns.

    Raises:
        InputError: The file is damaged.
        ProviderError: pyarrow is missing.
    """
    arrow, parquet = pyarrow()
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_BATCH, columns=list(columns)):
                yield from batch.to_pylist()
    except (OSError, arrow.ArrowException) as error:
        raise _damaged(path, error) from error


class Column:
    """Images in a column of a parquet file, of which a few rows are in memory. It is for one thread.

    Rows are best asked for in their order: to go back is to read a row group again from its beginning.

    Args:
        path: The file.
        name: The column, of bytes or of records with `bytes`.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self._batches: Iterator[Any] = iter(())
        self._group, self._start = -1, 0
        self._values: Any = ()  # an Arrow array of the rows from `_start` on

    def read(self, row: int) -> bytes:
        """The bytes of one row's image.

        Raises:
            InputError: The file is damaged, or another than it was.
        """
        arrow, _ = pyarrow()
        try:
            if not self._start <= row < self._start + len(self._values):
                self._seek(row)
            value = self._values[row - self._start].as_py()
        except (OSError, arrow.ArrowException, StopIteration, IndexError) as error:
            raise _damaged(self._path, error) from error
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise InputError(f"{self._path} has no image in row {row} any more.", "Start again.")
        return data

    def _seek(self, row: int) -> None:
        """Have the batch with a row in memory."""
        group = bisect.bisect_right(self._ends, row)
        if group != self._group or row < self._start:
            self._group, self._start, self._values = group, self._ends[group - 1] if group else 0, ()
            self._batches = self._file.iter_batches(_BATCH, row_groups=[group], columns=[self._name])
        while row >= self._start + len(self._values):
            self._start += len(self._values)
            self._values = next(self._batches).column(0)

    @functools.cached_property
    def _file(self) -> Any:
        return pyarrow()[1].ParquetFile(self._path)

    @functools.cached_property
    def _ends(self) -> list[int]:
        """Behind which row each row group ends."""
        about = self._file.metadata
        return list(itertools.accumulate(about.row_group(i).num_rows for i in range(about.num_row_groups)))


@dataclass(frozen=True)
class Cell:
    """One image of a column."""

    column: Column
    row: int

    def read(self) -> bytes:
        """The bytes of its file; errors as of `Column.read`."""
        return self.column.read(self.row)


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} cannot be read as parquet ({error or type(error).__name__}).", "Write it again.")
