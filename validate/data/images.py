"""Images of a collection by name, each opened on demand."""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from PIL import Image, ImageOps

from ...runtime.arrays import ByteArray
from ...runtime.data.images import ImagePlace
from ...runtime.errors import InputError
from ...runtime.files import sha256
from ...runtime.preprocessing.image import FORMATS

# An image as users pass it: a file by its path or content, an opened image, or an array [height, width, channels].
ImageSource = Path | bytes | Image.Image | ByteArray


class Images(Mapping[str, ImageSource]):
    """Images by name, in order. None is kept in memory: every access opens the image again.

    An image in a file of its own is given as its path, an image inside an archive or table as a loaded Pillow image,
    turned as its EXIF orientation says.

    Args:
        places: Where each image lies.
    """

    def __init__(self, places: Mapping[str, ImagePlace]) -> None:
        self._places = dict(places)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places  # Mapping's own would open the image

    def __getitem__(self, name: str) -> ImageSource:
        """One image.

        Raises:
            InputError: It is inside an archive or table and cannot be read.
        """
        place = self._places[name]
        return place if isinstance(place, Path) else _decode(name, place.read())

    def digest(self, name: str) -> str:
        """SHA-256 of an image's file in lower-case hex; raises InputError if it cannot be read."""
        place = self._places[name]
        try:
            return sha256(place) if isinstance(place, Path) else hashlib.sha256(place.read()).hexdigest()
        except OSError as error:
            raise InputError(f"{place} cannot be read ({error.strerror}).", "Restore it, or exclude it.") from error

    def select(self, names: Iterable[str]) -> Images:
        """The images with the given names, in the order of the names."""
        return Images({name: self._places[name] for name in names})


def _decode(name: str, data: bytes) -> Image.Image:
    """Decoded by Pillow alone, as the reference does, so that a defect of the runtime's own decoding shows."""
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
        image.load()
        return ImageOps.exif_transpose(image)
    except Exception as error:  # Pillow's decoders raise exceptions of many kinds
        raise InputError(f"The image {name} cannot be read ({error}).", "Replace it, or exclude it.") from error


@functools.cache
def _formats() -> tuple[str, ...]:
    """The formats that siglip-onnx reads and this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)
