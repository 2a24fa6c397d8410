"""Labels: what they are in an answer, and files with one a line."""

from __future__ import annotations

from dataclasses import dataclass

from .errors import InputError


@dataclass(frozen=True)
class Label:
    """A label and the probability that it is true of an image; SigLIP's probabilities do not add up to one."""

    label: str
    probability: float


def read_labels(data: bytes, name: str) -> list[str]:
    """The lines of a UTF-8 file that are not blank, without white space around them.

    Args:
        data: Content of the file; a byte order mark is ignored.
        name: What an error calls it.

    Raises:
        InputError: It is not UTF-8, or has no label.
    """
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 ({error.reason} at byte {error.start}).", "Save it as UTF-8.") from error
    labels = [stripped for line in lines if (stripped := line.strip())]
    if not labels:
        raise InputError(f"{name} has no label.", "Write a label on each line.")
    return labels
