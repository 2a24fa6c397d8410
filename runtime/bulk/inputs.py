"""The images or texts to embed, listed from folders, tables, archives and files, always in the same order."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ..data.folders import mtime_key, read_folder
from ..data.images import IMAGE_SUFFIXES, FileSlice, is_image, suffix, too_large
from ..data.policy import RECORD, Problem, apply_policy
from ..data.rows import TableRow, image_in_cell, require_columns, text_in_cell
from ..data.tables import TABLE_SUFFIXES, open_table
from ..data.tar import ARCHIVE_SUFFIXES, ArchiveMember, read_archive
from ..data.texts import decode_text, decoded_lines
from ..errors import InputError

_GLOB: Final = frozenset("*?[")
_TEXT_SUFFIX: Final = ".txt"

Content = str | bytes | FileSlice


class Modality(StrEnum):
    """The kind of input that a tower embeds."""

    IMAGE = "image"
    TEXT = "text"


@dataclass(frozen=True)
class Item:
    """One image or text.

    Attributes:
        id: Its name in the output: a path, `archive.tar:member`, or `table.csv#row`.
        content: An image's path, its bytes, or the place of its bytes; or a text. None if there is an error.
        error: Why there is no content.
        mtime_key: Size and modification time of an image in a folder, which tell whether it changed.
    """

    id: str
    content: Content | None
    error: str | None = None
    mtime_key: str = ""


@dataclass(frozen=True)
class Inputs:
    """A collection of images or texts to embed.

    Attributes:
        paths: Folders (of images, with all subfolders), images, patterns such as `*.jpg`, tables (.csv, .tsv, .jsonl,
            .ndjson, .parquet), archives (.tar, .tar.gz, .tgz, such as webdataset shards), or files with a text on each
            line (.txt).
        modality: Whether they hold images or texts.
        column: The column of a table with the text, the image's path (from the table's folder) or its bytes.
        id_column: The column of a table with the name of each item; by default the name is `table.csv#row`.
    """

    paths: tuple[str, ...]
    modality: Modality = Modality.IMAGE
    column: str | None = None
    id_column: str | None = None

    def __iter__(self) -> Iterator[Item]:
        """Every item, in an order that depends on names and content alone. A bad row is an item with an error.

        Raises:
            InputError: An input does not exist, is damaged, or cannot hold items of the modality.
            ProviderError: An input is a parquet file, and pyarrow is not installed.
        """
        for path in self.files():
            yield from _items(self, path)

    def files(self) -> Iterator[str]:
        """Every input, with patterns resolved.

        Raises:
            InputError: An input does not exist.
        """
        for path in self.paths:
            if os.path.exists(path):
                yield path
            elif _GLOB & {*path} and (matches := sorted(filter(os.path.isfile, glob.glob(path, recursive=True)))):
                yield from matches
            else:
                raise InputError(f"{path} does not exist.", "Name a folder, a file, or a pattern that matches files.")

    def mtimes(self) -> list[tuple[str, int, int]]:
        """Name, size in bytes and modification time in nanoseconds of every input; of a folder the name alone."""
        facts = [(path, os.stat(path)) for path in self.files()]
        return [(path, 0, 0) if os.path.isdir(path) else (path, s.st_size, s.st_mtime_ns) for path, s in facts]


def _items(inputs: Inputs, path: str) -> Iterator[Item]:
    if os.path.isdir(path):
        return _of_folder(inputs, path)
    name = path.lower()
    return next((reader for suffixes, reader in _READERS.items() if name.endswith(suffixes)), _of_image)(inputs, path)


def _item(name: str, content: Content | Problem, mtime_key: str = "") -> Item:
    if isinstance(content, Problem):
        return Item(name, None, content.message, mtime_key)
    return Item(name, content, None, mtime_key)


def _of_folder(inputs: Inputs, path: str) -> Iterator[Item]:
    _require_modality(inputs, Modality.IMAGE, path)
    images = (file for file in read_folder(path) if is_image(file.path))
    for file in apply_policy(images, RECORD):
        yield _item(file.path, file.problem or file.path, mtime_key(file.path))


def _of_image(inputs: Inputs, path: str) -> Iterator[Item]:
    _require_modality(inputs, Modality.IMAGE, path)
    yield Item(path, path)


def _of_text_file(inputs: Inputs, path: str) -> Iterator[Item]:
    _require_modality(inputs, Modality.TEXT, path)
    for number, line in enumerate(decoded_lines(path)):
        if line.strip():
            yield Item(f"{path}#{number}", line.strip())


def _require_modality(inputs: Inputs, actual: Modality, path: str) -> None:
    if inputs.modality is not actual:
        raise InputError(
            f"{path} holds {actual}s, expected {inputs.modality}s.",
            "Texts come from .txt, .csv, .tsv, .jsonl, .parquet or .tar files."
            if actual is Modality.IMAGE
            else "Use the modality text.",
        )


def _of_table(inputs: Inputs, path: str) -> Iterator[Item]:
    table, column = open_table(path), inputs.column
    if column is None:
        columns = f"Name one of its columns: {', '.join(table.columns)}." if table.columns else "Name a column."
        raise InputError(f"{path} is a table, and no column was named.", columns)
    if table.columns is not None:
        require_columns((column, inputs.id_column), table.columns, path)
    for row in apply_policy(table.rows([column, inputs.id_column] if inputs.id_column else [column]), RECORD):
        name = row.cells.get(inputs.id_column) if inputs.id_column else None
        yield _item(f"{path}#{row.number}" if name is None else str(name), _in_row(inputs, column, path, row))


def _in_row(inputs: Inputs, column: str, path: str, row: TableRow) -> Content | Problem:
    if row.problem is not None:
        return row.problem
    value = row.cells.get(column)
    if inputs.modality is Modality.TEXT:
        return text_in_cell(value, column, row.where)
    image = image_in_cell(value, column, row.where)
    return os.path.join(os.path.dirname(path), image) if isinstance(image, str) else image


def _of_archive(inputs: Inputs, path: str) -> Iterator[Item]:
    """The members that are images, or with the modality text the .txt members."""
    suffixes = IMAGE_SUFFIXES if inputs.modality is Modality.IMAGE else {_TEXT_SUFFIX}
    members = (member for member in read_archive(path) if not member.is_folder and suffix(member.name) in suffixes)
    for member in apply_policy(members, RECORD):
        problem = member.problem or too_large(member.size, member.where)
        yield _item(f"{path}:{member.name}", problem or _in_member(inputs.modality, member))


def _in_member(modality: Modality, member: ArchiveMember) -> Content | Problem:
    if modality is Modality.IMAGE:
        return member.place or member.read()
    text = decode_text(member.read(), member.where)
    return text if isinstance(text, Problem) else text.strip()


_READERS: Final[dict[tuple[str, ...], Callable[[Inputs, str], Iterator[Item]]]] = {
    (_TEXT_SUFFIX,): _of_text_file,
    TABLE_SUFFIXES: _of_table,
    ARCHIVE_SUFFIXES: _of_archive,
}
