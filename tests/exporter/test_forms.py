"""Artifacts with other inputs or outputs run like any other: fixed batches, images, patches, frozen labels."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches
from transformers.models.siglip2.tokenization_siglip2 import Siglip2Tokenizer

from siglip_onnx.exporter import Checkpoint, ExportOptions, GraphInput, export, freeze_labels
from siglip_onnx.exporter.checkpoint.config import read_config
from siglip_onnx.exporter.towers.modules import NaflexTower
from siglip_onnx.runtime import Siglip
from siglip_onnx.runtime.artifact.contract import Role
from siglip_onnx.runtime.errors import (
    ArtifactError,
    CheckpointError,
    ExportError,
    InputError,
    ProviderError,
    QuantizationError,
)
from siglip_onnx.runtime.preprocessing.image import patch_grid
from siglip_onnx.runtime.preprocessing.tokenizer import Tokenizer
from siglip_onnx.validate.data.samples import TEXT_PROBES, image_probes
from siglip_onnx.validate.reference.pytorch import PyTorchReference

from ..conftest import CHECKPOINT, EVAL, cli, is_one_paragraph, quiet
from ..support.family import MEMBERS, small

FILES = sorted(EVAL.glob("*.webp"))[:5]


@pytest.fixture(scope="module")
def naflex(tmp_path_factory: pytest.TempPathFactory) -> tuple[PyTorchReference, Siglip]:
    folder = tmp_path_factory.mktemp("naflex")
    checkpoint = small(MEMBERS["siglip2-base-patch16-naflex"], folder / "checkpoint")
    artifact = export(checkpoint, folder / "artifact", progress=quiet)
    return PyTorchReference(Checkpoint.open(checkpoint)), Siglip(artifact)


def test_patches_equal_the_reference(naflex: tuple[PyTorchReference, Siglip]) -> None:
    reference, model = naflex
    images = [*FILES, *image_probes().values()]
    assert np.array_equal(model.images(images), reference.pixels(images))


def test_images_of_any_shape_match_transformers(naflex: tuple[PyTorchReference, Siglip]) -> None:
    reference, model = naflex
    rows = reference.pixels([*FILES, *image_probes().values()])
    rows = rows[rows["spatial_shapes"][:, 1] > 1]  # see the next test
    assert len({tuple(shape) for shape in rows["spatial_shapes"]}) >= 3
    actual, expected = model.encode(Role.VISION, rows), reference.embeddings(Role.VISION, rows)
    np.testing.assert_allclose(actual, expected, atol=2e-5 * np.abs(expected).max())
    assert model.encode_image(FILES).shape == (len(FILES), 32)


def test_grid_with_a_single_column_is_resized_by_definition() -> None:
    """On the CPU, torch 2.13 (and so transformers) resizes to one column incorrectly unless channels come last."""
    config = read_config(CHECKPOINT).vision_config
    tower = NaflexTower(replace(config, naflex=True, num_patches=36), ExportOptions(), 50)
    torch.nn.init.normal_(tower.positions)
    grid = tower.positions.view(1, 6, 6, -1).permute(0, 3, 1, 2)
    for rows, columns in ((50, 1), (1, 50), (25, 2), (7, 7), (1, 1)):
        actual = tower.resized_positions(torch.tensor([[rows, columns]], dtype=torch.float32))[0, : rows * columns]
        last = grid.contiguous(memory_format=torch.channels_last)
        expected = F.interpolate(last, size=(rows, columns), mode="bilinear", align_corners=False, antialias=True)
        torch.testing.assert_close(actual, expected[0].flatten(1).T, atol=1e-5, rtol=0)


def test_mask_that_contradicts_the_shapes_is_refused(naflex: tuple[PyTorchReference, Siglip]) -> None:
    model = naflex[1]
    rows = model.images(FILES)
    rows["spatial_shapes"][2] += 1
    with pytest.raises(InputError, match="contradict each other"):
        model.encode(Role.VISION, rows)
    rows = model.images(FILES)
    rows["pixel_attention_mask"], rows["spatial_shapes"] = 1, 100  # more than there are patches
    with pytest.raises(InputError, match="contradict each other"):
        model.encode(Role.VISION, rows)


def test_siglip2_token_ids_equal_the_reference(naflex: tuple[PyTorchReference, Siglip]) -> None:
    """The artifact's tokenizer.json lower-cases texts, so every consumer of the file does."""
    import tokenizers

    reference, model = naflex
    texts = [*TEXT_PROBES, "A <eos> b", "<pad>"]
    expected = reference.ids(texts)
    assert np.array_equal(model.tokenizer(texts, on_truncated=lambda truncation: None), expected)
    fast = tokenizers.Tokenizer.from_file(str(model.artifact.path("tokenizer.json")))
    assert [fast.encode(text).ids for text in texts] == expected.tolist()
    assert isinstance(reference._tokenizer, Siglip2Tokenizer)


def test_vocabulary_of_another_model_is_refused(tmp_path: Path) -> None:
    folder = small(MEMBERS["siglip2-base-patch16-224"], tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["vocab_size"] = 2000
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError):
        Checkpoint.open(folder)


def test_runtime_refuses_the_wrong_vocabulary(naflex: tuple[PyTorchReference, Siglip], tmp_path: Path) -> None:
    model = naflex[1]
    (tmp_path / "tokenizer.json").write_text("{}")
    assert model.contract.tokenizer is not None
    with pytest.raises(ArtifactError, match="cannot be read"):
        Tokenizer.load(tmp_path / "tokenizer.json", model.contract.tokenizer)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([14, 16]), st.sampled_from([50, 256, 1024]))
def test_grid_equals_the_reference(height: int, width: int, patch: int, limit: int) -> None:
    rows, columns = patch_grid(height, width, patch, limit)
    assert (rows * patch, columns * patch) == get_image_size_for_max_num_patches(height, width, patch, limit)


@pytest.mark.gate
def test_fixed_batch_accepts_any_number_of_images(model: Siglip, tmp_path: Path) -> None:
    fixed = Siglip(export(CHECKPOINT, tmp_path / "artifact", ExportOptions(batch=3), progress=quiet))
    assert fixed.session(Role.VISION).graph.inputs[0].shape[0] == 3
    for count in (1, 3, 5):
        np.testing.assert_allclose(fixed.encode_image(FILES[:count]), model.encode_image(FILES[:count]), atol=1e-6)
    np.testing.assert_allclose(fixed.encode_text(["a bear"]), model.encode_text(["a bear"]), atol=1e-6)
    with pytest.raises(ProviderError, match="need a graph with one input"):
        fixed.on_device(Role.VISION)
    run = cli("quantize", tmp_path / "artifact", "--precision", "fp16")
    assert (run.code, is_one_paragraph(run.err)) == (QuantizationError.exit_code, True)
    assert "a batch fixed to 3" in " ".join(run.err.split())


@pytest.mark.gate
def test_graph_that_resizes_accepts_decoded_images(model: Siglip, tmp_path: Path) -> None:
    options = ExportOptions(image_input=GraphInput.IMAGE, pooled_only=True, normalized=True)
    resizing = Siglip(export(CHECKPOINT, tmp_path / "artifact", options, progress=quiet))
    large = Image.open(FILES[0]).convert("RGB").resize((500, 300))
    actual, expected = resizing.encode_image([large, FILES[1]]), model.encode_image([large, FILES[1]])
    np.testing.assert_allclose(actual, expected, atol=5e-3)
    assert [spec.name for spec in resizing.session(Role.TEXT).graph.outputs] == ["pooler_output"]
    text_embedding = resizing.encode(Role.TEXT, resizing.tokenizer(["x"]))
    np.testing.assert_allclose(np.linalg.norm(text_embedding, axis=1), 1, atol=1e-6)
    with pytest.raises(ProviderError, match="resizes them incorrectly"):
        Siglip.load(tmp_path / "artifact", provider="openvino").encode_image([large])
    with pytest.raises(InputError, match="must have 4 dimensions, got 3"):
        resizing.encode(Role.VISION, np.asarray(large))
    with pytest.raises(InputError, match="different sizes"):
        resizing.images([large, FILES[1]])


@pytest.mark.parametrize("options", [{"batch": 0}, {"image_size": 0}, {"image_input": GraphInput.IMAGE, "batch": 2}])
def test_invalid_options_are_refused(options: dict) -> None:
    with pytest.raises(ExportError):
        ExportOptions(**options)


@pytest.fixture(scope="module")
def classifier(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("classifier") / "classifier"
    freeze_labels(artifact, ["bear", "pizza", "grinning face"], target, templates=["{}", "an {} emoji"], progress=quiet)
    return target


def test_frozen_labels_give_the_probabilities_of_the_full_model(model: Siglip, classifier: Path) -> None:
    frozen, labels, templates = Siglip.load(classifier), ["bear", "pizza", "grinning face"], ["{}", "an {} emoji"]
    for actual, expected in zip(frozen.classify(FILES), model.classify(FILES, labels, template=templates), strict=True):
        expected_by_label = {label.label: label.probability for label in expected}
        assert {label.label: label.probability for label in actual} == pytest.approx(expected_by_label, abs=1e-5)
    np.testing.assert_allclose(frozen.encode_image(FILES), model.encode_image(FILES), atol=1e-6)


def test_classifier_is_smaller_and_has_no_tokenizer(artifact: Path, classifier: Path) -> None:
    names = {path.name for path in classifier.rglob("*") if path.is_file()}
    assert not {"spiece.model", "tokenizer.json", "text_model.onnx"} & names
    sizes = [sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) for folder in (classifier, artifact)]
    assert sizes[0] < 0.8 * sizes[1]


def test_classifier_refuses_texts_and_other_labels(classifier: Path) -> None:
    frozen = Siglip.load(classifier)
    with pytest.raises(InputError, match="takes no others"):
        frozen.classify(FILES, ["a cat"])
    with pytest.raises(InputError, match="frozen together with their templates"):
        frozen.classify(FILES, template="a drawing of {}")
    with pytest.raises(ArtifactError, match="cannot encode texts"):
        frozen.tokenizer(["a cat"])
    with pytest.raises(ArtifactError, match="has no text graph"):
        frozen.encode_text(["a cat"])


def test_command_line_classifies_with_frozen_labels(classifier: Path) -> None:
    run = cli("classify", classifier, FILES[0], "--json")
    assert run.code == 0, run.err
    assert len(json.loads(run.out)[str(FILES[0])]) == 3


def test_classifier_embeds_a_collection(classifier: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    shutil.copy(FILES[0], tmp_path / "photos")
    run = cli("embed", classifier, tmp_path / "photos", "-o", tmp_path / "photos.parquet")
    assert run.code == 0, run.err


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("bear\nbear\n", "appears twice"),
        ("Bear!\nbear\n", "has the same token ids as"),
        ("\n \n", "has no label"),
        ("bear " * 70 + "\n", "would be truncated after"),
    ],
)
def test_invalid_labels_are_refused(artifact: Path, tmp_path: Path, labels: str, message: str) -> None:
    (tmp_path / "labels.txt").write_text(labels)
    run = cli("freeze-labels", artifact, tmp_path / "labels.txt", "-o", tmp_path / "classifier")
    assert (run.code, is_one_paragraph(run.err)) == (InputError.exit_code, True)
    assert message in " ".join(run.err.split())
    assert not (tmp_path / "classifier").exists()
