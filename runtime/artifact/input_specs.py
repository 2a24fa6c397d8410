"""How a text becomes ids, and how an image becomes pixels: the contract's sections `tokenizer` and `image`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Literal

import msgspec

from .inner_path import InnerPath


class Transparency(StrEnum):
    """Treatment of an alpha channel: a background of one color, or DROP, which ignores the channel.

    WHITE is what the reference does with an opened image (transformers 5.22 and later, `convert_to_rgb` in
    image_transforms.py); its versions from 4.57 to 5.20 DROP.
    """

    WHITE = "white"
    BLACK = "black"
    DROP = "drop"


class Orientation(StrEnum):
    """Which images are turned as their EXIF orientation says.

    FILES is what the reference does (transformers, `load_image` in image_utils.py): it turns an image that is given as
    a file, and leaves an opened image as it is.
    """

    FILES = "files"
    ALWAYS = "always"
    NEVER = "never"


@dataclass(frozen=True)
class TokenizerSpec:
    """How a text becomes ids, int64 [length].

    Attributes:
        file: The file of the vocabulary, read by `library`.
        lower_case: Lower-case letters, one code point at a time.
        special_pieces: Strings that become one id each where a text contains them, such as `</s>`.
        unk_piece: The unknown piece, which is put before every segment that sentencepiece encodes.
        eos_id: Id after the last id of each text.
        pad_id: Id that fills a short text up to `length`.
        length: Number of ids per text, including `eos_id` and padding; longer texts are truncated.
        vocab_size: Number of pieces in the vocabulary.
        canonicalization: The rule applied to a text before its vocabulary. docs/artifact.md describes `siglip`, which
            big_vision introduced (`canonicalize_text` in `prompt_engineering.py`); `gemma` only lower-cases, as SigLIP
            2 (arXiv:2502.14786) was trained.
        library: The library that reads `file`: sentencepiece for its own models, tokenizers for a tokenizer.json.
        padding_side: The side of the padding.
    """

    file: InnerPath
    lower_case: bool
    special_pieces: Annotated[dict[str, int], msgspec.Meta(min_length=1)]
    unk_piece: str
    eos_id: int
    pad_id: int
    length: Annotated[int, msgspec.Meta(ge=2, le=65536)]
    vocab_size: int
    canonicalization: Literal["siglip", "gemma"] = "siglip"
    library: Literal["sentencepiece", "tokenizers"] = "sentencepiece"
    padding_side: Literal["right"] = "right"


@dataclass(frozen=True)
class ImageSpec:
    """How an image becomes pixel_values, float32 [3, height, width], or patches of them.

    Attributes:
        height, width: Size of the resized image in pixels.
        filter: Name of Pillow's resampling filter.
        rescale: Factor from a byte to the scale of `mean` and `std`.
        mean, std: Subtracted after rescaling, and then divided by; per channel in `channel_order`.
        resize: `stretch` ignores the aspect ratio. `patches` keeps it, except for rounding to whole patches, and splits
            an image into at most `max_patches` squares of `patch_size` pixels (NaFlex, arXiv:2502.14786); `height` and
            `width` are then those of a square image.
        antialias: Always true: Pillow always antialiases.
        channel_order: Order of the channels in pixel_values.
        patch_size: Side of a patch in pixels, for `patches`.
        max_patches: Maximum number of patches per image, for `patches`.
        input: Input of the vision graph: `pixels` are normalized, float32 [batch, 3, height, width]; `bytes` are only
            resized, uint8 [batch, height, width, 3]; `image` is one image of any size, uint8 [height, width, 3].
        transparency: Treatment of an alpha channel.
        orientation: Which images are turned as their EXIF orientation says.
    """

    height: Annotated[int, msgspec.Meta(ge=1, le=8192)]
    width: Annotated[int, msgspec.Meta(ge=1, le=8192)]
    filter: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
    rescale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: Literal["stretch", "patches"] = "stretch"
    antialias: Literal[True] = True
    channel_order: Literal["RGB", "BGR"] = "RGB"
    patch_size: Annotated[int, msgspec.Meta(ge=1, le=1024)] | None = None
    max_patches: Annotated[int, msgspec.Meta(ge=1, le=65536)] | None = None
    input: Literal["pixels", "bytes", "image"] = "pixels"
    transparency: Transparency = Transparency.WHITE
    orientation: Orientation = Orientation.FILES

    def decoded_as(self, other: ImageSpec) -> ImageSpec:
        """Copy with the transparency and orientation of another spec, which no checkpoint's file holds."""
        return replace(self, transparency=other.transparency, orientation=other.orientation)
