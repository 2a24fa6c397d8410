"""What an artifact is judged on: pictures with captions, labels to choose among, and probes that provoke."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from ..runtime.errors import InputError
from ..runtime.files import sha256
from ..runtime.labels import read_labels
from .reference import Picture

BUNDLED: Final = Path(__file__).parent / "photos"
_FORM: Final = 'Each line of captions.jsonl is an object such as {"image": "cat.jpg", "text": "a cat"}.'

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
    """Pictures and texts.

    Attributes:
        name: What the report calls them.
        images: Pictures, with a name for each.
        pairs: Caption of each picture, in the order of `images`.
        labels: Texts to choose among.
        probes: Pictures of unusual form, for the pixels alone.
    """

    name: str
    images: dict[str, Picture]
    pairs: tuple[str, ...]
    labels: tuple[str, ...]
    probes: dict[str, Picture]

    @classmethod
    def read(cls, folder: Path | None = None) -> Samples:
        """Read `captions.jsonl` and, if there is one, `labels.txt` (a label a line) in a folder.

        Args:
            folder: Where they are; None for the photos that come with siglip-onnx.

        Raises:
            InputError: A file is missing or damaged.
        """
        name, folder = ("bundled photos", BUNDLED) if folder is None else (_printable(folder.resolve().name), folder)
        pairs = _captions(folder / "captions.jsonl")
        labels = folder / "labels.txt"
        choices = read_labels(labels.read_bytes(), str(labels)) if labels.exists() else list(pairs.values())
        images: dict[str, Picture] = {image: folder / image for image in pairs}
        return cls(name, images, tuple(pairs.values()), tuple(dict.fromkeys(choices)), picture_probes())

    @cached_property
    def sha256(self) -> str:
        """Hash over every picture and text; raises InputError for a picture that cannot be read."""
        whole = hashlib.sha256()
        for (name, image), text in zip(self.images.items(), self.pairs, strict=True):
            try:
                digest = sha256(image) if isinstance(image, Path) else "-"
            except OSError as error:
                raise InputError(f"{image} cannot be read ({error.strerror}).", "Correct captions.jsonl.") from error
            whole.update(json.dumps([name, digest, text]).encode())
        whole.update(json.dumps(self.labels).encode())
        return whole.hexdigest()

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text once: captions, labels and probes."""
        return tuple(dict.fromkeys((*self.pairs, *self.labels, *TEXT_PROBES)))


def picture_probes() -> dict[str, Picture]:
    """Pictures of unusual size and mode, the same at every call."""
    rng = np.random.default_rng(20240)

    def noise(*shape: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return rng.integers(0, 256, shape, dtype=np.uint8)

    return {
        "probe: noise 97x61": Image.fromarray(noise(61, 97, 3)),
        "probe: wide 700x3": Image.fromarray(noise(3, 700, 3)),
        "probe: tall 2x900": Image.fromarray(noise(900, 2, 3)),
        "probe: one pixel": Image.fromarray(noise(1, 1, 3)),
        "probe: large 1500x1100": Image.fromarray(noise(1100, 1500, 3)),
        "probe: grey": Image.fromarray(noise(50, 50)),
        "probe: transparent": Image.fromarray(noise(40, 60, 4)),
        "probe: palette": Image.fromarray(noise(64, 64)).convert("P"),
    }


def _captions(path: Path) -> dict[str, str]:
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}).", _FORM) from error
    pairs: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if line.strip():
            image, text = _caption(path, number, line)
            if image in pairs:
                raise InputError(f"Line {number} of {path} names {image} a second time.", "Keep one caption of it.")
            pairs[image] = text
    if not pairs:
        raise InputError(f"{path} is empty.", _FORM)
    return pairs


def _caption(path: Path, number: int, line: str) -> tuple[str, str]:
    try:
        row = json.loads(line)
        image, text = row["image"], row["text"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InputError(f"Line {number} of {path} is no caption ({error!r}).", _FORM) from error
    if not (isinstance(image, str) and isinstance(text, str) and _is_unicode(image + text)):
        raise InputError(f"Line {number} of {path} has a value that is no string of valid Unicode.", _FORM)
    if not (path.parent / image).is_file():
        raise InputError(f"Line {number} of {path} names {image}, which is not there.", "Correct the line.")
    return image, text


def _printable(name: str) -> str:
    """A file name that is no valid Unicode with marks where it is not."""
    return name.encode("utf-8", "replace").decode()


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
