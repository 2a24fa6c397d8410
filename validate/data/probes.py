"""Probes: unusual texts and images on which implementations of a tokenizer or of preprocessing tend to differ."""

from __future__ import annotations

from typing import Final

import numpy as np
from PIL import Image

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
        "probe: transparent": Image.fromarray(noise(40, 60, 4)),
        "probe: palette": Image.fromarray(noise(64, 64)).convert("P"),
    }
