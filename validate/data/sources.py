"""The form of the user's data, and the images, captions and classes in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from ...runtime.data.images import is_image, suffix, unread_format
from ...runtime.data.parquet import ParquetTable
from ...runtime.data.tables import TABLE_SUFFIXES
from ...runtime.data.tar import ARCHIVE_SUFFIXES
from ...runtime.errors import InputError
from .annotations import AnnotatedImage, DataOptions, find_columns, relative_name
from .folders import list_files, read_images
from .labels import labels_in_file, number_classes
from .tables import CAPTIONS, class_names, read_captions, read_table
from .webdataset import read_shard

_FORMS: Final = "Give images in a folder, a table (.csv, .tsv, .jsonl, .parquet) or shards (.tar); see docs/data.md."
_METADATA: Final = ("metadata.csv", "metadata.jsonl")  # as in Hugging Face's imagefolder
# Compressed archives are listed so that they are refused instead of ignored.
_SHARD_SUFFIXES: Final = (*ARCHIVE_SUFFIXES, ".tar.bz2", ".tar.xz")


@dataclass(frozen=True)
class DataSource:
    """The content of the user's data.

    Attributes:
        form: The form of the data, in words.
        images: The images, in the order of the data.
        labels: The labels in a file, or else the names of the classes, each once.
        classes: For each image the index of its class in `labels`; empty if the images have no classes.
    """

    form: str
    images: tuple[AnnotatedImage, ...]
    labels: tuple[str, ...]
    classes: tuple[int, ...]


@dataclass(frozen=True)
class _Content:
    """Form and images, and the names of numbered classes if the data itself gives them."""

    form: str
    images: Sequence[AnnotatedImage]
    class_names: Sequence[str] = ()


class _Form(StrEnum):
    IMAGES = "images"
    TABLE = "a table"
    PARQUET = "parquet"
    SHARDS = "shards"


def read_source(path: Path, options: DataOptions) -> DataSource:
    """Detect the form of some data and read all of it except the images.

    Args:
        path: A folder or file, in any of the forms of docs/data.md.
        options: Columns and labels; `Samples.read` applies the sample and the templates.

    Raises:
        InputError: The data has no known form, is damaged, or holds no image; or only some of the images have a caption
            or a class.
        ProviderError: The data is parquet, and pyarrow is not installed.
    """
    content, in_file = _read(path, options), labels_in_file(path, options)
    images = tuple(content.images)
    if not images:
        raise InputError(f"{path} holds no image.", _FORMS)
    _check_names(images)
    _check_all_or_none(images, "caption", [bool(image.captions) for image in images])
    _check_all_or_none(images, "class", [image.label is not None for image in images])
    if images[0].label is None:
        return DataSource(content.form, images, tuple(dict.fromkeys(in_file)), ())
    return DataSource(content.form, images, *number_classes(images, in_file, content.class_names))


def _read(path: Path, options: DataOptions) -> _Content:
    if path.is_dir():
        return _read_folder(path, options)
    if not path.exists():
        raise InputError(f"{path} does not exist.", _FORMS)
    form = _form(path)
    if form is None or form is _Form.IMAGES:
        raise InputError(f"{path} has no form that can be read as evaluation data.", _FORMS)
    return _READERS[form](path.parent, [path], options)


def _read_folder(folder: Path, options: DataOptions) -> _Content:
    if (folder / CAPTIONS).exists():
        _refuse_columns(options, folder)
        return _Content(CAPTIONS, read_captions(folder / CAPTIONS))
    metadata = [folder / name for name in _METADATA if (folder / name).exists()]
    if metadata:
        return _read_tables(folder, metadata[:1], options)
    files = list_files(folder)
    forms: dict[_Form, list[Path]] = {}
    for path in _without_shard_metadata(files):
        form = _form(path)
        if form is not None:
            forms.setdefault(form, []).append(path)
    if len(forms) > 1:
        several = " and ".join(f"{form} ({paths[0].name})" for form, paths in forms.items())
        raise InputError(f"{folder} holds {several}, and each could be the data.", "Give one of them.")
    for form, paths in forms.items():
        return _READERS[form](folder, files if form is _Form.IMAGES else paths, options)
    return _Content("", ())


def _form(path: Path) -> _Form | None:
    """The form of data that a file belongs to; None for notes and other files."""
    if path.name.lower().endswith(_SHARD_SUFFIXES):
        return _Form.SHARDS
    if suffix(path.name) in TABLE_SUFFIXES:
        return _Form.PARQUET if suffix(path.name) == ".parquet" else _Form.TABLE
    problem = unread_format(path.name)
    if problem is not None:
        raise problem.error()
    return _Form.IMAGES if is_image(path.name) else None


def _without_shard_metadata(files: Sequence[Path]) -> list[Path]:
    """All files except the tables that img2dataset writes about shards, one beside each."""
    existing = set(files)
    return [path for path in files if path.suffix != ".parquet" or path.with_suffix(".tar") not in existing]


def _read_images(folder: Path, files: Sequence[Path], options: DataOptions) -> _Content:
    _refuse_columns(options, folder)
    return _Content(*read_images(folder, files))


def _read_tables(folder: Path, paths: Sequence[Path], options: DataOptions) -> _Content:
    if len(paths) > 1:
        raise InputError(
            f"{folder} holds several tables, such as {paths[0].name} and {paths[1].name}.", "Give one of them."
        )
    return _Content(f"table {paths[0].name}", read_table(paths[0], paths[0].name, options))


def _read_parquet(folder: Path, paths: Sequence[Path], options: DataOptions) -> _Content:
    images = [image for path in paths for image in read_table(path, relative_name(path, folder), options)]
    return _Content("parquet", images, _class_names(folder, paths, options))


def _class_names(folder: Path, paths: Sequence[Path], options: DataOptions) -> Sequence[str]:
    columns = {path: find_columns(ParquetTable(path).columns, options, str(path)).label for path in paths}
    names = {class_names(path, column) for path, column in columns.items() if column is not None}
    if len(names) > 1:
        raise InputError(f"The files in {folder} have different names for their classes.", "Give one of the files.")
    return names.pop() if names else ()


def _read_shards(folder: Path, paths: Sequence[Path], options: DataOptions) -> _Content:
    if options.image_column:
        raise InputError(f"{folder} holds shards, which have no column of images.", "Remove image_column.")
    images = [image for path in paths for image in read_shard(path, relative_name(path, folder), options)]
    return _Content("webdataset shards", images)


_READERS: Final[dict[_Form, Callable[[Path, Sequence[Path], DataOptions], _Content]]] = {
    _Form.IMAGES: _read_images,
    _Form.TABLE: _read_tables,
    _Form.PARQUET: _read_parquet,
    _Form.SHARDS: _read_shards,
}


def _refuse_columns(options: DataOptions, folder: Path) -> None:
    for column in options.named_columns:
        raise InputError(f"{folder} is not a table, so it has no column {column!r}.", "Name columns for tables only.")


def _check_names(images: Sequence[AnnotatedImage]) -> None:
    first: dict[str, AnnotatedImage] = {}
    for image in images:
        if first.setdefault(image.name, image) is not image:
            raise InputError(
                f"{image.where} names {image.name}, and so does {first[image.name].where}.",
                "Keep each image in one file only.",
            )


def _check_all_or_none(images: Sequence[AnnotatedImage], annotation: str, present: Sequence[bool]) -> None:
    if any(present) and not all(present):
        image = images[list(present).index(False)]
        raise InputError(
            f"{image.where} gives {image.name} no {annotation}, but {sum(present)} other images have one.",
            f"Give every image a {annotation}, or none.",
        )
