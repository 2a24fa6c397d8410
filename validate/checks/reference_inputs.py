"""The inputs that the reference feeds its towers, and the candidate's own inputs where they differ."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np

from ...runtime.arrays import AnyArray, IntArray
from ...runtime.artifact.contract import Role
from ...runtime.errors import ArtifactError, InputError
from ...runtime.model import Siglip
from ..data.images import ImageSource
from ..data.samples import Samples
from ..reference.cache import ReferenceCache

# Bytes of pixels that one process keeps for the tower run after PIXELS has computed them.
_KEPT_BYTES: Final = 128 * 2**20


class InputRow(NamedTuple):
    """One row of a tower's input.

    Attributes:
        reference: The reference's input.
        fed: The same row in the form that the candidate's graph takes.
        own: The candidate's own input in that form; None where it equals the reference's.
    """

    reference: AnyArray
    fed: AnyArray
    own: AnyArray | None


class ReferenceInputs:
    """Pixels and ids of every image and text. Images are read one at a time.

    Args:
        model: The candidate.
        reference: The reference, which prepares images and texts in its own way.
        samples: Images and texts.
    """

    def __init__(self, model: Siglip, reference: ReferenceCache, samples: Samples) -> None:
        self._model, self._reference, self._samples = model, reference, samples
        self._kept: dict[int, AnyArray] = {}
        self._room = _KEPT_BYTES

    @cached_property
    def images(self) -> Sequence[ImageSource]:
        """The images, in the order of `names`; each is opened at access."""
        return _ImageSequence(self._samples)

    @cached_property
    def names(self) -> list[str]:
        """Names of the images."""
        return list(self._samples.images)

    @cached_property
    def ids(self) -> IntArray:
        """The reference's ids of every text, int64 [texts, length]."""
        return self._reference.ids(self._samples.texts)

    @cached_property
    def own_ids(self) -> IntArray:
        """The candidate's ids of every text, int64 [texts, length]."""
        return self._model.tokenizer(self._samples.texts)

    def pixels(self, image: int) -> AnyArray:
        """The reference's pixels of an image by its number: float32 [3, height, width], or a patch record.

        Raises:
            InputError: The image cannot be read.
        """
        if image in self._kept:
            return self._kept[image]
        row = self.pixels_of(self.images[image])
        if _is_finite(row):
            self._reference.remember_pixels(self.names[image], row)
        if row.nbytes <= self._room:
            self._kept[image] = row
            self._room -= row.nbytes
        return row

    def pixels_of(self, image: ImageSource) -> AnyArray:
        """The reference's pixels of any image; errors as of `pixels`."""
        row: AnyArray = self._reference.pixels([image])[0]
        return row

    def own_pixels(self, image: ImageSource) -> AnyArray:
        """The pixels that the candidate's vision tower sees, prepared before its graph or inside."""
        images, form = self._model.images, self._model.contract.image.input
        if form == "bytes":
            return images.normalize(images.bytes_of(image))
        if form == "image":
            name = "pixel_values"
            row: AnyArray = self._model.session(Role.VISION).rows(images.one(image)[None], [name])[name][0]
            return row
        return images.one(image)

    def pixels_equal(self, image: int, own: AnyArray) -> bool:
        """Whether the candidate's pixels of an image equal the reference's.

        A remembered hash settles most images without the reference's image processor.
        """
        return self._reference.equals_pixels(self.names[image], own) or np.array_equal(own, self.pixels(image))

    def rows(self, role: Role) -> Iterator[InputRow]:
        """Every row of a tower's input."""
        return self._image_rows() if role is Role.VISION else self._text_rows()

    def _image_rows(self) -> Iterator[InputRow]:
        processor = self._model.images
        for number, image in enumerate(self.images):
            own = self.own_pixels(image)
            equal = self.pixels_equal(number, own)
            reference = own if equal else self.pixels(number)
            yield InputRow(reference, processor.rows_of(reference[None])[0], None if equal else processor.one(image))

    def _text_rows(self) -> Iterator[InputRow]:
        for reference, own in zip(self.ids, self._own_id_rows(), strict=True):
            equal = own is None or np.array_equal(own, reference)
            yield InputRow(reference, reference, None if equal else own)

    def _own_id_rows(self) -> Sequence[AnyArray | None]:
        try:
            return list(self.own_ids)
        except (ArtifactError, InputError):  # TOKENS reports this
            return [None] * len(self.ids)

    def first(self, role: Role, count: int) -> AnyArray:
        """The first rows of the reference's input, in the form that the candidate's graph takes."""
        return np.stack([row.fed for row in itertools.islice(self.rows(role), count)])


def _is_finite(pixels: AnyArray) -> bool:
    return bool(np.isfinite(pixels["pixel_values"] if pixels.dtype.names else pixels).all())


class _ImageSequence(Sequence[ImageSource]):
    """The images of samples by number."""

    def __init__(self, samples: Samples) -> None:
        self._images, self._names = samples.images, list(samples.images)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self._images[name] for name in self._names[place]]
        return self._images[self._names[place]]
