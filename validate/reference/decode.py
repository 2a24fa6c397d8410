"""Images decoded by Pillow alone, so that a defect of the runtime's decoder cannot be on both sides."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image, ImageOps

from ...runtime.arrays import ByteArray
from ...runtime.artifact.input_specs import ImageSpec, Orientation, Transparency
from ...runtime.errors import InputError
from ..data.images import ImageSource


def decode(source: ImageSource, spec: ImageSpec) -> Image.Image | ByteArray:
    """An image in the form in which the reference's image processor gets it, with its alpha channel.

    The processor fills a transparent background with white, as `Transparency.WHITE` says, and knows no orientation;
    the contract's other choices are carried out here. A file is opened here, because transformers' `load_image` would
    drop its alpha channel.

    Raises:
        InputError: The image cannot be read.
    """
    if not isinstance(source, Path | bytes | Image.Image):
        return source
    try:
        return _on_background(_turned(source, spec.orientation), spec.transparency)
    except Exception as error:  # Pillow's decoders raise exceptions of many kinds
        name = source if isinstance(source, Path) else "in memory"
        raise InputError(f"The image {name} cannot be read ({error}).", "Replace it.") from error


def _turned(source: Path | bytes | Image.Image, orientation: Orientation) -> Image.Image:
    if isinstance(source, Image.Image):
        return ImageOps.exif_transpose(source) if orientation is Orientation.ALWAYS else source
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        image.filename = ""  # or Pillow 13 maps the file into memory, and mixes up the pixels of some turned TIFF files
        return image.copy() if orientation is Orientation.NEVER else ImageOps.exif_transpose(image)


def _on_background(image: Image.Image, transparency: Transparency) -> Image.Image:
    if transparency is Transparency.WHITE or not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    if transparency is Transparency.BLACK:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
    return image.convert("RGB")
