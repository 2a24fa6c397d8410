"""Text files and cells of text: UTF-8 alone, with or without a byte order mark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError
from .policy import Problem, ProblemKind


def decode_utf8(data: bytes, where: str) -> str | Problem:
    """The text in the bytes of a file, or the problem with them."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"{where} is not UTF-8 ({error.reason} at byte {error.start})."
        return Problem(ProblemKind.NOT_UTF8, message, "Save it as UTF-8.")


def decoded_lines(path: str | Path) -> Iterator[str]:
    """The lines of a UTF-8 file, with their ends.

    Raises:
        InputError: The file cannot be read, or is not UTF-8.
    """
    try:
        with Path(path).open(encoding="utf-8-sig", newline="") as file:
            yield from file
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 ({error.reason}).", "Save it as UTF-8.") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}).", "Check that it exists.") from error
