"""Tables of images: CSV, TSV, JSON lines and parquet, and the captions.jsonl of old."""

from __future__ import annotations

import csv
import functools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from ...runtime.bulk.items import MAX_MEMBER, Commas, Tabs, decoded_lines
from ...runtime.errors import InputError
from .images import Place
from .parquet import Cell, Column, read_cells, schema
from .rows import Columns, DataOptions, Row, as_label, captions_of, columns, is_unicode, label_of

CAPTIONS: Final = "captions.jsonl"
_FORM: Final = 'Each line of captions.jsonl is an object such as {"image": "cat.jpg", "text": "a cat"}.'


@dataclass(frozen=True)
class _Line:
    """Cells of one row.

    Attributes:
        where: The row in words, for errors.
        number: The row, counted from 0.
        cells: Values by column.
        typed: Whether a number is a number; in CSV everything is text.
    """

    where: str
    number: int
    cells: dict[str, Any]
    typed: bool = True


Reader = Callable[[Path, DataOptions], Iterator[_Line]]


def read_table(path: Path, name: str, options: DataOptions) -> list[Row]:
    """The images of a table, in the order of their first rows; further rows of one are further captions.

    Args:
        path: The table. Paths in it are relative to its folder.
        name: What it is called, a path from the data's folder.
        options: Which columns to take.

    Raises:
        InputError: The table is damaged, has no such columns, names an image that is not there, or one twice.
        ProviderError: It is parquet, and pyarrow is missing.
    """
    rows: dict[str, Row] = {}
    column = functools.cache(functools.partial(Column, path))
    for line in READERS[path.suffix.lower()](path, options):
        row = _row(line, path, name, columns(tuple(line.cells), options, line.where), column)
        rows[row.name] = _merged(rows[row.name], row) if row.name in rows else row
    return list(rows.values())


def _row(line: _Line, path: Path, name: str, known: Columns, column: Callable[[str], Column]) -> Row:
    if known.image is None:
        raise InputError(
            f"{line.where} has no column of images; there are {', '.join(map(repr, line.cells)) or 'none'}.",
            'Call it "image", or name it with --image-column.',
        )
    named, place = _image(line.cells[known.image], line, path, name)
    if place is None:
        named, place = f"{name}#{line.number}", Cell(column(known.image), line.number)
    label = line.cells[known.label] if known.label else None
    if isinstance(label, str) and not line.typed:
        label = as_label(label)
    texts = captions_of(line.cells[known.caption], line.where) if known.caption else ()
    return Row(named, place, texts, label_of(label, line.where), line.where)


def _image(value: Any, line: _Line, path: Path, name: str) -> tuple[str, Place | None]:
    """What an image's file is called and where it is; None where the cell itself holds it."""
    if isinstance(value, dict):  # how Hugging Face datasets keep images
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes) and value:
        if len(value) > MAX_MEMBER:
            raise InputError(
                f"{line.where} has an image of {len(value):,} bytes; {MAX_MEMBER:,} are read at most.", "Leave it out."
            )
        return "", None
    if not isinstance(value, str) or not value or not is_unicode(value):
        raise InputError(f"{line.where} has no image, but {value!r:.60}.", "Name a file, from the table's folder.")
    target = path.parent / value
    if not os.path.isfile(target):
        raise InputError(f"{line.where} names {value}, which is not there.", "Paths start from the table's folder.")
    return os.path.normpath(os.path.join(os.path.dirname(name), value)).replace(os.sep, "/"), target


def _merged(first: Row, row: Row) -> Row:
    if not row.captions:
        raise InputError(f"{row.where} names {row.name} a second time.", f"It was in {first.where} already; keep one.")
    if first.label != row.label:
        raise InputError(
            f"{row.where} says that {row.name} is of class {row.label!r}; {first.where} says {first.label!r}.",
            "Correct one.",
        )
    return replace(first, captions=tuple(dict.fromkeys(first.captions + row.captions)))


def _separated(dialect: type[csv.Dialect]) -> Reader:
    def read(path: Path, _: DataOptions) -> Iterator[_Line]:
        csv.field_size_limit(MAX_MEMBER)
        rows = csv.reader(decoded_lines(str(path)), dialect=dialect)
        try:
            header = next(rows, [])
            if len(set(header)) < len(header):
                raise InputError(f"{path} has two columns of one name.", "Rename one in its first line.")
            for number, cells in enumerate(row for row in rows if row):
                where = f"Line {rows.line_num} of {path}"
                if len(cells) != len(header):
                    raise InputError(
                        f"{where} has {len(cells)} cells, and the first line names {len(header)} columns.",
                        "Mend that line; in CSV, quote a text that has a comma in it.",
                    )
                yield _Line(where, number, dict(zip(header, cells, strict=True)), typed=False)
        except csv.Error as error:
            raise InputError(f"{path} is no table ({error} in line {rows.line_num}).", "Mend that line.") from error

    return read


def _json_lines(path: Path, _: DataOptions) -> Iterator[_Line]:
    for number, line in enumerate(decoded_lines(str(path))):
        where = f"Line {number + 1} of {path}"
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where} is no JSON ({error}).", "Mend that line.") from error
        if not isinstance(cells, dict):
            raise InputError(f"{where} is no object.", 'Write lines such as {"image": "cat.jpg", "caption": "a cat"}.')
        yield _Line(where, number, cells)


def _parquet(path: Path, options: DataOptions) -> Iterator[_Line]:
    names, _ = schema(path)
    known = columns(names, options, str(path))
    wanted = [column for column in (known.image, known.caption, known.label) if column is not None]
    for number, cells in enumerate(read_cells(path, wanted if known.image is not None else names)):
        yield _Line(f"Row {number} of {path}", number, cells)


READERS: Final[dict[str, Reader]] = {
    ".csv": _separated(Commas),
    ".tsv": _separated(Tabs),
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}


def read_captions(path: Path) -> list[Row]:
    """The rows of captions.jsonl: each line one image, once, with one caption, which may be empty.

    Raises:
        InputError: The file or a line of it cannot be used.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}).", _FORM) from error
    rows: dict[str, Row] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            row = _caption(path, f"Line {number} of {path}", line)
            if row.name in rows:
                raise InputError(f"{row.where} names {row.name} a second time.", "Keep one caption of it.")
            rows[row.name] = row
    if not rows:
        raise InputError(f"{path} is empty.", _FORM)
    return list(rows.values())


def _caption(path: Path, where: str, line: str) -> Row:
    try:
        row = json.loads(line)
        image, text = row["image"], row["text"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{where} is no caption ({error!r}).", _FORM) from error
    if not (isinstance(image, str) and isinstance(text, str) and is_unicode(image + text)):
        raise InputError(f"{where} has a value that is no string of valid Unicode.", _FORM)
    if not os.path.isfile(path.parent / image):
        raise InputError(f"{where} names {image}, which is not there.", "Correct the line.")
    return Row(image, path.parent / image, (text,), None, where)
