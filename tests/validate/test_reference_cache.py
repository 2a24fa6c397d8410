"""The reference runs once; its cached outputs are found for the same inputs, and for no others."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from siglip_onnx.exporter import Checkpoint
from siglip_onnx.runtime import Siglip
from siglip_onnx.runtime.artifact.contract import Role
from siglip_onnx.runtime.errors import InputError
from siglip_onnx.validate import Samples, ValidationRequest, validate
from siglip_onnx.validate.checks.context import CheckContext
from siglip_onnx.validate.open_reference import open_context
from siglip_onnx.validate.reference.cache import ReferenceCache
from siglip_onnx.validate.reference.pytorch import PyTorchReference

from ..conftest import CHECKPOINT, quiet


def run(artifact: Path, checkpoint: Path, cache: Path) -> CheckContext:
    """Run the reference on the bundled photos."""
    request = ValidationRequest(artifact, str(checkpoint), cache=cache)
    return open_context(Siglip.load(artifact), request, Samples.read(), progress=quiet)


@pytest.fixture(scope="module")
def kept(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the bundled photos."""
    folder = tmp_path_factory.mktemp("cache")
    run(artifact, CHECKPOINT, folder)
    return folder


def reference() -> PyTorchReference:
    return PyTorchReference(Checkpoint.open(CHECKPOINT))


def test_a_second_run_needs_no_weights(kept: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = validate(Siglip.load(artifact), CHECKPOINT, progress=quiet).report

    def unexpected(*arguments: object) -> None:
        raise AssertionError("The reference's weights were read.")

    monkeypatch.setattr(PyTorchReference, "_load", unexpected)
    second = validate(Siglip.load(artifact), CHECKPOINT, cache=kept, progress=quiet).report
    assert [(c.name, c.verdict) for c in second.checks] == [(c.name, c.verdict) for c in first.checks]
    assert [c.measured for c in second.checks if c.group == "logits"] == [
        c.measured for c in first.checks if c.group == "logits"
    ]


def test_a_complete_cache_needs_no_image_processor_where_pixels_are_equal(
    kept: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unexpected(*arguments: object) -> None:
        raise AssertionError("The image processor ran.")

    context = run(artifact, CHECKPOINT, kept)
    monkeypatch.setattr(PyTorchReference, "_pixels", unexpected)
    assert all(row.own is None for row in context.inputs.rows(Role.VISION))


def test_outputs_of_other_rows_are_not_found(kept: Path) -> None:
    oracle = reference()
    data = next(kept.iterdir()).stem.split("-")[1]
    cache = ReferenceCache(oracle, data, None)
    ids = oracle.ids(["a bear"])
    expected = oracle.embeddings(Role.TEXT, ids)
    assert np.array_equal(cache.embeddings(Role.TEXT, ids), expected)
    ids[0, 0] += 1
    assert not np.array_equal(cache.embeddings(Role.TEXT, ids), expected)


def test_the_cache_of_another_reference_is_refused(
    kept: Path, artifact: Path, checkpoint: Path, tmp_path: Path
) -> None:
    """A file with the name that another model's cache would have."""
    from safetensors.numpy import load_file, save_file

    weights = load_file(checkpoint / "model.safetensors")
    weights["logit_bias"] = weights["logit_bias"] + 1
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    other = PyTorchReference(Checkpoint.open(checkpoint))
    (own,) = kept.iterdir()
    data = own.stem.split("-")[1]
    shutil.copy(own, tmp_path / f"{other.identity[:20]}-{data}.npz")
    with pytest.raises(InputError, match="another reference"):
        run(artifact, checkpoint, tmp_path)


def test_a_damaged_cache_is_refused(kept: Path, artifact: Path, tmp_path: Path) -> None:
    (own,) = kept.iterdir()
    content = bytearray(own.read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / own.name).write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        run(artifact, CHECKPOINT, tmp_path)
