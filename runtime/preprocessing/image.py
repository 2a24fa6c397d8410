"""Images to pixel_values, bit for bit as the reference (transformers' PIL `SiglipImageProcessor`) computes them."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from ..arrays import AnyArray, ByteArray, FloatArray
from ..artifact.input_specs import ImageSpec, Orientation, Transparency
from ..errors import InputError, SiglipOnnxError

ImageInput = str | Path | bytes | Image.Image | NDArray[np.generic]

# Raster formats whose decoders are part of Pillow; others start programs, as EPS starts Ghostscript.
FORMATS: Final = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "PNG", "PPM", "TGA", "TIFF", "WEBP")
# Formats that Pillow loads at import; loading the other decoders takes 15 ms and 3 MB.
_COMMON: Final = ("BMP", "GIF", "JPEG", "PNG", "PPM")
# The number of pixels (a 256 MiB RGB image) above which Pillow warns of a decompression bomb.
MAX_PIXELS: Final = 89_478_485
_decoding: Final = threading.Lock()


@dataclass(frozen=True)
class ImageOptions:
    """Preprocessing options; the defaults do what the artifact's contract says.

    Attributes:
        orientation: Which images are turned as their EXIF orientation says; None: the contract's choice.
        transparency: Treatment of an alpha channel; None: the contract's choice.
        max_pixels: Maximum number of pixels; larger images are refused before they are decoded.
        reduced_jpeg: Decode JPEG files at the smallest of 1/2, 1/4 or 1/8 of their size that has at least 1.5 times the
            model's pixels in each direction. This is faster; docs/runtime.md lists the drift of embeddings.
    """

    orientation: Orientation | None = None
    transparency: Transparency | None = None
    max_pixels: int = MAX_PIXELS
    reduced_jpeg: bool = False


class ImageProcessor:
    """Turns images into the vision graph's input rows, as the contract says. It has no state, so threads may share it.

    The contract's `image.input` and `image.resize` decide the form of a row:

    - `pixels` and `stretch`: pixel_values, float32 [3, height, width].
    - `pixels` and `patches` (NaFlex): a record of pixel_values float32 [patches, patch * patch * 3],
      pixel_attention_mask int64 [patches] and spatial_shapes int64 [2]. Arrays of records stack as other arrays do.
    - `bytes`: the resized image, uint8 [height, width, 3].
    - `image`: the decoded image in its own size, uint8 [height, width, 3].

    Args:
        spec: The contract's image section.
        options: Preprocessing options.
    """

    def __init__(self, spec: ImageSpec, options: ImageOptions | None = None) -> None:
        chosen = options or ImageOptions()
        self.spec = spec
        self.options = replace(
            chosen,
            orientation=chosen.orientation or spec.orientation,
            transparency=chosen.transparency or spec.transparency,
        )
        self._filter = Image.Resampling[spec.filter.upper()]
        self._table = _normalized_bytes(spec)

    def __call__(self, images: Sequence[ImageInput]) -> AnyArray:
        """The rows of images, stacked, as float32 [images, 3, height, width].

        Raises:
            InputError: An image is missing, damaged, too large or of an unsupported type; or the graph resizes images
                itself, and these have different sizes.
        """
        rows = [self.one(image) for image in images]
        if len({row.shape for row in rows}) > 1:
            raise InputError(
                "This artifact resizes images in its graph, and images of different sizes cannot be stacked.",
                "Pass them one at a time.",
            )
        return np.stack(rows)

    @property
    def value_range(self) -> tuple[float, float]:
        """Smallest and largest valid pixel value, widened by half the range for resizers that overshoot."""
        low, high = float(self._table.min()), float(self._table.max())
        return low - (high - low) / 2, high + (high - low) / 2

    def one(self, image: ImageInput) -> AnyArray:
        """The row of one image; raises InputError as for several images."""
        return self.row(self.bytes_of(image))

    def bytes_of(self, image: ImageInput) -> ByteArray:
        """One image, uint8 [height, width, 3] RGB, resized unless the graph resizes; raises as for several images."""
        decoded = load_image(image, self.options, (self.spec.width, self.spec.height))
        if self.spec.input == "image":
            return np.asarray(decoded)
        return np.asarray(decoded.resize(self._size(decoded), self._filter))

    def row(self, resized: ByteArray) -> AnyArray:
        """The row of an image that `bytes_of` returned, uint8 [height, width, 3] RGB."""
        if self.spec.input != "pixels":
            return resized[:, :, ::-1] if self.spec.channel_order == "BGR" else resized
        pixels = self.normalize(resized)
        if self.spec.patch_size is None or self.spec.max_patches is None:
            return pixels
        return _patches(pixels, self.spec.patch_size, self.spec.max_patches)

    def normalize(self, resized: ByteArray) -> FloatArray:
        """pixel_values, float32 [3, height, width], of a resized image, uint8 [height, width, 3] RGB."""
        channels = resized.transpose(2, 0, 1)  # [3, height, width]
        if self.spec.channel_order == "BGR":
            channels = channels[::-1]
        return np.stack([table[channel] for table, channel in zip(self._table, channels, strict=True)])

    def rows_of(self, pixel_values: AnyArray) -> AnyArray:
        """Rows for the graph of pixel_values, float32 [images, 3, height, width]; bytes if the graph normalizes."""
        if self.spec.input == "pixels":
            return pixel_values
        mean, std = (np.asarray(values)[:, None, None] for values in (self.spec.mean, self.spec.std))
        levels = np.rint((pixel_values.astype(np.float64) * std + mean) / self.spec.rescale)
        return np.ascontiguousarray(levels.clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1))

    def _size(self, image: Image.Image) -> tuple[int, int]:
        """Width and height after resizing."""
        patch, limit = self.spec.patch_size, self.spec.max_patches
        if patch is None or limit is None:
            return self.spec.width, self.spec.height
        rows, columns = patch_grid(image.height, image.width, patch, limit)
        return columns * patch, rows * patch


def _normalized_bytes(spec: ImageSpec) -> FloatArray:
    """The normalized value of each byte in each channel, float32 [3, 256].

    The reference rescales in float64, rounds to float32, then subtracts and divides in float32.
    """
    rescaled = (np.arange(256, dtype=np.float64) * spec.rescale).astype(np.float32)
    mean, std = np.asarray(spec.mean, np.float32)[:, None], np.asarray(spec.std, np.float32)[:, None]
    return np.asarray((rescaled - mean) / std, dtype=np.float32)


def patch_grid(height: int, width: int, patch: int, limit: int) -> tuple[int, int]:
    """Rows and columns of patches of an image: the most patches up to `limit` that keep the aspect ratio.

    The bisection, its bounds and its tolerance are those of the reference (transformers,
    `image_processing_pil_siglip2.py`), because each of them can change the grid by a row.
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
    """The dtype of a NaFlex row: `count` patches of `patch` x `patch` pixels."""
    pixels = ("pixel_values", np.float32, (count, 3 * patch**2))
    return np.dtype([pixels, ("pixel_attention_mask", np.int64, (count,)), ("spatial_shapes", np.int64, (2,))])


def _patches(pixels: FloatArray, patch: int, count: int) -> NDArray[np.void]:
    """A NaFlex row of pixels, float32 [3, height, width]: patches row by row, the channels of a pixel adjacent."""
    rows, columns = pixels.shape[1] // patch, pixels.shape[2] // patch
    tiles = pixels.reshape(3, rows, patch, columns, patch).transpose(1, 3, 2, 4, 0)
    record = np.zeros((), patches_dtype(patch, count))
    record["pixel_values"][: rows * columns] = tiles.reshape(rows * columns, -1)
    record["pixel_attention_mask"][: rows * columns] = 1
    record["spatial_shapes"] = rows, columns
    return record


def load_image(image: ImageInput, options: ImageOptions, target: tuple[int, int] = (0, 0)) -> Image.Image:
    """Decode one image to RGB.

    Args:
        image: A path, the content of a file (bytes), a Pillow image, or an array [height, width] or [height, width,
            channels] with 1, 3 or 4 channels: uint8, or floating point in [0, 1], which is rounded to 255 levels. Of an
            animation the first frame is used.
        options: Preprocessing options. Without a choice of its own, a file is turned by its EXIF orientation, and the
            background of a transparent image is white.
        target: Width and height after resizing, for `reduced_jpeg`.

    Raises:
        InputError: The image is missing, damaged, too large, or of an unsupported type or shape.
    """
    name = f"The image {image}" if isinstance(image, str | Path) else "An image"
    with _input_errors(name), contextlib.ExitStack() as files:
        opened = _open(image)
        if opened is not image:
            files.enter_context(opened)
        _check_size(opened, options.max_pixels, name)
        if opened is image:
            with _decoding:  # several threads may hold the same image
                opened.load()
        elif options.reduced_jpeg and opened.format == "JPEG":
            opened.draft("RGB", (3 * target[0] // 2, 3 * target[1] // 2))
        is_file = isinstance(image, str | Path | bytes)
        return _to_rgb(_turned(opened, options, is_file), options.transparency or Transparency.WHITE)


@contextlib.contextmanager
def _input_errors(name: str) -> Iterator[None]:
    """Turn the exceptions of Pillow and of the file system into InputError."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(
            f"{name} has more pixels than Pillow allows ({_reason(error)}).",
            "Shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust its source.",
        ) from error
    except UnidentifiedImageError as error:
        raise InputError(
            f"{name} is damaged or not in a supported format ({_reason(error)}).",
            f"Use one of {', '.join(FORMATS)}.",
        ) from error
    except SiglipOnnxError:
        raise
    except Exception as error:  # Pillow's decoders raise exceptions of many kinds, such as RuntimeError for AVIF
        raise InputError(
            f"{name} cannot be read ({_reason(error)}).", "Check that the file exists and is complete."
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
        f"Expected an image, got {type(image).__name__}.",
        "Pass a path, the content of a file (bytes), a Pillow image or a NumPy array [height, width, channels].",
    )


def _from_file(file: str | Path | io.BytesIO) -> ImageFile.ImageFile:
    try:
        image = Image.open(file, formats=_COMMON)
    except UnidentifiedImageError:
        if isinstance(file, io.BytesIO):
            file.seek(0)
        image = Image.open(file, formats=_formats())
    # Pillow 13 maps an uncompressed file with a name into memory, and then mixes up the pixels of a TIFF file whose
    # orientation swaps width and height.
    image.filename = ""
    return image


@functools.cache
def _formats() -> tuple[str, ...]:
    """The formats of `FORMATS` that this build of Pillow supports."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _from_array(array: NDArray[np.generic]) -> Image.Image:
    if not (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))) or 0 in array.shape:
        raise InputError(
            f"Expected an array [height, width] or [height, width, channels], got shape {list(array.shape)}.",
            "Put 1, 3 or 4 channels last.",
        )
    levels = array if array.dtype == np.uint8 else _levels(array)
    return Image.fromarray(levels[:, :, 0] if levels.ndim == 3 and levels.shape[2] == 1 else levels)


def _levels(array: NDArray[np.generic]) -> ByteArray:
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(
            f"Expected an image of uint8 or floating point, got {array.dtype}.",
            "Pass uint8 in [0, 255], or floating point in [0, 1].",
        )
    values = array.astype(np.float64)
    if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
        raise InputError(
            f"An image of {array.dtype} must be in [0, 1], got {values.min()} to {values.max()}.",
            "Scale it to [0, 1], or pass uint8.",
        )
    return np.asarray(np.rint(values * 255), dtype=np.uint8)


def _check_size(image: Image.Image, max_pixels: int, name: str) -> None:
    if image.width * image.height > max_pixels:
        raise InputError(
            f"{name} has {image.width} x {image.height} pixels; at most {max_pixels:,} are allowed.",
            "Shrink it, or raise ImageOptions.max_pixels if you trust its source.",
        )


def _turned(image: Image.Image, options: ImageOptions, is_file: bool) -> Image.Image:
    """The image, turned as its EXIF orientation says if the options ask for it."""
    orientation = options.orientation or Orientation.FILES
    if orientation is Orientation.ALWAYS or (orientation is Orientation.FILES and is_file):
        return ImageOps.exif_transpose(image)
    return image


def _to_rgb(image: Image.Image, transparency: Transparency) -> Image.Image:
    # The reference's own test for transparency: it also sees one transparent color of a palette or of an RGB image.
    is_transparent = "A" in image.getbands() or image.info.get("transparency") is not None
    if not is_transparent:
        return image.convert("RGB")
    image = image.convert("RGBA")
    if transparency is not Transparency.DROP:
        image = Image.alpha_composite(Image.new("RGBA", image.size, str(transparency)), image)
    return image.convert("RGB")
