"""What there is to embed: images and texts in folders, tables and archives, always in the same order."""

from __future__ import annotations

import csv
import glob
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from ..errors import InputError

# Endings of image files, of the formats in runtime/preprocessing/image.py.
IMAGES: Final = frozenset(
    f".{ending}"
    for ending in (
        *("avif", "bmp", "gif", "ico", "jfif", "jp2", "jpeg", "jpg", "pbm", "pgm", "png", "ppm", "tga", "tif", "tiff"),
        "webp",
    )
)
MAX_MEMBER: Final = 256 * 2**20  # bytes of one file in an archive, or of one cell; larger ones are not read
_GLOB: Final = frozenset("*?[")
PACKED: Final = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")  # how files of gzip, bzip2 and xz begin
_TABLE_BATCH: Final = 64  # rows of a parquet file that are in memory at once


class Modality(StrEnum):
    """What is embedded."""

    IMAGE = "image"
    TEXT = "text"


@dataclass(frozen=True)
class ArchiveMember:
    """Bytes in a file: those of one member of an uncompressed archive."""

    file: str
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes.

        Raises:
            InputError: The file is shorter now, or gone.
        """
        try:
            with Path(self.file).open("rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise InputError(f"{self.file} cannot be read ({error.strerror}).", "Check that it is there.") from error
        if len(data) != self.size:
            raise InputError(f"{self.file} is shorter than its table of contents says.", "Copy it again.")
        return data


@dataclass(frozen=True)
class Item:
    """One image or text.

    Attributes:
        id: What it is called in the output: a path, `archive.tar:member`, or `table.csv#row`.
        content: A path, the bytes of a file, where they are, or a text; None where there is none.
        error: Why there is none.
        stamp: Size and time of the last change of an image in a folder, by which it is noticed that it changed.
    """

    id: str
    content: str | bytes | ArchiveMember | None
    error: str | None = None
    stamp: str = ""


@dataclass(frozen=True)
class Inputs:
    """Where items come from.

    Attributes:
        paths: Folders (of images, with all below), images, patterns such as `*.jpg`, tables (.csv, .tsv, .jsonl,
            .parquet), archives (.tar, .tar.gz, as webdataset writes them), or files of texts, one a line (.txt).
        kind: What they hold.
        column: The column of a table with the text, the image's path (from the table's folder) or its bytes.
        id_column: The column of a table that names an item.
    """

    paths: tuple[str, ...]
    kind: Modality = Modality.IMAGE
    column: str | None = None
    id_column: str | None = None

    def __iter__(self) -> Iterator[Item]:
        """Every item, in an order that depends on names and content alone.

        Raises:
            InputError: An input is not there, or cannot hold items of the kind.
        """
        for path in self.files():
            yield from self._of(path)

    def files(self) -> Iterator[str]:
        """Every input with patterns resolved.

        Raises:
            InputError: An input is not there.
        """
        for path in self.paths:
            if os.path.exists(path):
                yield path
            elif _GLOB & {*path} and (found := sorted(filter(os.path.isfile, glob.glob(path, recursive=True)))):
                yield from found
            else:
                raise InputError(f"There is no {path}.", "Name a folder, a file, or a pattern of files.")

    def stamps(self) -> list[tuple[str, int, int]]:
        """Name, size and time of the last change of every input; of a folder only the name."""
        found = [(path, os.stat(path)) for path in self.files()]
        return [(path, 0, 0) if os.path.isdir(path) else (path, s.st_size, s.st_mtime_ns) for path, s in found]

    def _of(self, path: str) -> Iterator[Item]:
        if os.path.isdir(path):
            self._only(Modality.IMAGE, path, "A folder")
            yield from _images(path)
            return
        name = path.lower()
        reader = next((reader for ending, reader in _READERS.items() if name.endswith(ending)), None)
        if reader is not None:
            yield from reader(self, path)
        else:
            self._only(Modality.IMAGE, path, "A file of this kind")
            yield Item(path, path)

    def _only(self, kind: Modality, path: str, what: str) -> None:
        if self.kind is not kind:
            raise InputError(
                f"{what} holds {kind}s, and {self.kind}s were asked for: {path}.",
                "Texts come from .txt, .csv, .tsv, .jsonl, .parquet or .tar files."
                if kind is Modality.IMAGE
                else "Use --kind text.",
            )

    def _cell(self, file: str, row: int, cells: dict[str, Any]) -> Item:
        """The item in one row of a table."""
        name = f"{file}#{row}"
        if self.id_column is not None and cells.get(self.id_column) is not None:
            name = str(cells[self.id_column])
        value = cells.get(str(self.column))
        if isinstance(value, dict):  # how Hugging Face datasets keep images
            value = value.get("bytes") or value.get("path")
        if self.kind is Modality.TEXT and isinstance(value, str):
            return Item(name, value)
        if self.kind is Modality.IMAGE and isinstance(value, str) and value:
            return Item(name, os.path.join(os.path.dirname(file), value))
        if self.kind is Modality.IMAGE and isinstance(value, bytes) and value:
            return _bounded(name, len(value), lambda: value)
        found = "nothing" if value is None or value in ("", b"") else f"a {type(value).__name__}"
        return Item(name, None, f"Column {self.column!r} of row {row} holds {found}.")

    def _columns(self, file: str, known: Iterable[str]) -> None:
        columns = list(known)
        if self.column is None:
            raise InputError(f"{file} is a table.", f"Name a column with --column: {', '.join(columns)}.")
        for column in (self.column, self.id_column):
            if column is not None and column not in columns:
                raise InputError(f"{file} has no column {column!r}.", f"It has {', '.join(columns) or 'none'}.")


def _images(folder: str) -> Iterator[Item]:
    """Every image below a folder; links to folders are not followed, since they may lead in circles."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be read ({error.strerror}).", "Make it readable.") from error
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _images(entry.path)
        elif os.path.splitext(entry.name)[1].lower() in IMAGES:
            yield Item(entry.path, entry.path, stamp=_stamp(entry))


def _stamp(entry: os.DirEntry[str]) -> str:
    try:
        found = entry.stat()
    except OSError:  # a link that leads nowhere; reading it says so
        return ""
    return f"{found.st_size}-{found.st_mtime_ns}"


def _bounded(name: str, size: int, read: Callable[[], bytes | ArchiveMember]) -> Item:
    if size > MAX_MEMBER:
        return Item(name, None, f"It has {size:,} bytes, more than the {MAX_MEMBER:,} that are read.")
    return Item(name, read())


def _lines(inputs: Inputs, path: str) -> Iterator[Item]:
    inputs._only(Modality.TEXT, path, "A file with a text a line")
    for row, line in enumerate(decoded_lines(path)):
        if line.strip():
            yield Item(f"{path}#{row}", line.strip())


class Commas(csv.excel):
    """Tables with commas."""

    strict = True  # a quote out of place is an error, and not the beginning of a cell that swallows the rows behind it


class Tabs(csv.excel_tab):
    """Tables with tabs."""

    quoting = csv.QUOTE_NONE  # as in most files of that kind: a quote is a character like any other


def _separated(delimiter: str) -> Callable[[Inputs, str], Iterator[Item]]:
    def read(inputs: Inputs, path: str) -> Iterator[Item]:
        csv.field_size_limit(MAX_MEMBER)
        rows = csv.DictReader(decoded_lines(path), dialect=Tabs if delimiter == "\t" else Commas)
        try:
            inputs._columns(path, rows.fieldnames or ())
            for row, cells in enumerate(rows):
                yield inputs._cell(path, row, cells)
        except csv.Error as error:
            raise InputError(f"{path} is no table ({error} in line {rows.line_num}).", "Mend that line.") from error

    return read


def _json_lines(inputs: Inputs, path: str) -> Iterator[Item]:
    if inputs.column is None:
        raise InputError(f"{path} is a table.", "Name a column with --column.")
    for row, line in enumerate(decoded_lines(path)):
        if not line.strip():
            continue
        try:
            cells = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Item(f"{path}#{row}", None, f"Line {row + 1} is no JSON ({error}).")
            continue
        yield inputs._cell(path, row, cells if isinstance(cells, dict) else {})


def _parquet(inputs: Inputs, path: str) -> Iterator[Item]:
    from .embeddings_file import pyarrow

    arrow, parquet = pyarrow()
    try:
        with parquet.ParquetFile(path) as file:
            inputs._columns(path, file.schema_arrow.names)
            columns = [column for column in (inputs.column, inputs.id_column) if column is not None]
            row = 0
            for batch in file.iter_batches(_TABLE_BATCH, columns=columns):
                for cells in batch.to_pylist():
                    yield inputs._cell(path, row, cells)
                    row += 1
    except (OSError, arrow.ArrowException) as error:
        raise InputError(f"{path} cannot be read as parquet ({error}).", "Write it again.") from error


class StrictInfo(tarfile.TarInfo):
    """Takes a damaged header for what it is; tarfile itself takes it for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> StrictInfo:
        """As tarfile's."""
        try:
            return super().frombuf(buf, encoding, errors)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(str(error)) from error


def _archive(inputs: Inputs, path: str) -> Iterator[Item]:
    """Members of a tar that are images, or for texts its .txt members; nothing is unpacked."""
    endings = IMAGES if inputs.kind is Modality.IMAGE else {".txt"}
    try:
        with Path(path).open("rb") as file:
            packed = file.read(6).startswith(PACKED)
        with tarfile.open(path, "r|*", tarinfo=StrictInfo) as archive:
            for member in archive:
                if (member.isfile() or member.islnk()) and os.path.splitext(member.name)[1].lower() in endings:
                    yield _member(inputs.kind, archive, path, member, packed)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{path} cannot be read as an archive ({error}).", "Copy it again.") from error


def _member(kind: Modality, archive: tarfile.TarFile, path: str, member: tarfile.TarInfo, packed: bool) -> Item:
    if member.islnk():
        return Item(f"{path}:{member.name}", None, f"It is a link to {member.linkname}, which is not followed.")

    def read() -> bytes | ArchiveMember:
        if not packed and kind is Modality.IMAGE:
            return ArchiveMember(path, member.offset_data, member.size)
        file = archive.extractfile(member)
        return file.read(MAX_MEMBER) if file else b""

    item = _bounded(f"{path}:{member.name}", member.size, read)
    if kind is Modality.TEXT and isinstance(item.content, bytes):
        try:
            return Item(item.id, item.content.decode("utf-8-sig").strip())
        except UnicodeDecodeError as error:
            return Item(item.id, None, f"It is not UTF-8 ({error.reason} at byte {error.start}).")
    return item


def decoded_lines(path: str) -> Iterator[str]:
    """Lines of a UTF-8 file."""
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            yield from file
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error.reason}).", "Save it as UTF-8.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).", "Check that it is there.") from error


_READERS: Final[dict[str, Callable[[Inputs, str], Iterator[Item]]]] = {
    ".txt": _lines,
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
    ".tar": _archive,
    ".tar.gz": _archive,
    ".tgz": _archive,
}
