"""Folders: every file below one, in an order that depends on names alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from .images import unread_format
from .policy import DataRow, Problem, ProblemKind


@dataclass(frozen=True, kw_only=True)
class FolderFile(DataRow):
    """A file below a folder.

    Attributes:
        path: The folder as it was given, with the path of the file below it.
    """

    path: str


def read_folder(folder: str | Path) -> Iterator[FolderFile]:
    """Every file below a folder, sorted by the parts of its path.

    A link to a folder is a row with a problem: it is not followed, because links can form a circle.

    Raises:
        InputError: A folder cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be read ({error.strerror}).", "Make it readable.") from error
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from read_folder(entry.path)
        else:
            problem = _folder_link(entry) or unread_format(entry.name)
            yield FolderFile(where=entry.path, path=entry.path, problem=problem)


def _folder_link(entry: os.DirEntry[str]) -> Problem | None:
    try:
        if not entry.is_dir():
            return None
    except OSError:  # a link in a circle; reading the file reports it
        return None
    return Problem(
        ProblemKind.FOLDER_LINK,
        f"{entry.path} is a link to a folder, and links to folders are not followed.",
        "Move the folder itself there.",
    )


def mtime_key(path: str) -> str:
    """Size and modification time of a file, which change when the file does; empty where there is no file."""
    try:
        facts = os.stat(path)
    except OSError:  # a dangling link; reading the file reports it
        return ""
    return f"{facts.st_size}-{facts.st_mtime_ns}"
