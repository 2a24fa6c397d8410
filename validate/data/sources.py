"""The user's data: which form they have, and the images, captions and classes in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from ...runtime.errors import InputError
from ...runtime.preprocessing.prompts import read_labels
from .folders import read_images, walk
from .parquet import class_names, schema
from .rows import DataOptions, Row, columns, is_image, relative_name
from .tables import CAPTIONS, READERS, read_captions, read_table
from .tar import read_shard

LABELS: Final = "labels.txt"
_FORMS: Final = (
    "Give images in a folder, a table (.csv, .tsv, .jsonl, .parquet) or shards (.tar), as docs/data.md says."
)
_METADATA: Final = ("metadata.csv", "metadata.jsonl")  # tables by which Hugging Face's imagefolder knows its images
_ARCHIVES: Final = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")  # the packed ones are refused, and not left alone


@dataclass(frozen=True)
class DataSource:
    """What was found.

    Attributes:
        form: Which form the data have, in words.
        rows: The images, in the order of the data.
        labels: The labels that a file gives, or else the names of the classes, each once.
        classes: Which of these labels is each image's class; empty where images have no classes.
    """

    form: str
    rows: tuple[Row, ...]
    labels: tuple[str, ...]
    classes: tuple[int, ...]


@dataclass(frozen=True)
class _Found:
    """Form and rows, and the names of numbered classes where the data tell them."""

    form: str
    rows: Sequence[Row]
    names: Sequence[str] = ()


class _Kind(StrEnum):
    IMAGE = "images"
    TABLE = "a table"
    PARQUET = "parquet"
    SHARD = "shards"


def read(path: Path, options: DataOptions) -> DataSource:
    """Find out the form of some data and read them, all but the images.

    Args:
        path: A folder or file, in any of the forms of docs/data.md.
        options: Columns and labels; what is sampled and how labels are filled in is not decided here.

    Raises:
        InputError: They have no form that is known, are damaged, or hold no image; or some images have captions or
            a class and others have not.
        ProviderError: They are parquet, and pyarrow is missing.
    """
    found, given = _find(path, options), _given_labels(path, options)
    rows = tuple(found.rows)
    if not rows:
        raise InputError(f"{path} cannot be read as data: there is no image in it.", _FORMS)
    _check_names(rows)
    _check_all_or_none(rows, "caption", [bool(row.captions) for row in rows])
    _check_all_or_none(rows, "class", [row.label is not None for row in rows])
    labels = tuple(dict.fromkeys(given))
    return DataSource(found.form, rows, labels, ()) if rows[0].label is None else _with_classes(found, given)


def _find(path: Path, options: DataOptions) -> _Found:
    if path.is_dir():
        return _in_folder(path, options)
    if not path.exists():
        raise InputError(f"There is no {path}.", _FORMS)
    kind = _kind(path)
    if kind is None or kind is _Kind.IMAGE:
        raise InputError(f"{path} is a file of no form that can be read as data.", _FORMS)
    return _READERS[kind](path.parent, [path], options)


def _in_folder(folder: Path, options: DataOptions) -> _Found:
    if (folder / CAPTIONS).exists():
        _refuse_columns(options, folder)
        return _Found(CAPTIONS, read_captions(folder / CAPTIONS))
    metadata = [folder / name for name in _METADATA if (folder / name).exists()]
    if metadata:
        return _tables(folder, metadata[:1], options)
    files = walk(folder)
    kinds: dict[_Kind, list[Path]] = {}
    for path in _without_notes_on_shards(files):
        kind = _kind(path)
        if kind is not None:
            kinds.setdefault(kind, []).append(path)
    if len(kinds) > 1:
        several = " and ".join(f"{kind} ({paths[0].name})" for kind, paths in kinds.items())
        raise InputError(f"{folder} holds {several}, which could each be the data.", "Give one of them alone.")
    for kind, paths in kinds.items():
        return _READERS[kind](folder, files if kind is _Kind.IMAGE else paths, options)
    return _Found("", ())


def _kind(path: Path) -> _Kind | None:
    """What a file may be of; None for notes and the like."""
    if path.name.lower().endswith(_ARCHIVES):
        return _Kind.SHARD
    if path.suffix.lower() in READERS:
        return _Kind.PARQUET if path.suffix.lower() == ".parquet" else _Kind.TABLE
    return _Kind.IMAGE if is_image(path.name) else None


def _without_notes_on_shards(files: Sequence[Path]) -> list[Path]:
    """All but the tables that img2dataset writes about shards, beside each of them."""
    there = set(files)
    return [path for path in files if path.suffix != ".parquet" or path.with_suffix(".tar") not in there]


def _images(folder: Path, files: Sequence[Path], options: DataOptions) -> _Found:
    _refuse_columns(options, folder)
    return _Found(*read_images(folder, files))


def _tables(folder: Path, paths: Sequence[Path], options: DataOptions) -> _Found:
    if len(paths) > 1:
        raise InputError(f"{folder} has several tables, such as {paths[0].name}, {paths[1].name}.", "Give one of them.")
    return _Found(f"table {paths[0].name}", read_table(paths[0], paths[0].name, options))


def _parquet(folder: Path, paths: Sequence[Path], options: DataOptions) -> _Found:
    rows = [row for path in paths for row in read_table(path, relative_name(path, folder), options)]
    return _Found("parquet", rows, _class_names(folder, paths, options))


def _class_names(folder: Path, paths: Sequence[Path], options: DataOptions) -> Sequence[str]:
    known = {path: columns(schema(path)[0], options, str(path)).label for path in paths}
    names = {class_names(path, column) for path, column in known.items() if column is not None}
    if len(names) > 1:
        raise InputError(f"The files in {folder} call their classes differently.", "Give one of them alone.")
    return names.pop() if names else ()


def _shards(folder: Path, paths: Sequence[Path], options: DataOptions) -> _Found:
    if options.image_column:
        raise InputError(f"{folder} has shards, and so no column of images.", "Leave out --image-column.")
    return _Found(
        "webdataset shards", [row for path in paths for row in read_shard(path, relative_name(path, folder), options)]
    )


_READERS: Final[dict[_Kind, Callable[[Path, Sequence[Path], DataOptions], _Found]]] = {
    _Kind.IMAGE: _images,
    _Kind.TABLE: _tables,
    _Kind.PARQUET: _parquet,
    _Kind.SHARD: _shards,
}


def _refuse_columns(options: DataOptions, folder: Path) -> None:
    asked = options.image_column or options.caption_column or options.class_column
    if asked:
        raise InputError(f"{folder} is no table, so it has no column {asked!r}.", "Name columns of tables alone.")


def _given_labels(path: Path, options: DataOptions) -> list[str]:
    """The labels of a file, some perhaps twice; none where there is no file."""
    file = options.labels or (path if path.is_dir() else path.parent) / LABELS
    if options.labels is None and not file.exists():
        return []
    try:
        return read_labels(file.read_bytes(), str(file))
    except OSError as error:
        raise InputError(f"The labels in {file} cannot be read ({error.strerror}).", "Correct its path.") from error


def _check_names(rows: Sequence[Row]) -> None:
    first: dict[str, Row] = {}
    for row in rows:
        if first.setdefault(row.name, row) is not row:
            raise InputError(
                f"{row.where} names {row.name}, as {first[row.name].where} does.", "Have every image in one file."
            )


def _check_all_or_none(rows: Sequence[Row], what: str, there: Sequence[bool]) -> None:
    if any(there) and not all(there):
        row = rows[list(there).index(False)]
        raise InputError(
            f"{row.where} gives {row.name} no {what}, and {sum(there)} other images have one.",
            f"Give every image a {what}, or none.",
        )


def _with_classes(found: _Found, given: Sequence[str]) -> DataSource:
    """With the classes of images as places among the labels."""
    numbered = any(isinstance(row.label, int) for row in found.rows)
    if numbered and given and found.names and len(given) != len(found.names):
        raise InputError(
            f"The data have {len(found.names)} numbered classes, and there are {len(given)} labels.",
            "Give a label for each, in the order of their numbers.",
        )
    names = list(given or found.names) or sorted({row.label for row in found.rows if isinstance(row.label, str)})
    labels = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return DataSource(
        found.form, tuple(found.rows), tuple(labels), tuple(labels[_class(row, names, labels)] for row in found.rows)
    )


def _class(row: Row, names: Sequence[str], labels: dict[str, int]) -> str:
    """The name of an image's class."""
    if isinstance(row.label, str):
        if row.label not in labels:
            raise InputError(f"{row.where} has the class {row.label!r}, which is no label.", "Add it to the labels.")
        return row.label
    place = -1 if row.label is None else row.label
    if not 0 <= place < len(names):
        raise InputError(
            f"{row.where} has the class {place}, and there are {len(names)} labels to count among.",
            f"Write the names of all classes into {LABELS} beside the data, a line each, in their order.",
        )
    return names[place]
