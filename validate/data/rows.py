"""What every form of data comes down to: rows of an image, its captions and its class."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ...runtime.bulk.items import IMAGES
from ...runtime.errors import InputError
from .images import Place

# What columns are called, the likeliest first; case does not matter. docs/data.md repeats them.
GUESSES: Final = {
    "image": ("image", "img", "file_name", "filename", "filepath", "file_path", "image_path", "path", "file"),
    "caption": ("caption", "captions", "text", "texts", "sentence", "sentences", "description"),
    "class": ("class", "label", "class_name", "label_name", "category", "cls"),
}
# Images all the same, in formats that siglip-onnx reads none of: they are told of, where notes and the like are not.
FOREIGN: Final = frozenset({".eps", ".heic", ".heif", ".jxl", ".psd", ".svg"})


@dataclass(frozen=True)
class DataOptions:
    """How data are read.

    Attributes:
        sample: How many images to draw without replacement; None takes all.
        seed: Which ones.
        image_column: Column of a table with the images; None looks for one of `GUESSES`, as do the next two.
        caption_column: Column, or key of a shard's .json members, with a caption or a list of them.
        class_column: Column, or key of a shard's .json members, with the name or number of a class.
        labels: A file of labels, one a line; None takes the `labels.txt` beside the data, if there is one.
        templates: Prompts that labels are put into, in the place of `{}`.
    """

    sample: int | None = None
    seed: int = 0
    image_column: str | None = None
    caption_column: str | None = None
    class_column: str | None = None
    labels: Path | None = None
    templates: tuple[str, ...] = ("{}",)


@dataclass(frozen=True)
class Row:
    """One image.

    Attributes:
        name: What it is called: a path below the data's folder, `shard.tar:member` or `table.parquet#row`.
        place: Where it is.
        captions: Texts that are true of it.
        label: Name or number of its class; None where it has none.
        where: Where its data stand, for errors.
    """

    name: str
    place: Place
    captions: tuple[str, ...]
    label: str | int | None
    where: str


@dataclass(frozen=True)
class Columns:
    """Which columns of a table, or keys of an object, hold what; None where nothing does."""

    image: str | None
    caption: str | None
    label: str | None


def columns(names: tuple[str, ...], options: DataOptions, where: str) -> Columns:
    """Find the columns by their names.

    Args:
        names: The columns that there are.
        options: Which columns the user named.
        where: Where they stand, for errors.

    Raises:
        InputError: A column that the user named is not there.
    """
    for column in (options.image_column, options.caption_column, options.class_column):
        if column is not None and column not in names:
            raise InputError(f"{where} has no column {column!r}.", f"It has {', '.join(names) or 'none'}.")
    return _found(names, options)


@functools.lru_cache(maxsize=64)
def _found(names: tuple[str, ...], options: DataOptions) -> Columns:
    known = {name.lower(): name for name in reversed(names)}

    def find(asked: str | None, role: str) -> str | None:
        return asked or next((known[guess] for guess in GUESSES[role] if guess in known), None)

    return Columns(
        find(options.image_column, "image"),
        find(options.caption_column, "caption"),
        find(options.class_column, "class"),
    )


def captions_of(value: Any, where: str) -> tuple[str, ...]:
    """The captions in a cell, each once; none where it holds nothing.

    Raises:
        InputError: It holds what is no text, or a text that is empty or no valid Unicode.
    """
    texts = list(value) if isinstance(value, list | tuple) else [] if value is None else [value]
    for text in texts:
        if not isinstance(text, str):
            raise InputError(
                f"{where} has a caption that is no text, but a {type(text).__name__}.",
                "Write a string, or a list of strings where there are several.",
            )
        if not text.strip() or not is_unicode(text):
            problem = "no valid Unicode" if text.strip() else "empty"
            raise InputError(f"{where} has a caption that is {problem}.", "Write what the image shows.")
    return tuple(dict.fromkeys(texts))


def lines_of(text: str) -> list[str]:
    """The captions in a text file, one a line, without white space around them; blank lines hold none."""
    return [line.strip() for line in text.split("\n") if line.strip()]


def label_of(value: Any, where: str) -> str | int | None:
    """The class in a cell.

    Raises:
        InputError: It is neither a name nor a number.
    """
    whole = isinstance(value, int) and not isinstance(value, bool)
    if value is None or whole or (isinstance(value, str) and value.strip() and is_unicode(value)):
        return value.strip() if isinstance(value, str) else value
    raise InputError(
        f"{where} has a class that is neither a name nor a whole number ({value!r}).",
        "Write the class's name, or its number among the labels, counted from 0.",
    )


def as_label(text: str) -> str | int:
    """A class as text writes it: digits are a number."""
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _DIGITS else text


_DIGITS: Final = 9  # of the number of a class; more are a name


def is_image(name: str) -> bool:
    """Whether a file's name is that of an image.

    Raises:
        InputError: It is that of an image that siglip-onnx cannot read.
    """
    ending = os.path.splitext(name)[1].lower()
    if ending in FOREIGN:
        raise InputError(f"{name} is an image of a format that is not read.", "Convert it to PNG or JPEG.")
    return ending in IMAGES


def relative_name(path: Path, folder: Path) -> str:
    """What a file below a folder is called.

    Raises:
        InputError: The name is no valid Unicode, so no report could hold it.
    """
    name = path.relative_to(folder).as_posix()
    if not is_unicode(name):
        raise InputError(
            f"A file in {printable(str(folder))} has a name that is no valid Unicode.", f"Rename {name!r}."
        )
    return name


def printable(name: str) -> str:
    """A file name that is no valid Unicode with marks where it is not."""
    return name.encode("utf-8", "replace").decode()


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded; names of files and JSON may hold halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
