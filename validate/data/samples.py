"""What an artifact is judged on: images with captions, labels to choose among, and probes that provoke."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from ...runtime.errors import InputError
from ...runtime.preprocessing.prompts import format_prompts
from . import sources
from .images import Images, ImageSource
from .rows import DataOptions, Row, printable

__all__ = ["BUNDLED", "TEXT_PROBES", "DataOptions", "Samples", "drawn", "image_probes"]

_MOST_LABELS: Final = 1000  # of captions; a table of all with all would grow with the square of the data
BUNDLED: Final = Path(__file__).parent / "photos"

# Texts on which tokenizers are known to disagree: punctuation, case, white space, scripts, specials, length.
TEXT_PROBES: Final = (
    "",
    " ",
    "a",
    "A Photo of a CAT.",
    "  two   spaces\tand\na line  ",
    "AI/ML",
    "<front>",
    "a/b\\c_d.e,f;g:h?i!",
    'it\'s "quoted" (twice) [thrice] {never}',
    "100% of $5 & #1 @ 2^3 = 8 ~ *",
    "set_001/IMG-20260827.JPG",
    "a photo of a </s> cat",
    "an <unk> word",
    "</s>",
    "cat</s></s>dog",
    "</S> is no end",
    "café déjà vu naïve Zürich",
    "cafe\u0301",
    "İSTANBUL ΣΟΣ ẞ ŉ",
    "ﬁne ½ ² Ⅷ ™ ﷺ",
    "Ｆｕｌｌｗｉｄｔｈ 模特",
    "藍色長髮的角色肖像",
    "青い髪のコスプレイヤー",
    "한국어 텍스트",
    "персонаж в красных доспехах",
    "نص عربي",
    "שָׁלוֹם",
    "हिन्दी",
    "🦊🐱‍👤👩🏽‍🚀🇫🇷",
    "blue\u200bhair\u2060portrait\ufeff",
    "\u3000ideographic\u3000space\xa0",
    "\x00\x01\x1f\x7f\x85",
    "▁already▁marked",
    "x" * 300,
    "the quick brown fox jumps over the lazy dog " * 20,
    "🦊" * 100,
)


@dataclass(frozen=True)
class Samples:
    """Images and texts.

    Attributes:
        name: What the report calls them.
        form: Which form they had, in words.
        images: The images by name; none is held in memory.
        captions: Texts that are true of each image, one at least, in the order of `images`; empty where images
            have no captions.
        classes: Which of `labels` is each image's class, in the order of `images`; empty where they have none.
        labels: Texts to choose among, each once.
        templates: Prompts that labels are put into, in the place of `{}`.
        probes: Images of unusual form, for the pixels alone.
        sample: How many images were drawn out of how many, and by which seed; empty where all were taken.
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
        """Read data in any of the forms of docs/data.md; images are looked at when they are asked for.

        Labels are those of `options.labels` or of a `labels.txt` beside the data, else the classes, else the first
        captions of the images that are taken, a thousand at most.

        Args:
            path: A folder or file; None for the photos that come with siglip-onnx.
            options: How to read them, and how many images to take.

        Raises:
            InputError: A file is missing or damaged, there is no image, or an option makes no sense.
            ProviderError: They are parquet, and pyarrow is missing.
        """
        options, folder = options or DataOptions(), BUNDLED if path is None else path
        format_prompts(options.templates, ())
        source = sources.read(folder, options)
        chosen = drawn([row.name for row in source.rows], options)
        rows = [source.rows[i] for i in chosen]
        count, total = len(rows), len(source.rows)
        return cls(
            name="bundled photos" if path is None else printable(folder.resolve().name),
            form=source.form,
            images=Images({row.name: row.place for row in rows}),
            captions=tuple(row.captions for row in rows) if rows[0].captions else (),
            classes=tuple(source.classes[i] for i in chosen) if source.classes else (),
            labels=source.labels or _some_captions(rows, options.seed),
            templates=options.templates,
            probes=image_probes(),
            sample=f"{count} of {total}, seed {options.seed}" if count < total else "",
            bundled=path is None,
        )

    def subset(self, rows: Iterable[int]) -> Samples:
        """The same with some images alone, counted from 0 and in the order given."""
        names, chosen = list(self.images), list(rows)
        return replace(
            self,
            images=self.images.some(names[i] for i in chosen),
            captions=tuple(self.captions[i] for i in chosen) if self.captions else (),
            classes=tuple(self.classes[i] for i in chosen) if self.classes else (),
        )

    @property
    def pairs(self) -> tuple[str, ...]:
        """The first caption of each image, in the order of `images`; empty where they have none."""
        return tuple(own[0] for own in self.captions)

    @cached_property
    def sha256(self) -> str:
        """Hash over every image and text; raises InputError for an image that cannot be read."""
        whole = hashlib.sha256()
        for name, own in zip(self.images, self.captions or [()] * len(self.images), strict=True):
            whole.update(json.dumps([name, self.images.digest(name), *own]).encode())
        whole.update(json.dumps(self.labels).encode())
        if self.classes or self.templates != DataOptions.templates:  # data without them are hashed as ever
            whole.update(json.dumps([self.classes, self.templates]).encode())
        return whole.hexdigest()

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Every text once: captions, labels in their templates, and probes."""
        captions = (text for own in self.captions for text in own)
        prompts = (text for filled in format_prompts(self.templates, self.labels) for text in filled)
        return tuple(dict.fromkeys((*captions, *prompts, *TEXT_PROBES)))


def _some_captions(rows: Sequence[Row], seed: int) -> tuple[str, ...]:
    """First captions to choose among, where nobody named labels; a thousand of them where there are more."""
    every = list(dict.fromkeys(row.captions[0] for row in rows if row.captions))
    return tuple(every[i] for i in drawn(every, DataOptions(sample=_MOST_LABELS, seed=seed)))


def drawn(names: Sequence[str], options: DataOptions) -> list[int]:
    """Places of the images that are drawn, in ascending order; all of them if no more are asked for than there are.

    An image is drawn if the hash of its name and the seed is among the smallest. So a sample depends on names alone
    and no library's random numbers, is the same everywhere, and a larger one has all of a smaller one.

    Raises:
        InputError: Less than one image is asked for.
    """
    if options.sample is None:
        return list(range(len(names)))
    if options.sample < 1:
        raise InputError(f"A sample of {options.sample} images has nothing to judge by.", "Ask for one at least.")

    def rank(place: int) -> bytes:
        return hashlib.sha256(f"{options.seed}\n{names[place]}".encode()).digest()

    return sorted(sorted(range(len(names)), key=rank)[: options.sample])


def image_probes() -> dict[str, ImageSource]:
    """Images of unusual size and mode, the same at every call."""
    rng = np.random.default_rng(20240)

    def noise(*shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return rng.integers(0, 256, shape, dtype=np.uint8)

    return {
        "probe: noise 97x61": Image.fromarray(noise(61, 97, 3)),
        "probe: wide 700x3": Image.fromarray(noise(3, 700, 3)),
        "probe: tall 2x900": Image.fromarray(noise(900, 2, 3)),
        "probe: one pixel": Image.fromarray(noise(1, 1, 3)),
        "probe: large 1500x1100": Image.fromarray(noise(1100, 1500, 3)),
        "probe: gray": Image.fromarray(noise(50, 50)),
        "probe: transparent": Image.fromarray(noise(40, 60, 4)),
        "probe: palette": Image.fromarray(noise(64, 64)).convert("P"),
    }
