"""The reference is asked once; its answers are found again for the same questions, and for no others."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from siglip_onnx.exporter import Checkpoint
from siglip_onnx.runtime import Siglip
from siglip_onnx.runtime.artifact.contract import Role
from siglip_onnx.runtime.errors import InputError
from siglip_onnx.validate import Terms, validate
from siglip_onnx.validate.reference.cache import ReferenceCache
from siglip_onnx.validate.reference.pytorch import PyTorchReference
from siglip_onnx.validate.validate_variant import prepared

from ..conftest import CHECKPOINT, quiet


@pytest.fixture(scope="module")
def kept(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers about the bundled photos."""
    folder = tmp_path_factory.mktemp("answers")
    prepared(Siglip.load(artifact), CHECKPOINT, None, Terms(answers=folder), progress=quiet)
    return folder


def reference() -> PyTorchReference:
    return PyTorchReference(Checkpoint.open(CHECKPOINT))


def test_a_second_run_needs_no_weights(kept: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = validate(Siglip.load(artifact), CHECKPOINT, progress=quiet).report

    def unwanted(*arguments: object) -> None:
        raise AssertionError("The reference's weights were read.")

    monkeypatch.setattr(PyTorchReference, "_load", unwanted)
    second = validate(Siglip.load(artifact), CHECKPOINT, terms=Terms(answers=kept), progress=quiet).report
    assert [(c.name, c.verdict) for c in second.checks] == [(c.name, c.verdict) for c in first.checks]
    assert [c.measured for c in second.checks if c.group == "logits"] == [
        c.measured for c in first.checks if c.group == "logits"
    ]


def test_answers_to_other_rows_are_not_found(kept: Path) -> None:
    oracle = reference()
    data = next(kept.iterdir()).stem.split("-")[1]
    answers = ReferenceCache(oracle, data, None)
    ids = oracle.ids(["a bear"])
    wanted = oracle.embeddings(Role.TEXT, ids)
    assert np.array_equal(answers.embeddings(Role.TEXT, ids), wanted)
    ids[0, 0] += 1
    assert not np.array_equal(answers.embeddings(Role.TEXT, ids), wanted)


def test_answers_of_another_reference_are_refused(kept: Path, artifact: Path, checkpoint: Path, tmp_path: Path) -> None:
    """A file under the name that another model's answers would have."""
    from safetensors.numpy import load_file, save_file

    weights = load_file(checkpoint / "model.safetensors")
    weights["logit_bias"] = weights["logit_bias"] + 1
    save_file(weights, checkpoint / "model.safetensors", metadata={"format": "pt"})
    other = PyTorchReference(Checkpoint.open(checkpoint))
    (own,) = kept.iterdir()
    data = own.stem.split("-")[1]
    shutil.copy(own, tmp_path / f"{other.identity[:20]}-{data}.npz")
    with pytest.raises(InputError, match="another reference"):
        prepared(Siglip.load(artifact), checkpoint, None, Terms(answers=tmp_path), progress=quiet)


def test_damaged_answers_are_refused(kept: Path, artifact: Path, tmp_path: Path) -> None:
    (own,) = kept.iterdir()
    content = bytearray(own.read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / own.name).write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        prepared(Siglip.load(artifact), CHECKPOINT, None, Terms(answers=tmp_path), progress=quiet)
