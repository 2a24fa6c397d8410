"""Faults of single rows, and what happens to a row that has one: an error policy as data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, TypeVar

from ..errors import InputError


class ProblemKind(StrEnum):
    """The faults that a row can have."""

    NO_CONTENT = "no content"  # a cell holds no image or no text
    TOO_LARGE = "too large"
    NOT_JSON = "not JSON"  # or not a JSON object
    NOT_UTF8 = "not UTF-8"
    CELL_COUNT = "cell count"  # a line of a table has too few or too many cells
    FOLDER_LINK = "folder link"
    UNREAD_FORMAT = "unread format"  # an image in a format that siglip-onnx does not read
    HARD_LINK = "hard link"
    SPARSE = "sparse"
    SPECIAL_FILE = "special file"  # a symbolic link, a device or a pipe in an archive
    OUTSIDE_NAME = "outside name"  # a member of an archive whose name leads out of the archive


@dataclass(frozen=True)
class Problem:
    """A fault of one row.

    Attributes:
        kind: The fault.
        message: The row and its fault, a sentence.
        next_step: What the user can do, a sentence.
    """

    kind: ProblemKind
    message: str
    next_step: str

    def error(self) -> InputError:
        """The same as an exception."""
        return InputError(self.message, self.next_step)


class Action(StrEnum):
    """What happens to a row with a problem."""

    RAISE = "raise"  # an InputError
    RECORD = "record"  # the row is yielded with its problem
    SKIP = "skip"  # the row is left out
    USE = "use"  # the row is yielded without its problem


Policy = Mapping[ProblemKind, Action]

# `validate`: a verdict on part of the data would be a verdict on other data.
REFUSE: Final[Policy] = dict.fromkeys(ProblemKind, Action.RAISE)
# `embed`: one bad row must not stop a million others. Nothing is unpacked, so a member's name can do no harm.
RECORD: Final[Policy] = {
    ProblemKind.NO_CONTENT: Action.RECORD,
    ProblemKind.TOO_LARGE: Action.RECORD,
    ProblemKind.NOT_JSON: Action.RECORD,
    ProblemKind.NOT_UTF8: Action.RECORD,
    ProblemKind.CELL_COUNT: Action.RECORD,
    ProblemKind.FOLDER_LINK: Action.RECORD,
    ProblemKind.UNREAD_FORMAT: Action.SKIP,
    ProblemKind.HARD_LINK: Action.RECORD,
    ProblemKind.SPARSE: Action.RECORD,
    ProblemKind.SPECIAL_FILE: Action.SKIP,
    ProblemKind.OUTSIDE_NAME: Action.USE,
}


@dataclass(frozen=True, kw_only=True)
class DataRow:
    """One row of user data, good or bad.

    Attributes:
        where: The row in words, such as `Line 3 of a.csv`.
        problem: Its fault; None for a good row.
    """

    where: str
    problem: Problem | None = None


RowT = TypeVar("RowT", bound=DataRow)
ValueT = TypeVar("ValueT")


def apply_policy(rows: Iterable[RowT], policy: Policy) -> Iterator[RowT]:
    """The rows that a policy lets through, in order.

    Raises:
        InputError: A row has a problem that the policy raises.
    """
    for row in rows:
        action = policy[row.problem.kind] if row.problem is not None else Action.RECORD
        if row.problem is not None and action is Action.RAISE:
            raise row.problem.error()
        if action is not Action.SKIP:
            yield replace(row, problem=None) if action is Action.USE else row


def value_or_error(value: ValueT | Problem) -> ValueT:
    """A value that was read from a row.

    Raises:
        InputError: It could not be read.
    """
    if isinstance(value, Problem):
        raise value.error()
    return value
