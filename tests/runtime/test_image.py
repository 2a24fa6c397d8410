"""Pixels equal those of transformers' PIL image processor bit for bit; invalid images are refused."""

from __future__ import annotations

import hashlib
import io
import json
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siglip_onnx.exporter.checkpoint.config import read_config
from siglip_onnx.exporter.checkpoint.image_spec import read_image_spec
from siglip_onnx.runtime import ImageOptions
from siglip_onnx.runtime.artifact.input_specs import Orientation, Transparency
from siglip_onnx.runtime.errors import InputError
from siglip_onnx.runtime.preprocessing.image import ImageProcessor

from ..conftest import DATA, LARGE

SPEC = read_image_spec(LARGE, read_config(LARGE).vision_config)
PROCESS = ImageProcessor(SPEC)
REFERENCE = json.loads((DATA / "preproc_reference_384.json").read_text())["images"]
ODD = DATA / "images" / "odd"
KNOWN = {name: row for name, row in REFERENCE.items() if "sha256_f32_chw" in row}


def test_reference_is_complete() -> None:
    assert len(KNOWN) == 40


@pytest.mark.parametrize("name", sorted(KNOWN))
def test_pixels_equal_the_reference_bit_for_bit(name: str) -> None:
    # The hashes are those of transformers 4, which dropped alpha and turned no image; test_image_forms.py has the rest.
    processor = ImageProcessor(SPEC, ImageOptions(Orientation.NEVER, Transparency.DROP))
    pixels = processor([DATA / name])[0]
    assert pixels.dtype == np.float32
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == KNOWN[name]["sha256_f32_chw"]


@pytest.mark.parametrize("path", sorted(ODD.glob("BAD_*")), ids=lambda path: path.name)
def test_damaged_file_is_named(path: Path) -> None:
    with pytest.raises(InputError, match=path.name):
        PROCESS([path])


@pytest.mark.parametrize("name", ["one_pixel_gray.png", "one_pixel_red.png", "aspect_2000x4.png", "aspect_3x1500.png"])
def test_extreme_images_work(name: str) -> None:
    pixels = PROCESS([ODD / name])
    assert pixels.shape == (1, 3, 384, 384)
    assert np.isfinite(pixels).all()


def test_all_types_of_images_give_the_same_pixels() -> None:
    path = DATA / "images" / "photos" / "skimage_chelsea.png"
    image = Image.open(path)
    array = np.asarray(image)
    ways = [path, str(path), path.read_bytes(), image, array, array.astype(np.float32) / 255, array / 255.0]
    pixels = PROCESS(ways)
    assert all(np.array_equal(row, pixels[0]) for row in pixels)


def test_gray_arrays_are_images() -> None:
    gray = np.arange(100, dtype=np.uint8).reshape(10, 10)
    assert np.array_equal(*PROCESS([gray, gray[:, :, None]]))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 10, 10), np.uint8),  # channels first
        np.zeros((10, 10, 2), np.uint8),
        np.zeros((0, 10, 3), np.uint8),
        np.zeros((1, 10, 10, 3), np.uint8),
        np.zeros((10, 10, 3), np.int32),
        np.full((10, 10, 3), 200.0),
        np.full((10, 10, 3), -0.1),
        np.full((10, 10, 3), np.nan),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_arrays_of_other_shapes_and_values_are_refused(array: np.ndarray) -> None:
    with pytest.raises(InputError):
        PROCESS([array])


@pytest.mark.parametrize("bad", [None, 3, ["a.png"]])
def test_other_types_are_refused(bad: object) -> None:
    with pytest.raises(InputError, match="Expected an image, got"):
        PROCESS([bad])  # type: ignore[list-item]


def test_files_are_turned_by_their_orientation_and_opened_images_on_request() -> None:
    path = ODD / "cat_exif_orientation3.jpg"
    never, always = (ImageProcessor(SPEC, ImageOptions(choice)) for choice in (Orientation.NEVER, Orientation.ALWAYS))
    upside_down = never([path])[:, :, ::-1, ::-1]
    for file in (path, path.read_bytes()):
        assert np.array_equal(PROCESS([file]), upside_down)
    assert np.array_equal(PROCESS([Image.open(path)]), never([path]))
    assert np.array_equal(always([Image.open(path)]), upside_down)


def test_transparency_is_optional() -> None:
    path = ODD / "cat_rgba_fully_transparent.png"
    for choice, level in ((Transparency.WHITE, 1.0), (Transparency.BLACK, -1.0)):
        pixels = ImageProcessor(SPEC, ImageOptions(transparency=choice))([path])
        assert np.allclose(pixels, level)


def png_header(width: int, height: int) -> bytes:
    """A PNG of a claimed size with hardly any data."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + size + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [9_600, 12_000, 25_000, 60_000])
def test_decompression_bomb_is_refused_before_decoding(side: int) -> None:
    with pytest.raises(InputError):
        PROCESS([png_header(side, side)])


def test_postscript_is_never_executed() -> None:
    with pytest.raises(InputError, match="format"):
        PROCESS([b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n"])


def test_max_pixels_is_configurable() -> None:
    small = ImageProcessor(SPEC, ImageOptions(max_pixels=99))
    with pytest.raises(InputError, match="10 x 10 pixels"):
        small([np.zeros((10, 10, 3), np.uint8)])


def test_threads_share_a_processor() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)).save(buffer, "JPEG")
    expected = PROCESS([buffer.getvalue()])
    with ThreadPoolExecutor(8) as pool:
        assert all(np.array_equal(p, expected) for p in pool.map(PROCESS, [[buffer.getvalue()]] * 32))
