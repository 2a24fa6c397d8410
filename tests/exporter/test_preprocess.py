"""Preprocessing in a graph: gray levels within one of the image processor's, then bit-identical values."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator
from PIL import Image

from siglip_onnx.exporter.graph.preprocess import join_preprocess, preprocess_model
from siglip_onnx.runtime import Siglip
from siglip_onnx.runtime.artifact.input_specs import ImageSpec
from siglip_onnx.runtime.errors import ExportError
from siglip_onnx.runtime.preprocessing.image import ImageOptions, ImageProcessor, load_image

from ..conftest import DATA

HALF = (0.5, 0.5, 0.5)
SPEC = ImageSpec(384, 384, "bicubic", 1 / 255, HALF, HALF)  # siglip-large-patch16-384's
FOLDER = DATA / "images"
IMAGES = sorted(
    path
    for path in (*FOLDER.glob("photos/*"), *FOLDER.glob("odd/*"))
    if path.suffix != ".json" and not path.name.startswith("BAD_")
)
FEW = 2e-3  # fraction of values that may be one level off; the worst image here has 1 in 4,000
Run = Callable[[np.ndarray], np.ndarray]


def running(spec: ImageSpec) -> Run:
    session = onnxruntime.InferenceSession(ir.to_proto(preprocess_model(spec)).SerializeToString())
    return lambda image: np.asarray(session.run(["pixel_values"], {"image": image})[0])


RUN = running(SPEC)


def decoded(path: Path) -> np.ndarray:
    return np.asarray(load_image(path, ImageOptions()))


def levels_off(actual: np.ndarray, image: np.ndarray, spec: ImageSpec = SPEC) -> np.ndarray:
    """Difference of each value in gray levels; fails if a value is not that of any gray level."""
    expected = ImageProcessor(spec)([image])
    assert (actual.shape, actual.dtype) == (expected.shape, np.float32)
    to_levels = np.asarray(spec.std).reshape(1, 3, 1, 1) / spec.rescale
    off = (actual - expected) * to_levels
    np.testing.assert_allclose(off, np.rint(off), atol=1e-3)
    return np.abs(np.rint(off)).astype(int)


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_images_differ_by_at_most_one_gray_level(path: Path, record_property: Callable[[str, object], None]) -> None:
    image = decoded(path)
    off = levels_off(RUN(image), image)
    record_property("gray_levels_off", int(off.max()))
    record_property("values_off", float((off > 0).mean()))
    assert off.max() <= 1
    assert (off > 0).mean() < FEW


SIZES = [(1, 1), (1, 7), (7, 1), (384, 384), (384, 900), (383, 385), (4, 2000), (1500, 3), (2000, 3000), (3000, 2000)]


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[1]}x{size[0]}")
def test_noise_of_any_size_differs_by_at_most_one_gray_level_per_pass(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    off = levels_off(RUN(image), image)
    assert off.max() <= 2
    assert (off > 1).mean() < 1e-4  # the sharpest possible edges, in an image three pixels wide
    assert (off > 0).mean() < FEW


def test_image_of_the_target_size_is_bit_identical() -> None:
    image = np.random.default_rng(1).integers(0, 256, (384, 384, 3), np.uint8)
    for order in ("RGB", "BGR"):
        spec = replace(SPEC, mean=(0.48, 0.45, 0.41), std=(0.27, 0.26, 0.28), channel_order=order)
        assert running(spec)(image).tobytes() == ImageProcessor(spec)([image]).tobytes()


def test_bilinear_resize_differs_by_at_most_one_level_per_pass() -> None:
    spec = replace(SPEC, filter="bilinear")
    run = running(spec)
    for path in IMAGES:
        image = decoded(path)
        assert levels_off(run(image), image, spec).max() <= 2


def test_onnx_reference_evaluator_agrees() -> None:
    spec = replace(SPEC, height=48, width=48)
    model = ir.to_proto(preprocess_model(spec))
    onnx.checker.check_model(model, full_check=True)
    for name in ("one_pixel_red.png", "cat_exif_orientation6.jpg"):
        image = decoded(FOLDER / "odd" / name)
        actual = ReferenceEvaluator(model).run(["pixel_values"], {"image": image})[0]
        assert levels_off(np.asarray(actual), image, spec).max() <= 1


@pytest.mark.parametrize("kind", ["lanczos", "box", "hamming", "nearest"])
def test_unsupported_filter_is_reported(kind: str) -> None:
    with pytest.raises(ExportError, match=f"'{kind}'.*bilinear and bicubic"):
        preprocess_model(replace(SPEC, filter=kind))  # type: ignore[arg-type]


def test_naflex_model_is_refused() -> None:
    with pytest.raises(ExportError, match="takes patches"):
        preprocess_model(replace(SPEC, resize="patches"))  # type: ignore[arg-type]


# --- joined to a tower -------------------------------------------------------------------------------------------


def test_joined_tower_embeds_a_decoded_image(artifact: Path, model: Siglip, tmp_path: Path) -> None:
    onnx_folder = Path(shutil.copytree(artifact / "onnx", tmp_path / "onnx"))
    joined = join_preprocess(ir.load(onnx_folder / "vision_model.onnx"), model.contract.image)
    ir.save(joined, onnx_folder / "image.onnx")
    session = onnxruntime.InferenceSession(onnx_folder / "image.onnx")
    assert [output.shape[0] for output in session.get_outputs()] == [1, 1, 1]
    for path in IMAGES[:6]:
        image = decoded(path)
        _, pooled, pixels = session.run(["last_hidden_state", "pooler_output", "pixel_values"], {"image": image})
        assert levels_off(pixels, image, model.contract.image).max() <= 1
        actual = pooled[0] / np.linalg.norm(pooled[0])
        assert actual @ model.encode_image([Image.fromarray(image)])[0] > 0.9999


def test_joining_neither_reads_nor_copies_weights(artifact: Path, model: Siglip, tmp_path: Path) -> None:
    shutil.copy(artifact / "onnx" / "vision_model.onnx", tmp_path)  # without its data
    joined = join_preprocess(ir.load(tmp_path / "vision_model.onnx"), model.contract.image)
    ir.save(joined, tmp_path / "image.onnx")
    assert (tmp_path / "image.onnx").stat().st_size < 200_000
    graph = onnx.load(tmp_path / "image.onnx", load_external_data=False).graph
    assert {e.value for t in graph.initializer for e in t.external_data if e.key == "location"} == {
        "vision_model.onnx_data"
    }


def test_only_a_vision_tower_can_be_joined(artifact: Path, model: Siglip) -> None:
    with pytest.raises(ExportError, match="takes input_ids"):
        join_preprocess(ir.load(artifact / "onnx" / "text_model.onnx"), model.contract.image)
