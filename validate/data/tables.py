"""Tables of images with captions and classes, and the older form captions.jsonl."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ...runtime.data.images import ImagePlace
from ...runtime.data.parquet import ParquetCell, ParquetColumn, ParquetTable
from ...runtime.data.policy import REFUSE, Problem, apply_policy
from ...runtime.data.rows import TableRow, image_in_cell
from ...runtime.data.tables import JsonLinesTable, open_table
from ...runtime.errors import InputError
from .annotations import (
    AnnotatedImage,
    Columns,
    DataOptions,
    captions_of,
    find_columns,
    is_unicode,
    label_of,
    parse_label,
)

CAPTIONS: Final = "captions.jsonl"
_CAPTIONS_FORM: Final = 'Each line of captions.jsonl is an object such as {"image": "cat.jpg", "text": "a cat"}.'


def read_table(path: Path, name: str, options: DataOptions) -> list[AnnotatedImage]:
    """The images of a table, in the order of their first rows; a further row of an image is a further caption.

    Args:
        path: The table. Paths in it start from its folder.
        name: Its name, a path from the data's folder.
        options: The columns to take.

    Raises:
        InputError: The table is damaged, lacks a column, names an image that does not exist, or names one twice.
        ProviderError: The table is parquet, and pyarrow is not installed.
    """
    images: dict[str, AnnotatedImage] = {}
    open_column = functools.cache(functools.partial(ParquetColumn, path))
    for row in apply_policy(_rows(path, options), REFUSE):
        image = _annotated(row, path, name, find_columns(tuple(row.cells), options, row.where), open_column)
        images[image.name] = _merged(images[image.name], image) if image.name in images else image
    return list(images.values())


def _rows(path: Path, options: DataOptions) -> Iterator[TableRow]:
    table = open_table(path)
    if not isinstance(table, ParquetTable):
        return table.rows()
    columns = find_columns(table.columns, options, str(path))
    if columns.image is None:
        return table.rows()
    return table.rows([column for column in (columns.image, columns.caption, columns.label) if column is not None])


def _annotated(
    row: TableRow, path: Path, name: str, columns: Columns, open_column: Callable[[str], ParquetColumn]
) -> AnnotatedImage:
    if columns.image is None:
        raise InputError(
            f"{row.where} has no column of images; its columns are {', '.join(map(repr, row.cells)) or 'none'}.",
            'Call the column "image", or name it with image_column.',
        )
    image = image_in_cell(row.cells[columns.image], columns.image, row.where)
    if isinstance(image, Problem):
        raise image.error()
    place: ImagePlace
    if isinstance(image, bytes):
        image_name, place = f"{name}#{row.number}", ParquetCell(open_column(columns.image), row.number)
    else:
        image_name, place = _image_file(image, row.where, path, name)
    captions = captions_of(row.cells[columns.caption], row.where) if columns.caption else ()
    label = label_of(_label(row, columns.label), row.where)
    return AnnotatedImage(image_name, place, captions, label, row.where)


def _label(row: TableRow, column: str | None) -> Any:
    value = row.cells[column] if column else None
    return parse_label(value) if isinstance(value, str) and not row.typed else value


def _image_file(value: str, where: str, path: Path, name: str) -> tuple[str, Path]:
    """The name of an image from the data's folder, and its file."""
    if not is_unicode(value):
        raise InputError(f"{where} names the image {value!r}, which is not valid Unicode.", "Rename the image.")
    target = path.parent / value
    if not os.path.isfile(target):
        raise InputError(f"{where} names {value}, which does not exist.", "Paths start from the table's folder.")
    return os.path.normpath(os.path.join(os.path.dirname(name), value)).replace(os.sep, "/"), target


def _merged(first: AnnotatedImage, second: AnnotatedImage) -> AnnotatedImage:
    if not second.captions:
        raise InputError(f"{second.where} names {second.name} a second time, after {first.where}.", "Keep one of them.")
    if first.label != second.label:
        raise InputError(
            f"{second.where} gives {second.name} the class {second.label!r}, {first.where} gives it {first.label!r}.",
            "Correct one of them.",
        )
    return replace(first, captions=tuple(dict.fromkeys(first.captions + second.captions)))


def class_names(path: Path, column: str) -> tuple[str, ...]:
    """The names of the numbered classes in a column of parquet, as Hugging Face datasets store them; else empty.

    Raises:
        InputError: The file is damaged.
        ProviderError: pyarrow is not installed.
    """
    metadata = ParquetTable(path).metadata
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][column]["names"]
    except (KeyError, ValueError, TypeError):  # written by other tools, or a column of another type
        return ()
    return tuple(map(str, names))


def read_captions(path: Path) -> list[AnnotatedImage]:
    """The images of captions.jsonl: each line has one image, once, with one caption, which may be empty.

    Raises:
        InputError: The file or a line of it cannot be used.
    """
    images: dict[str, AnnotatedImage] = {}
    for row in apply_policy(JsonLinesTable(path).rows(), REFUSE):
        image = _captioned(path, row)
        if image.name in images:
            raise InputError(f"{row.where} names {image.name} a second time.", "Keep one caption of it.")
        images[image.name] = image
    if not images:
        raise InputError(f"{path} is empty.", _CAPTIONS_FORM)
    return list(images.values())


def _captioned(path: Path, row: TableRow) -> AnnotatedImage:
    image, text = row.cells.get("image"), row.cells.get("text")
    if not (isinstance(image, str) and isinstance(text, str) and is_unicode(image + text)):
        raise InputError(f"{row.where} lacks a string of valid Unicode under image or text.", _CAPTIONS_FORM)
    if not os.path.isfile(path.parent / image):
        raise InputError(f"{row.where} names {image}, which does not exist.", "Correct the line.")
    return AnnotatedImage(image, path.parent / image, (text,), None, row.where)
