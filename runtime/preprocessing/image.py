"""Images to pixel_values, bit for bit as the reference (transformers' PIL `SiglipImageProcessor`) makes them."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from ..artifact.contract import ImageSpec
from ..errors import InputError

Row = NDArray[Any]
ImageInput = str | Path | bytes | Image.Image | NDArray[np.generic]

# Raster formats whose decoders are part of Pillow; EPS, for one, would start Ghostscript.
FORMATS: Final = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
# Those that Pillow knows from the start; the others' decoders take 15 ms and 3 MB to load.
_COMMON: Final = ("BMP", "GIF", "JPEG", "PNG", "PPM")
# Pillow warns above this many pixels (a 256 MiB RGB image) that a file may be a decompression bomb.
MAX_PIXELS: Final = 89_478_485


_loading: Final = threading.Lock()


class Transparency(StrEnum):
    """What becomes of an alpha channel: DROP forgets it, as the reference does; WHITE and BLACK paint behind it."""

    DROP = "drop"
    WHITE = "white"
    BLACK = "black"


@dataclass(frozen=True)
class ImageOptions:
    """Choices that change pixels; the defaults are the reference's.

    Attributes:
        exif_orientation: Turn a photo as its EXIF orientation says.
        transparency: What becomes of an alpha channel.
        max_pixels: Larger images are refused before they are decoded.
        reduced_jpeg: Decode files of JPEGs at the smallest of 1/2, 1/4 or 1/8 of their size that has at least one and a
            half times the pixels each way that the model sees. Faster; docs/runtime.md has how much embeddings drift.
    """

    exif_orientation: bool = False
    transparency: Transparency = Transparency.DROP
    max_pixels: int = MAX_PIXELS
    reduced_jpeg: bool = False


class ImageProcessor:
    """Turns images into what the vision graph takes, by the contract. It keeps no state, so threads may share it.

    A row, of one image, is by the contract's `image.input`: pixel_values, float32 [3, height, width]; bytes, uint8
    [height, width, 3]; the decoded image itself; or with `resize: patches` a record of the three inputs of a NaFlex
    graph: pixel_values float32 [patches, patch * patch * 3], pixel_attention_mask int64 [patches] and spatial_shapes
    int64 [2]. Rows of records behave as any other array's do.

    Args:
        spec: The contract's image section.
        options: Choices that change pixels.
    """

    def __init__(self, spec: ImageSpec, options: ImageOptions | None = None) -> None:
        self.spec, self.options = spec, options or ImageOptions()
        self._filter = Image.Resampling[spec.filter.upper()]
        self._table = _normalized_bytes(spec)

    def __call__(self, images: Sequence[ImageInput]) -> Row:
        """The rows of images, one behind the other, such as float32 [images, 3, height, width].

        Raises:
            InputError: An image is missing, damaged, too large, or of a form that `load_image` does not take; or the
                graph takes images of any size, and these have several.
        """
        rows = [self.one(image) for image in images]
        if len({row.shape for row in rows}) > 1:
            raise InputError(
                "Images of different sizes make no array, and this artifact resizes them in its graph.",
                "Pass them one at a time.",
            )
        return np.stack(rows)

    @property
    def span(self) -> tuple[float, float]:
        """Between which values pixel_values lie, with half as much on both sides for resizers that overshoot."""
        low, high = float(self._table.min()), float(self._table.max())
        return low - (high - low) / 2, high + (high - low) / 2

    def one(self, image: ImageInput) -> Row:
        """The row of one image; errors as for several."""
        return self.row(self.bytes_of(image))

    def bytes_of(self, image: ImageInput) -> NDArray[np.uint8]:
        """One image, uint8 [height, width, 3] RGB, resized unless the graph does that; errors as for several."""
        decoded = load_image(image, self.options, (self.spec.width, self.spec.height))
        if self.spec.input == "image":
            return np.asarray(decoded)
        return np.asarray(decoded.resize(self._size(decoded), self._filter))

    def row(self, resized: NDArray[np.uint8]) -> Row:
        """The row of what `bytes_of` gives."""
        if self.spec.input != "pixels":
            return resized[:, :, ::-1] if self.spec.channel_order == "BGR" else resized
        pixels = self.normalize(resized)
        if self.spec.patch_size is None or self.spec.max_patches is None:
            return pixels
        return _patches(pixels, self.spec.patch_size, self.spec.max_patches)

    def normalize(self, resized: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Pixel values, float32 [3, height, width], of a resized image, uint8 [height, width, 3] RGB."""
        channels = resized.transpose(2, 0, 1)  # [3, height, width]
        if self.spec.channel_order == "BGR":
            channels = channels[::-1]
        return np.stack([table[channel] for table, channel in zip(self._table, channels, strict=True)])

    def rows_of(self, pixel_values: Row) -> Row:
        """Rows for the graph of normalized pixels, float32 [images, 3, height, width], whose bytes it may want."""
        if self.spec.input == "pixels":
            return pixel_values
        mean, std = (np.asarray(values)[:, None, None] for values in (self.spec.mean, self.spec.std))
        levels = np.rint((pixel_values.astype(np.float64) * std + mean) / self.spec.rescale)
        return np.ascontiguousarray(levels.clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1))

    def _size(self, image: Image.Image) -> tuple[int, int]:
        """Width and height to resize to."""
        patch, limit = self.spec.patch_size, self.spec.max_patches
        if patch is None or limit is None:
            return self.spec.width, self.spec.height
        rows, columns = patch_grid(image.height, image.width, patch, limit)
        return columns * patch, rows * patch


def _normalized_bytes(spec: ImageSpec) -> NDArray[np.float32]:
    """What each byte of each channel becomes, float32 [3, 256].

    The reference rescales in float64, rounds to float32, then subtracts and divides in float32.
    """
    rescaled = (np.arange(256, dtype=np.float64) * spec.rescale).astype(np.float32)
    mean, std = np.asarray(spec.mean, np.float32)[:, None], np.asarray(spec.std, np.float32)[:, None]
    return np.asarray((rescaled - mean) / std, dtype=np.float32)


def patch_grid(height: int, width: int, patch: int, limit: int) -> tuple[int, int]:
    """Rows and columns of patches that an image becomes: as many as fit into `limit`, about as wide as it is high.

    The bisection, its bounds and where it stops are the reference's (transformers, `image_processing_pil_siglip2.py`),
    since each of them decides about a row.
    """

    def cells(scale: float) -> tuple[int, int]:
        rows, columns = (max(1, math.ceil(side * scale / patch)) for side in (height, width))
        return rows, columns

    low, high = 1e-6, 100.0
    while high - low >= 1e-5:
        middle = (low + high) / 2
        if math.prod(cells(middle)) <= limit:
            low = middle
        else:
            high = middle
    return cells(low)


def patches_dtype(patch: int, count: int) -> np.dtype[np.void]:
    """A record of what a NaFlex graph takes for one image."""
    pixels = ("pixel_values", np.float32, (count, 3 * patch**2))
    return np.dtype([pixels, ("pixel_attention_mask", np.int64, (count,)), ("spatial_shapes", np.int64, (2,))])


def _patches(pixels: NDArray[np.float32], patch: int, count: int) -> NDArray[np.void]:
    """Pixels, float32 [3, height, width], cut into patches, row by row, with the colors of a pixel side by side."""
    rows, columns = pixels.shape[1] // patch, pixels.shape[2] // patch
    tiles = pixels.reshape(3, rows, patch, columns, patch).transpose(1, 3, 2, 4, 0)
    record = np.zeros((), patches_dtype(patch, count))
    record["pixel_values"][: rows * columns] = tiles.reshape(rows * columns, -1)
    record["pixel_attention_mask"][: rows * columns] = 1
    record["spatial_shapes"] = rows, columns
    return record


def load_image(image: ImageInput, options: ImageOptions, due: tuple[int, int] = (0, 0)) -> Image.Image:
    """Decode one image to RGB.

    Args:
        image: A path, the bytes of a file, a Pillow image, or an array [height, width] or [height, width, 1, 3 or 4]:
            uint8, or floating point in [0, 1], which is rounded to 255 levels. Of an animation the first frame counts.
        options: Choices that change pixels.
        due: Width and height that it will be resized to.

    Raises:
        InputError: The image is missing, damaged, too large, or of another form.
    """
    name = f"The image {image}" if isinstance(image, str | Path) else "An image"
    try:
        with contextlib.ExitStack() as files:
            opened = _open(image)
            if opened is not image:
                files.enter_context(opened)
            _check_size(opened, options.max_pixels, name)
            if opened is image:
                with _loading:  # several threads may have been given the same one
                    opened.load()
            elif options.reduced_jpeg and opened.format == "JPEG":
                opened.draft("RGB", (3 * due[0] // 2, 3 * due[1] // 2))
            return _to_rgb(opened, options)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(
            f"{name} has more pixels than Pillow opens ({_reason(error)}).",
            "Make it smaller first, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust where it comes from.",
        ) from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"{name} is not in a format that can be read, or damaged ({_reason(error)}).",
            f"Use one of {', '.join(FORMATS)}.",
        ) from error
    except (OSError, SyntaxError, ValueError, MemoryError) as error:  # Pillow's decoders raise all of these
        raise InputError(
            f"{name} cannot be read ({_reason(error)}).", "Check that the file is there and whole."
        ) from error


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _open(image: ImageInput) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, bytes):
        return _from_file(io.BytesIO(image))
    if isinstance(image, str | Path):
        return _from_file(image)
    raise InputError(
        f"An image may not be a {type(image).__name__}.",
        "Pass a path, the bytes of a file, a Pillow image or a NumPy array [height, width, channels].",
    )


def _from_file(file: str | Path | io.BytesIO) -> Image.Image:
    try:
        return Image.open(file, formats=_COMMON)
    except UnidentifiedImageError:
        if isinstance(file, io.BytesIO):
            file.seek(0)
        return Image.open(file, formats=_formats())


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _from_array(array: NDArray[np.generic]) -> Image.Image:
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))) or 0 in array.shape:
        raise InputError(
            f"An array of shape {list(array.shape)} is no image.",
            "Pass [height, width] or [height, width, channels] with 1, 3 or 4 channels, channels last.",
        )
    levels = array if array.dtype == np.uint8 else _levels(array)
    return Image.fromarray(levels[:, :, 0] if levels.ndim == 3 and levels.shape[2] == 1 else levels)


def _levels(array: NDArray[np.generic]) -> NDArray[np.uint8]:
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(
            f"An array of {array.dtype} is no image.", "Pass uint8 in [0, 255], or floating point in [0, 1]."
        )
    values = array.astype(np.float64)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise InputError(
            f"An image of {array.dtype} has values outside [0, 1] (smallest {values.min()}, largest {values.max()}).",
            "Scale it to [0, 1], or pass uint8.",
        )
    return np.asarray(np.rint(values * 255), dtype=np.uint8)


def _check_size(image: Image.Image, max_pixels: int, name: str) -> None:
    if image.width * image.height > max_pixels:
        raise InputError(
            f"{name} has {image.width} x {image.height} pixels, more than the {max_pixels:,} that are allowed.",
            "Make it smaller first, or raise ImageOptions.max_pixels if you trust where it comes from.",
        )


def _to_rgb(image: Image.Image, options: ImageOptions) -> Image.Image:
    if options.exif_orientation:
        image = ImageOps.exif_transpose(image)
    if options.transparency is Transparency.DROP or not image.has_transparency_data:
        return image.convert("RGB")
    image = image.convert("RGBA")
    behind = Image.new("RGBA", image.size, str(options.transparency))
    return Image.alpha_composite(behind, image).convert("RGB")
