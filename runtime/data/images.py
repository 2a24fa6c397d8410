"""Image files: which names are images, how large they may be, and where the bytes of an image lie."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from ..errors import InputError
from .policy import Problem, ProblemKind

# Suffixes of the formats in runtime/preprocessing/image.py.
IMAGE_SUFFIXES: Final = frozenset(
    f".{suffix}"
    for suffix in (
        *("avif", "bmp", "gif", "ico", "jfif", "jp2", "jpeg", "jpg", "pbm", "pgm", "png", "ppm", "tga", "tif", "tiff"),
        "webp",
    )
)
# Images too, but siglip-onnx does not read them; `validate` reports them, unlike notes and other files.
_UNREAD_SUFFIXES: Final = frozenset({".eps", ".heic", ".heif", ".jxl", ".psd", ".svg"})
MAX_FILE_BYTES: Final = 256 * 2**20  # of one file in an archive, or of one cell of a table


class StoredImage(Protocol):
    """An image inside a larger file, such as a `FileSlice` or a `ParquetCell`."""

    def read(self) -> bytes:
        """The bytes of the image's file; raises InputError if the larger file changed or cannot be read."""


ImagePlace = Path | StoredImage


@dataclass(frozen=True)
class FileSlice:
    """A range of bytes in a file, such as a member of an uncompressed archive.

    Attributes:
        path: The file.
        offset: The first byte.
        size: The number of bytes.
    """

    path: str
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes.

        Raises:
            InputError: The file is shorter than expected, or cannot be read.
        """
        try:
            with Path(self.path).open("rb") as file:
                file.seek(self.offset)
                data = file.read(self.size)
        except OSError as error:
            raise InputError(f"{self.path} cannot be read ({error.strerror}).", "Check that it exists.") from error
        if len(data) != self.size:
            raise InputError(f"{self.path} is shorter than its table of contents says.", "Copy it again.")
        return data


def suffix(name: str) -> str:
    """The suffix of a file's name in lower case, with its dot."""
    return os.path.splitext(name)[1].lower()


def is_image(name: str) -> bool:
    """Whether a file's name is the name of an image that siglip-onnx reads."""
    return suffix(name) in IMAGE_SUFFIXES


def unread_format(name: str) -> Problem | None:
    """The problem of a file whose name is the name of an image that siglip-onnx does not read."""
    if suffix(name) not in _UNREAD_SUFFIXES:
        return None
    return Problem(
        ProblemKind.UNREAD_FORMAT,
        f"{name} is an image in a format that siglip-onnx does not read.",
        "Convert it to PNG or JPEG.",
    )


def too_large(size: int, where: str, limit: int | None = None) -> Problem | None:
    """The problem of a file in an archive, or a cell, with more bytes than a limit (default: `MAX_FILE_BYTES`)."""
    limit = MAX_FILE_BYTES if limit is None else limit
    if size <= limit:
        return None
    return Problem(
        ProblemKind.TOO_LARGE, f"{where} has {size:,} bytes; the limit is {limit:,}.", "Exclude it, or make it smaller."
    )
