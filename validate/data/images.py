"""Images of a collection by their names, each read when it is asked for."""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from PIL import Image

from ...runtime.errors import InputError
from ...runtime.files import sha256
from ...runtime.preprocessing.image import FORMATS


class Stored(Protocol):
    """An image inside of a larger file, such as `runtime.bulk.items.Member`."""

    def read(self) -> bytes:
        """The bytes of its file; raises InputError if they are not there any more."""


Place = Path | Stored
ImageSource = Path | Image.Image


class Images(Mapping[str, ImageSource]):
    """Images by name, in order. None is held: each is opened anew whenever it is asked for.

    An image in a file of its own is given as its path, one inside of an archive or table as a loaded Pillow image.

    Args:
        places: Where each image is.
    """

    def __init__(self, places: Mapping[str, Place]) -> None:
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
            InputError: It is inside of an archive or table and cannot be read.
        """
        place = self._places[name]
        return place if isinstance(place, Path) else _opened(name, place.read())

    def digest(self, name: str) -> str:
        """SHA-256 of an image's file in lower-case hex; raises InputError if it cannot be read."""
        place = self._places[name]
        try:
            return sha256(place) if isinstance(place, Path) else hashlib.sha256(place.read()).hexdigest()
        except OSError as error:
            raise InputError(f"{place} cannot be read ({error.strerror}).", "Put it back, or leave it out.") from error

    def some(self, names: Iterable[str]) -> Images:
        """Those of the given names, in their order."""
        return Images({name: self._places[name] for name in names})


def _opened(name: str, data: bytes) -> Image.Image:
    """Decoded by Pillow alone, as the reference does, so that a defect of the runtime's own reading shows."""
    try:
        image = Image.open(io.BytesIO(data), formats=_formats())
        image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"The image {name} cannot be read ({error}).", "Replace it, or leave it out.") from error
    return image


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)
