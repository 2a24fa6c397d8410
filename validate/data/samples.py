"""The data that an artifact is validated on: images with captions or classes, labels, and probes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final

from ...runtime.errors import InputError
from ...runtime.preprocessing.prompts import format_prompts
from .annotations import AnnotatedImage, DataOptions, printable
from .images import Images, ImageSource
from .probes import TEXT_PROBES, image_probes
from .sources import read_source

__all__ = ["BUNDLED", "TEXT_PROBES", "DataOptions", "Samples", "draw_sample", "image_probes"]

_MAX_CAPTION_LABELS: Final = 1000  # with all captions as labels, logits would grow with the square of the data
BUNDLED: Final = Path(__file__).parent / "photos"


@dataclass(frozen=True)
class Samples:
    """Evaluation data.

    Attributes:
        name: Its name in reports.
        form: The form that it was read from, in words.
        images: The images by name; none is kept in memory.
        captions: For each image at least one text that is true of it, in the order of `images`; empty if the images
            have no captions.
        classes: For each image the index of its class in `labels`, in the order of `images`; empty if the images have
            no classes.
        labels: Texts for zero-shot classification, each once.
        templates: Prompts for the labels; `{}` stands for a label.
        probes: Images of unusual size or mode, for the preprocessing checks only.
        sample: The number of images drawn, of all images, and the seed; empty if all images were taken.
        bundled: Whether these are the photos that come with siglip-onnx.
    """

    name: str
    form: str
    images: Images
    captions: tuple[tuple[str, ...], ...]
    classes: tuple[int, ...]
    labels: tuple[str, ...]
    templates: tuple[str, ...]
    probes: dict[str, ImageSource]
    sample: str = ""
    bundled: bool = False

    @classmethod
    def read(cls, path: Path | None = None, options: DataOptions | None = None) -> Samples:
        """Read data in any of the forms of docs/data.md. Images are opened on demand.

        The labels are those of `options.labels` or of a `labels.txt` beside the data, else the classes, else the first
        captions of the images taken, at most a thousand.

        Args:
            path: A folder or file; None for the photos that come with siglip-onnx.
            options: How to read the data, and how many images to take.

        Raises:
            InputError: A file is missing or damaged, there is no image, or an option does not fit the data.
            ProviderError: The data is parquet, and pyarrow is not installed.
        """
        options, folder = options or DataOptions(), BUNDLED if path is None else path
        format_prompts(options.templates, ())
        source = read_source(folder, options)
        chosen = draw_sample([image.name for image in source.images], options)
        images = [source.images[i] for i in chosen]
        count, total = len(images), len(source.images)
        return cls(
            name="bundled photos" if path is None else printable(folder.resolve().name),
            form=source.form,
            images=Images({image.name: image.place for image in images}),
            captions=tuple(image.captions for image in images) if images[0].captions else (),
            classes=tuple(source.classes[i] for i in chosen) if source.classes else (),
            labels=source.labels or _caption_labels(images, options.seed),
            templates=options.templates,
            probes=image_probes(),
            sample=f"{count} of {total}, seed {options.seed}" if count < total else "",
            bundled=path is None,
        )

    def subset(self, rows: Iterable[int]) -> Samples:
        """The same data with only some of the images: their indices from 0, in the order given."""
        names, chosen = list(self.images), list(rows)
        return replace(
            self,
            images=self.images.select(names[i] for i in chosen),
            captions=tuple(self.captions[i] for i in chosen) if self.captions else (),
            classes=tuple(self.classes[i] for i in chosen) if self.classes else (),
        )

    @property
    def pairs(self) -> tuple[str, ...]:
        """The first caption of each image, in the order of `images`; empty if they have none."""
        return tuple(own[0] for own in self.captions)

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over every image, caption, label, class and template; raises InputError for an unreadable image."""
        total = hashlib.sha256()
        for name, own in zip(self.images, self.captions or [()] * len(self.images), strict=True):
            total.update(json.dumps([name, self.images.digest(name), *own]).encode())
        total.update(json.dumps(self.labels).encode())
        if (
            self.classes or self.templates != DataOptions.templates
        ):  # absent ones keep the hashes of older reports valid
            total.update(json.dumps([self.classes, self.templates]).encode())
        return total.hexdigest()

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Every text once: captions, labels in their templates, and probes."""
        captions = (text for own in self.captions for text in own)
        prompts = (text for prompts in format_prompts(self.templates, self.labels) for text in prompts)
        return tuple(dict.fromkeys((*captions, *prompts, *TEXT_PROBES)))


def _caption_labels(images: Sequence[AnnotatedImage], seed: int) -> tuple[str, ...]:
    """First captions as labels, for data without labels: all of them, or a thousand drawn from them."""
    captions = list(dict.fromkeys(image.captions[0] for image in images if image.captions))
    return tuple(captions[i] for i in draw_sample(captions, DataOptions(sample=_MAX_CAPTION_LABELS, seed=seed)))


def draw_sample(names: Sequence[str], options: DataOptions) -> list[int]:
    """Indices of the images drawn, in ascending order; all of them if there are no more than `options.sample`.

    The images drawn are those with the smallest hashes of seed and name. So a sample depends on names alone and on no
    library's random numbers, is the same on every machine, and a larger sample contains every smaller one.

    Raises:
        InputError: `options.sample` is less than 1.
    """
    if options.sample is None:
        return list(range(len(names)))
    if options.sample < 1:
        raise InputError(f"sample must be at least 1, got {options.sample}.", "Draw at least one image.")

    def rank(index: int) -> bytes:
        return hashlib.sha256(f"{options.seed}\n{names[index]}".encode()).digest()

    return sorted(sorted(range(len(names)), key=rank)[: options.sample])
