"""Folders of images: alone, with captions beside them, or with a subfolder for each class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ...runtime.data.folders import read_folder
from ...runtime.data.images import is_image
from ...runtime.data.policy import REFUSE, apply_policy, value_or_error
from ...runtime.data.texts import decode_text
from ...runtime.errors import InputError
from .annotations import AnnotatedImage, captions_of, lines_of, relative_name

_PARTS: Final = 2  # of `class/image.jpg`


def list_files(folder: Path) -> list[Path]:
    """Every file below a folder, sorted.

    Raises:
        InputError: A folder cannot be read or is a link, or an image is in a format that siglip-onnx does not read.
    """
    return [Path(file.path) for file in apply_policy(read_folder(folder), REFUSE)]


def read_images(folder: Path, files: Sequence[Path]) -> tuple[str, list[AnnotatedImage]]:
    """The form of a folder, in words, and its images.

    An image's captions are in a text file of the same name, one on each line. If there is no such file at all, and
    every image is in one of several subfolders of the first level, the subfolders are the classes.

    Args:
        folder: The data.
        files: The result of `list_files`.

    Raises:
        InputError: A caption cannot be read, a class has no image, or a file's name is not valid Unicode.
    """
    names = {path: relative_name(path, folder) for path in files if is_image(path.name)}
    captions = _captions(names, set(files))
    if captions:
        return "images with captions beside them", [
            AnnotatedImage(name, path, captions.get(path, ()), None, str(path)) for path, name in names.items()
        ]
    parts = [name.split("/") for name in names.values()]
    if {len(part) for part in parts} == {_PARTS} and len({part[0] for part in parts}) > 1:
        _check_classes(folder, {part[0] for part in parts})
        return "a folder for each class", [
            AnnotatedImage(name, path, (), name.split("/")[0], str(path)) for path, name in names.items()
        ]
    return "images", [AnnotatedImage(name, path, (), None, str(path)) for path, name in names.items()]


def _captions(names: dict[Path, str], files: set[Path]) -> dict[Path, tuple[str, ...]]:
    """The captions of each image that has a text file of its name."""
    owners: dict[Path, Path] = {}
    for path in names:
        text = path.with_suffix(".txt")
        if text not in files:
            continue
        if text in owners:
            raise InputError(
                f"{text} is beside two images of its name, {owners[text].name} and {path.name}.", "Rename one image."
            )
        owners[text] = path
    return {path: _read_captions(text) for text, path in owners.items()}


def _read_captions(path: Path) -> tuple[str, ...]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).", "Make it readable.") from error
    lines = lines_of(value_or_error(decode_text(data, str(path))))
    if not lines:
        raise InputError(f"{path} holds no caption.", "Write a caption on each line, or delete the file.")
    return captions_of(lines, str(path))


def _check_classes(folder: Path, with_images: set[str]) -> None:
    empty = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and entry.name not in with_images)
    if empty:
        raise InputError(
            f"{folder} has a folder for each class, but {empty[0]} holds no image.",
            "Put an image into it, or delete the folder.",
        )
