"""Text files and cells of text: UTF-8, and UTF-16 with a byte order mark."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError
from .policy import Problem, ProblemKind


def _encoding(start: bytes) -> str:
    """The encoding of a file by its first two bytes; both codecs remove the byte order mark."""
    return "utf-16" if start[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def decode_text(data: bytes, where: str) -> str | Problem:
    """The text in the bytes of a file, or the problem with them."""
    try:
        return data.decode(_encoding(data))
    except UnicodeDecodeError as error:
        message = f"{where} is not UTF-8 ({error.reason} at byte {error.start})."
        return Problem(ProblemKind.NOT_UTF8, message, "Save it as UTF-8.")


def decoded_lines(path: str | Path) -> Iterator[str]:
    """The lines of a file in UTF-8, or in UTF-16 with a byte order mark, with their ends.

    Raises:
        InputError: The file cannot be read, or is not UTF-8.
    """
    try:
        with (
            Path(path).open("rb") as file,
            io.TextIOWrapper(file, encoding=_encoding(file.peek(2)), newline="") as lines,
        ):
            yield from lines
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error.reason}).", "Save it as UTF-8.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).", "Check that it exists.") from error
