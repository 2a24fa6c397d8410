"""Images of every mode and orientation, in every form that users pass, equal the reference's pixels bit for bit."""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from siglip_onnx.runtime import ImageOptions
from siglip_onnx.runtime.arrays import FloatArray
from siglip_onnx.runtime.artifact.input_specs import ImageSpec, Orientation, Transparency
from siglip_onnx.runtime.preprocessing.image import ImageInput, ImageProcessor

from ..conftest import CHECKPOINT

SPEC = ImageSpec(64, 64, "bicubic", 1 / 255, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
PROCESS = ImageProcessor(SPEC)
RNG = np.random.default_rng(77)
# Mode of the image and the formats that hold it; `P+` and `RGB+` have transparent colors, but no alpha channel.
MODES = {
    "RGB": ("PNG", "JPEG", "WEBP", "TIFF", "BMP"),
    "L": ("PNG", "JPEG", "TIFF"),
    "1": ("PNG", "TIFF"),
    "CMYK": ("JPEG", "TIFF"),
    "I;16": ("PNG", "TIFF"),
    "P": ("PNG", "GIF"),
    "RGBA": ("PNG", "WEBP", "TIFF"),
    "LA": ("PNG", "TIFF"),
    "P+": ("PNG", "GIF"),
    "RGB+": ("PNG",),
    "L+": ("PNG",),
}
CASES = [
    (mode, form, orientation)
    for mode, forms in MODES.items()
    for form, orientation in itertools.product(forms, (0, 3, 5, 6))
    if not (orientation and form in ("GIF", "BMP"))  # these formats hold no EXIF data
]


def encoded(mode: str, form: str, orientation: int) -> bytes:
    """A file of random pixels."""
    size = tuple(int(side) for side in RNG.integers(20, 90, 2))
    plain = mode.removesuffix("+")
    if plain == "I;16":
        image = Image.fromarray(RNG.integers(0, 2**16, size, dtype=np.uint16))
    else:
        channels = Image.fromarray(RNG.integers(0, 256, (*size, 4), dtype=np.uint8))
        image = channels if plain == "RGBA" else channels.convert("LA") if plain == "LA" else _opaque(channels, plain)
    options: dict[str, Any] = {"lossless": True} if form == "WEBP" else {}
    if mode.endswith("+"):
        options["transparency"] = 5 if plain == "P" else image.getpixel((0, 0))
    if orientation:
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        options["exif"] = exif
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def _opaque(image: Image.Image, mode: str) -> Image.Image:
    return image.convert("RGB").convert(mode)


@functools.cache
def processor() -> Any:
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    return SiglipImageProcessorPil.from_pretrained(CHECKPOINT, local_files_only=True)


def reference(image: str | Image.Image | np.ndarray) -> FloatArray:
    """The pinned processor's pixels of the same thing."""
    size = {"height": SPEC.height, "width": SPEC.width}
    return np.asarray(processor()(image, size=size, return_tensors="np")["pixel_values"], np.float32)


def pairs(path: Path) -> Iterator[tuple[str, ImageInput, FloatArray]]:
    """Each form of an image with the reference's pixels.

    Given a path, the reference turns the image, but drops its alpha channel, which it does not do with an opened image.
    A transparent file is therefore compared with the opened image, turned. So is TIFF, because Pillow 13 mixes up the
    pixels of an uncompressed TIFF file that it opens by its path, if the orientation swaps width and height.
    """
    opened = Image.open(io.BytesIO(path.read_bytes()))
    opened.load()
    exception = opened.has_transparency_data or opened.format == "TIFF"
    file = reference(ImageOps.exif_transpose(opened) if exception else str(path))
    yield "path", path, file
    yield "string", str(path), file
    yield "bytes", path.read_bytes(), file
    yield "opened", Image.open(io.BytesIO(path.read_bytes())), reference(opened)
    if opened.mode in ("RGB", "RGBA"):
        array = np.array(opened)
        yield "array", array, reference(array)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # transformers leaves GIF files open
@pytest.mark.parametrize(("mode", "form", "orientation"), CASES)
def test_every_form_of_an_image_equals_the_reference(tmp_path: Path, mode: str, form: str, orientation: int) -> None:
    for number in range(2):
        path = tmp_path / f"{number}.{form.lower()}"
        path.write_bytes(encoded(mode, form, orientation))
        for name, image, expected in pairs(path):
            assert np.array_equal(PROCESS([image]), expected), (number, name)


def test_there_are_three_hundred_images() -> None:
    assert sum(2 * (5 if mode in ("RGB", "RGBA") else 4) for mode, _, _ in CASES) >= 300


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_other_treatments_of_transparency_are_choices_of_the_contract_and_of_the_call(form: str) -> None:
    file = encoded("RGBA", form, 0)
    rgba = Image.open(io.BytesIO(file))
    black = Image.alpha_composite(Image.new("RGBA", rgba.size, "black"), rgba).convert("RGB")
    for choice, expected in ((Transparency.DROP, rgba.convert("RGB")), (Transparency.BLACK, black)):
        by_contract = ImageProcessor(ImageSpec(*_fields(), transparency=choice))
        by_call = ImageProcessor(SPEC, ImageOptions(transparency=choice))
        assert np.array_equal(by_contract([file]), reference(expected))
        assert np.array_equal(by_call([file]), reference(expected))


def test_orientation_is_a_choice_of_the_contract_and_of_the_call() -> None:
    file = encoded("RGB", "PNG", 6)
    opened = Image.open(io.BytesIO(file))
    never = ImageProcessor(ImageSpec(*_fields(), orientation=Orientation.NEVER))
    assert np.array_equal(never([file]), reference(opened))
    always = ImageProcessor(SPEC, ImageOptions(orientation=Orientation.ALWAYS))
    assert np.array_equal(always([opened]), reference(ImageOps.exif_transpose(opened)))


def _fields() -> tuple[Any, ...]:
    return SPEC.height, SPEC.width, SPEC.filter, SPEC.rescale, SPEC.mean, SPEC.std
