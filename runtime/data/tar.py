"""Tar archives, read without unpacking them."""

from __future__ import annotations

import functools
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import InputError
from .images import FileSlice, unread_format
from .policy import DataRow, Problem, ProblemKind

ARCHIVE_SUFFIXES: Final = (".tar", ".tar.gz", ".tgz")
_COMPRESSED: Final = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")  # how files of gzip, bzip2 and xz begin


@dataclass(frozen=True, kw_only=True)
class ArchiveMember(DataRow):
    """A file or folder in an archive.

    Attributes:
        name: Its name in the archive.
        size: Its size in bytes.
        is_folder: Whether it is a folder.
        place: Where its bytes lie; None in a compressed archive.
        read: Reads its bytes while the reader stands at this member; raises InputError if the archive is damaged.
    """

    name: str
    size: int
    is_folder: bool
    place: FileSlice | None
    read: Callable[[], bytes]


def is_compressed(path: str | Path) -> bool:
    """Whether an archive is compressed; raises InputError if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return file.read(6).startswith(_COMPRESSED)
    except OSError as error:
        raise _damaged(path, error) from error


def read_archive(path: str | Path) -> Iterator[ArchiveMember]:
    """Every member of an archive, in its order. Links, devices, and names that lead outside are rows with a problem.

    Raises:
        InputError: The archive is damaged.
    """
    compressed = is_compressed(path)
    try:
        with tarfile.open(path, "r|*" if compressed else "r:", tarinfo=_StrictInfo) as archive:
            for info in archive:
                yield _member(archive, str(path), info, compressed)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise _damaged(path, error) from error


class _StrictInfo(tarfile.TarInfo):
    """Reports a damaged header; tarfile itself mistakes it for the end of the archive."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _StrictInfo:
        """As tarfile's."""
        try:
            return super().frombuf(buf, encoding, errors)
        except (tarfile.InvalidHeaderError, tarfile.TruncatedHeaderError) as error:  # type: ignore[attr-defined]
            raise tarfile.ReadError(str(error)) from error


def _member(archive: tarfile.TarFile, path: str, info: tarfile.TarInfo, compressed: bool) -> ArchiveMember:
    return ArchiveMember(
        where=f"{path}:{info.name}",
        problem=_problem(path, info),
        name=info.name,
        size=info.size,
        is_folder=info.isdir(),
        place=None if compressed else FileSlice(path, info.offset_data, info.size),
        read=functools.partial(_read, archive, path, info),
    )


def _read(archive: tarfile.TarFile, path: str, info: tarfile.TarInfo) -> bytes:
    try:
        file = archive.extractfile(info)
        data = file.read(info.size) if file else b""
    except (tarfile.TarError, EOFError, OSError) as error:
        raise _damaged(path, error) from error
    if len(data) != info.size:
        raise _damaged(path, EOFError(f"it ends within {info.name}"))
    return data


def _problem(path: str, info: tarfile.TarInfo) -> Problem | None:
    problem = _kind_problem(path, info) or _name_problem(path, info)
    return problem or (None if info.isdir() else unread_format(info.name))


def _kind_problem(path: str, info: tarfile.TarInfo) -> Problem | None:
    plain = "Write the archive again with plain files only."
    if info.islnk():
        message = f"{path}:{info.name} is a link to {info.linkname}, and links are not followed."
        return Problem(ProblemKind.HARD_LINK, message, plain)
    if info.issparse():
        return Problem(ProblemKind.SPARSE, f"{path}:{info.name} is a sparse file, expected a plain file.", plain)
    if not info.isreg() and not info.isdir():
        message = f"{path}:{info.name} is a link or a device, expected a plain file."
        return Problem(ProblemKind.SPECIAL_FILE, message, plain)
    return None


def _name_problem(path: str, info: tarfile.TarInfo) -> Problem | None:
    name = info.name
    outside = name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/")
    if not outside and name == name.encode("utf-8", "replace").decode():
        return None
    fault = "leads out of the archive" if outside else "is not valid Unicode"
    message = f"{path} has a member named {name!r}, a name that {fault}."
    return Problem(ProblemKind.OUTSIDE_NAME, message, "Do not trust the archive.")


def _damaged(path: str | Path, error: Exception) -> InputError:
    return InputError(f"{path} cannot be read as an archive ({error}).", "Copy it again.")
