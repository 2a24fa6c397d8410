"""Parquet: rows a few at a time, and images in a column, each read on demand. pyarrow is imported on first use."""

from __future__ import annotations

import bisect
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..errors import InputError, ProviderError
from .rows import TableRow, unique_columns

_ROWS_AT_ONCE: Final = 64  # of a table
_IMAGES_AT_ONCE: Final = 16  # of a column of images; they stay in memory until the next ones are read


def import_pyarrow() -> tuple[Any, Any]:
    """The modules pyarrow and pyarrow.parquet.

    Raises:
        ProviderError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ProviderError(
            f"pyarrow cannot be imported ({error}).", "Run: pip install 'siglip-onnx[bulk]'."
        ) from error
    return pyarrow, pyarrow.parquet


class ParquetTable:
    """A parquet file.

    Args:
        path: The file.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns.

        Raises:
            InputError: The file is damaged, or two columns have the same name.
            ProviderError: pyarrow is not installed.
        """
        return unique_columns(self._schema.names, str(self._path))

    @property
    def metadata(self) -> dict[bytes, bytes]:
        """The file's own key-value metadata; errors as of `columns`."""
        return self._schema.metadata or {}

    @functools.cached_property
    def _schema(self) -> Any:
        arrow, parquet = import_pyarrow()
        try:
            return parquet.read_schema(self._path)
        except (OSError, arrow.ArrowException) as error:
            raise _damaged(self._path, error) from error

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[TableRow]:
        """Every row, with the given columns (default: all); errors as of `columns`."""
        arrow, parquet = import_pyarrow()
        try:
            with parquet.ParquetFile(self._path) as file:
                batches = file.iter_batches(_ROWS_AT_ONCE, columns=None if columns is None else list(columns))
                for number, cells in enumerate(itertools.chain.from_iterable(batch.to_pylist() for batch in batches)):
                    yield TableRow(where=f"Row {number} of {self._path}", number=number, cells=cells)
        except (OSError, arrow.ArrowException) as error:
            raise _damaged(self._path, error) from error


class ParquetColumn:
    """Images in a column of a parquet file, a few of which are in memory. Not for use from several threads.

    Read rows in ascending order: going back decodes a row group again from its beginning.

    Args:
        path: The file.
        name: The column, of bytes or of records with the key `bytes`.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self._batches: Iterator[Any] = iter(())
        self._group, self._start = -1, 0
        self._values: Any = ()  # an Arrow array of the rows from `_start` on

    def read(self, row: int) -> bytes:
        """The bytes of one row's image.

        Raises:
            InputError: The file is damaged, or changed since it was listed.
        """
        arrow, _ = import_pyarrow()
        try:
            if not self._start <= row < self._start + len(self._values):
                self._seek(row)
            value = self._values[row - self._start].as_py()
        except (OSError, arrow.ArrowException, StopIteration, IndexError) as error:
            raise _damaged(self._path, error) from error
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise InputError(f"{self._path} changed: row {row} no longer holds an image.", "Run the command again.")
        return data

    def _seek(self, row: int) -> None:
        """Load the batch that holds a row."""
        group = bisect.bisect_right(self._ends, row)
        if group != self._group or row < self._start:
            self._group, self._start, self._values = group, self._ends[group - 1] if group else 0, ()
            self._batches = self._file.iter_batches(_IMAGES_AT_ONCE, row_groups=[group], columns=[self._name])
        while row >= self._start + len(self._values):
            self._start += len(self._values)
            self._values = next(self._batches).column(0)

    @functools.cached_property
    def _file(self) -> Any:
        return import_pyarrow()[1].ParquetFile(self._path)

    @functools.cached_property
    def _ends(self) -> list[int]:
        """For each row group, the number of the first row after it."""
        metadata = self._file.metadata
        return list(itertools.accumulate(metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)))


@dataclass(frozen=True)
class ParquetCell:
    """One image of a column."""

    column: ParquetColumn
    row: int

    def read(self) -> bytes:
        """The bytes of the image's file; errors as of `ParquetColumn.read`."""
        return self.column.read(self.row)


def _damaged(path: str | Path, error: Exception) -> InputError:
    return InputError(f"{path} cannot be read as parquet ({error or type(error).__name__}).", "Write it again.")
