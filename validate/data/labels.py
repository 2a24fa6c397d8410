"""Labels of evaluation data, from a file or from the classes of the images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ...runtime.errors import InputError
from ...runtime.preprocessing.prompts import read_labels
from .annotations import AnnotatedImage, DataOptions

LABELS_FILE: Final = "labels.txt"


def labels_in_file(path: Path, options: DataOptions) -> list[str]:
    """The labels in the file that the options name, or in `labels.txt` beside the data; empty without either.

    Args:
        path: The data.
        options: The file of labels.

    Raises:
        InputError: The file cannot be read.
    """
    file = options.labels or (path if path.is_dir() else path.parent) / LABELS_FILE
    if options.labels is None and not file.exists():
        return []
    try:
        return read_labels(file.read_bytes(), str(file))
    except OSError as error:
        raise InputError(f"The labels in {file} cannot be read ({error.strerror}).", "Correct its path.") from error


def number_classes(
    images: Sequence[AnnotatedImage], in_file: Sequence[str], class_names: Sequence[str]
) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """The labels, each once, and for each image the index of its class among them.

    Args:
        images: Images that all have a class.
        in_file: Labels in a file, in the order of the classes' numbers; empty without a file.
        class_names: Names of numbered classes that the data itself gives; empty without them.

    Raises:
        InputError: A class is not among the labels.
    """
    numbered = any(isinstance(image.label, int) for image in images)
    if numbered and in_file and class_names and len(in_file) != len(class_names):
        raise InputError(
            f"There are {len(in_file)} labels, but the data has {len(class_names)} numbered classes.",
            "Give a label for each class, in the order of the numbers.",
        )
    names = list(in_file or class_names) or sorted({image.label for image in images if isinstance(image.label, str)})
    labels = {name: i for i, name in enumerate(dict.fromkeys(names))}
    return tuple(labels), tuple(labels[_class_name(image, names, labels)] for image in images)


def _class_name(image: AnnotatedImage, names: Sequence[str], labels: dict[str, int]) -> str:
    if isinstance(image.label, str):
        if image.label not in labels:
            raise InputError(
                f"{image.where} has the class {image.label!r}, which is not a label.", "Add it to the labels."
            )
        return image.label
    number = -1 if image.label is None else image.label
    if not 0 <= number < len(names):
        raise InputError(
            f"{image.where} has the class {number}, but there are only {len(names)} labels.",
            f"Write the names of all classes into {LABELS_FILE} beside the data, one on each line, in their order.",
        )
    return names[number]
