"""Folders: of images with or without captions beside them, or of a folder for each class."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from ...runtime.errors import InputError
from .rows import Row, captions_of, is_image, lines_of, relative_name

_LEVELS: Final = 2  # of `class/image.jpg`


def walk(folder: Path) -> list[Path]:
    """Every file below a folder, sorted.

    Raises:
        InputError: A folder cannot be read, or is a link, which might lead in circles.
    """
    return sorted(_files(folder), key=lambda path: path.parts)


def _files(folder: Path) -> Iterator[Path]:
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be read ({error.strerror}).", "Make it readable.") from error
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _files(Path(entry.path))
        elif entry.is_dir():
            raise InputError(
                f"{entry.path} is a link to a folder, which is not followed.", "Put the folder itself there."
            )
        else:
            yield Path(entry.path)


def read_images(folder: Path, files: Sequence[Path]) -> tuple[str, list[Row]]:
    """The form of a folder, in words, and a row for each image.

    Captions are in a text file of the image's name, one a line. Where there is no such file at all, and every image
    is in one of several folders of the first level, these are its classes.

    Args:
        folder: The whole of the data.
        files: What `walk` finds in it.

    Raises:
        InputError: A caption cannot be read, a class has no image, or a file's name is no valid Unicode.
    """
    names = {path: relative_name(path, folder) for path in files if is_image(path.name)}
    beside = _captions(names, set(files))
    if beside:
        return "images with captions beside them", [
            Row(name, path, beside.get(path, ()), None, str(path)) for path, name in names.items()
        ]
    parts = [name.split("/") for name in names.values()]
    if {len(part) for part in parts} == {_LEVELS} and len({part[0] for part in parts}) > 1:
        _check_classes(folder, {part[0] for part in parts})
        return "a folder for each class", [
            Row(name, path, (), name.split("/")[0], str(path)) for path, name in names.items()
        ]
    return "images", [Row(name, path, (), None, str(path)) for path, name in names.items()]


def _captions(names: dict[Path, str], files: set[Path]) -> dict[Path, tuple[str, ...]]:
    """What stands beside each image that has something beside it."""
    owners: dict[Path, Path] = {}
    for path in names:
        text = path.with_suffix(".txt")
        if text not in files:
            continue
        if text in owners:
            raise InputError(f"{text} stands beside two images, {owners[text].name} and {path.name}.", "Rename one.")
        owners[text] = path
    return {path: _caption(text) for text, path in owners.items()}


def _caption(path: Path) -> tuple[str, ...]:
    try:
        found = lines_of(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).", "Make it readable.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error.reason} at byte {error.start}).", "Save it as UTF-8.") from error
    if not found:
        raise InputError(f"{path} holds no caption.", "Write one on each line, or delete it.")
    return captions_of(found, str(path))


def _check_classes(folder: Path, filled: set[str]) -> None:
    empty = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name not in filled)
    if empty:
        raise InputError(
            f"{folder} has a folder for each class, and {empty[0]} holds no image.", "Fill it, or delete it."
        )
