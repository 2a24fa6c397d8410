"""Probes: unusual texts and images on which implementations of a tokenizer or of preprocessing tend to differ."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from PIL import ExifTags, Image

from ...runtime.arrays import ByteArray
from .images import ImageSource

# Texts on which tokenizers are known to differ: punctuation, case, white space, scripts, special tokens, length.
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


def image_probes() -> dict[str, ImageSource]:
    """Images of unusual size and mode, the same on every call."""
    rng = np.random.default_rng(20240)

    def noise(*shape: int) -> ByteArray:
        return rng.integers(0, 256, shape, dtype=np.uint8)

    return {
        "probe: noise 97x61": Image.fromarray(noise(61, 97, 3)),
        "probe: wide 700x3": Image.fromarray(noise(3, 700, 3)),
        "probe: tall 2x900": Image.fromarray(noise(900, 2, 3)),
        "probe: one pixel": Image.fromarray(noise(1, 1, 3)),
        "probe: large 1500x1100": Image.fromarray(noise(1100, 1500, 3)),
        "probe: gray": Image.fromarray(noise(50, 50)),
        "probe: palette": Image.fromarray(noise(64, 64)).convert("P"),
        **_transparent(noise),
        **_turned(noise(40, 60, 3)),
    }


def _transparent(noise: Callable[..., ByteArray]) -> dict[str, ImageSource]:
    """Images with transparency of every form: as opened images, as an array, and as files."""
    array, gray = noise(40, 60, 4), Image.fromarray(noise(30, 50))
    rgba, palette, gray_alpha = Image.fromarray(array), gray.convert("P"), gray.copy()
    gray_alpha.putalpha(Image.fromarray(noise(30, 50)))
    palette.info["transparency"] = bytes(range(256))
    one_color = Image.new("RGB", (20, 20), (255, 0, 0))
    one_color.info["transparency"] = (255, 0, 0)
    return {
        "probe: RGBA": rgba,
        "probe: RGBA array": array,
        "probe: RGBA in PNG": _file(rgba, "PNG"),
        "probe: RGBA in WebP": _file(rgba, "WEBP", lossless=True, exact=True),
        "probe: gray with alpha": gray_alpha,
        "probe: gray with alpha in PNG": _file(gray_alpha, "PNG"),
        "probe: palette with transparency": palette,
        "probe: palette with transparency in PNG": _file(palette, "PNG", transparency=bytes(range(256))),
        "probe: palette with one transparent color in GIF": _file(gray.convert("P"), "GIF", transparency=7),
        "probe: one transparent color": one_color,
        "probe: one transparent color in PNG": _file(one_color, "PNG", transparency=(255, 0, 0)),
    }


def _turned(pixels: ByteArray) -> dict[str, ImageSource]:
    """Files with every EXIF orientation but the usual one, and an opened image, which the reference does not turn."""
    probes: dict[str, ImageSource] = {}
    for orientation in range(2, 9):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        file = _file(Image.fromarray(pixels), "JPEG" if orientation % 2 else "PNG", exif=exif)
        probes[f"probe: orientation {orientation}"] = file
    opened = Image.open(io.BytesIO(file))
    opened.load()
    return {**probes, "probe: opened image of orientation 8": opened}


def _file(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()
