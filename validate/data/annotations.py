"""Captions and classes of images, as cells of tables and files beside images write them."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ...runtime.data.images import ImagePlace
from ...runtime.data.rows import require_columns
from ...runtime.errors import InputError

# Names of columns, the likeliest first, in any case. docs/data.md repeats them.
COLUMN_NAMES: Final = {
    "image": ("image", "img", "file_name", "filename", "filepath", "file_path", "image_path", "path", "file"),
    "caption": ("caption", "captions", "text", "texts", "sentence", "sentences", "description"),
    "class": ("class", "label", "class_name", "label_name", "category", "cls"),
}
_MAX_DIGITS: Final = 9  # of a class's number; a longer one is a name


@dataclass(frozen=True)
class DataOptions:
    """How evaluation data are read.

    Attributes:
        sample: How many images to draw without replacement; None takes all.
        seed: The seed of the draw.
        image_column: Column of a table with the images; None finds it by `COLUMN_NAMES`, as for the next two.
        caption_column: Column, or key of a shard's .json members, with a caption or a list of captions.
        class_column: Column, or key of a shard's .json members, with the name or number of a class.
        labels: A file of labels, one on each line; None takes the `labels.txt` beside the data, if there is one.
        templates: Prompts for the labels; `{}` stands for a label.
    """

    sample: int | None = None
    seed: int = 0
    image_column: str | None = None
    caption_column: str | None = None
    class_column: str | None = None
    labels: Path | None = None
    templates: tuple[str, ...] = ("{}",)

    @property
    def named_columns(self) -> tuple[str, ...]:
        """The columns that the user named."""
        columns = (self.image_column, self.caption_column, self.class_column)
        return tuple(column for column in columns if column)


@dataclass(frozen=True)
class AnnotatedImage:
    """One image with its captions and its class.

    Attributes:
        name: Its name: a path below the data's folder, `shard.tar:member` or `table.parquet#row`.
        place: Where its file lies.
        captions: Texts that are true of it.
        label: Name or number of its class; None if it has none.
        where: Where it was found, for errors.
    """

    name: str
    place: ImagePlace
    captions: tuple[str, ...]
    label: str | int | None
    where: str


@dataclass(frozen=True)
class Columns:
    """The columns of a table, or keys of an object, with the images, captions and classes; None for a missing one."""

    image: str | None
    caption: str | None
    label: str | None


def find_columns(names: tuple[str, ...], options: DataOptions, where: str) -> Columns:
    """Find the columns by their names.

    Args:
        names: All columns.
        options: The columns that the user named.
        where: The table in words, for errors.

    Raises:
        InputError: A column that the user named does not exist.
    """
    require_columns((options.image_column, options.caption_column, options.class_column), names, where)
    return _find_columns(names, options)


@functools.lru_cache(maxsize=64)
def _find_columns(names: tuple[str, ...], options: DataOptions) -> Columns:
    by_lower_case = {name.lower(): name for name in reversed(names)}

    def find(named: str | None, role: str) -> str | None:
        return named or next((by_lower_case[name] for name in COLUMN_NAMES[role] if name in by_lower_case), None)

    return Columns(
        find(options.image_column, "image"),
        find(options.caption_column, "caption"),
        find(options.class_column, "class"),
    )


def captions_of(value: Any, where: str) -> tuple[str, ...]:
    """The captions in a cell, each once; empty if the cell holds nothing.

    Raises:
        InputError: A caption is not a string, is empty, or is not valid Unicode.
    """
    texts = list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
    for text in texts:
        if not isinstance(text, str):
            raise InputError(
                f"{where} has a caption of type {type(text).__name__}, expected a string.",
                "Write a string, or a list of strings for several captions.",
            )
        if not text.strip() or not is_unicode(text):
            fault = "not valid Unicode" if text.strip() else "empty"
            raise InputError(f"{where} has a caption that is {fault}.", "Describe the image in it.")
    return tuple(dict.fromkeys(texts))


def lines_of(text: str) -> list[str]:
    """The captions in a text file, one on each line, without surrounding white space and blank lines."""
    return [line.strip() for line in text.split("\n") if line.strip()]


def label_of(value: Any, where: str) -> str | int | None:
    """The class in a cell.

    Raises:
        InputError: The cell holds neither a name nor a whole number.
    """
    is_number = isinstance(value, int) and not isinstance(value, bool)
    if value is None or is_number or (isinstance(value, str) and value.strip() and is_unicode(value)):
        return value.strip() if isinstance(value, str) else value
    raise InputError(
        f"{where} has the class {value!r}, expected a name or a whole number.",
        "Write the class's name, or its number among the labels, counted from 0.",
    )


def parse_label(text: str) -> str | int:
    """A class written as text: digits are a number."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else text


def relative_name(path: Path, folder: Path) -> str:
    """The name of a file below a folder, with `/` between its parts.

    Raises:
        InputError: The name is not valid Unicode, so no report could hold it.
    """
    name = path.relative_to(folder).as_posix()
    if not is_unicode(name):
        raise InputError(
            f"A file in {printable(str(folder))} has a name that is not valid Unicode.", f"Rename {name!r}."
        )
    return name


def printable(name: str) -> str:
    """A file name with `?` for every character that is not valid Unicode."""
    return name.encode("utf-8", "replace").decode()


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded; file names and JSON may hold lone surrogates, which cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
