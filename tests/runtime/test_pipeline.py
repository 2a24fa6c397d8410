"""Prefetching: in order, bounded, and cancelled when the caller stops."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from siglip_onnx.runtime import ImageOptions, Siglip
from siglip_onnx.runtime.errors import InputError
from siglip_onnx.runtime.preprocessing.image import ImageProcessor
from siglip_onnx.runtime.preprocessing.prefetch import batched, prefetch

from ..conftest import DATA, EVAL
from .test_image import SPEC


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 4))
def test_results_are_in_order_and_prefetching_is_bounded(count: int, depth: int, workers: int) -> None:
    taken, given_out = 0, 0

    def items():  # type: ignore[no-untyped-def]
        nonlocal given_out
        for item in range(count):
            given_out += 1
            yield item

    with ThreadPoolExecutor(workers) as pool:
        for future in prefetch(pool, lambda item: item * 2, items(), depth):
            assert future.result() == 2 * taken
            taken += 1
            assert given_out - taken <= depth
    assert taken == count


def test_waiting_calls_are_cancelled() -> None:
    begun, hold = [], threading.Event()

    def work(item: int) -> None:
        begun.append(item)
        hold.wait(5)

    with ThreadPoolExecutor(1) as pool:
        results = prefetch(pool, work, range(100), 10)
        started = time.monotonic()
        hold.set()
        next(results)
        hold.clear()
        results.close()  # type: ignore[attr-defined]
        hold.set()
    assert len(begun) <= 11
    assert time.monotonic() - started < 5


@given(st.lists(st.integers()), st.integers(1, 7))
def test_batches_contain_every_item(items: list[int], size: int) -> None:
    batches = list(batched(items, size))
    assert [item for batch in batches for item in batch] == items
    assert all(len(batch) == size for batch in batches[:-1])


def test_damaged_jpeg_in_a_batch_is_named(model: Siglip) -> None:
    good, bad = EVAL / "distorted-noto-1f43b.webp", DATA / "images" / "odd" / "BAD_truncated.jpg"
    with pytest.raises(InputError, match=r"BAD_truncated\.jpg cannot be read"):
        model.encode_image([good] * 5 + [bad] + [good] * 5)
    assert model.encode_image([good]).shape == (1, 192)  # the threads are free again


def test_batches_and_single_images_give_the_same_embeddings(model: Siglip) -> None:
    files = sorted(EVAL.glob("*.webp"))[:20]
    together = model.encode_image(files, batch_size=7)
    np.testing.assert_allclose(together, np.concatenate([model.encode_image([f]) for f in files]), atol=1e-6)


def test_threads_decode_the_same_image(model: Siglip, tmp_path: Path) -> None:
    photo = DATA / "images" / "photos" / "sklearn_china.jpg"
    options = ImageOptions(reduced_jpeg=True)
    fresh = Siglip.load(model.artifact.folder, image_options=options)
    with Image.open(photo) as opened:
        size = opened.size
        found = fresh.encode_image([opened] * 6)
        assert opened.size == size  # the user's image is decoded at full size
    np.testing.assert_array_equal(found, np.repeat(model.encode_image([photo]), 6, axis=0))


def test_reduced_jpeg_is_optional_and_close(tmp_path: Path) -> None:
    large = tmp_path / "large.jpg"
    with Image.open(DATA / "images" / "photos" / "sklearn_china.jpg") as photo:
        photo.resize((2560, 1708), Image.Resampling.BICUBIC).save(large, quality=92)
    exact, reduced = (ImageProcessor(SPEC, ImageOptions(reduced_jpeg=on))([large])[0] for on in (False, True))
    drift = np.abs(exact - reduced)
    assert 0 < drift.mean() < 0.01
    assert drift.max() < 0.35
    same = [DATA / "images" / "photos" / "skimage_chelsea.png", DATA / "images" / "photos" / "sklearn_china.jpg"]
    for image in same:  # not a JPEG, and a JPEG of less than twice the model's size
        assert np.array_equal(
            ImageProcessor(SPEC)([image]), ImageProcessor(SPEC, ImageOptions(reduced_jpeg=True))([image])
        )
