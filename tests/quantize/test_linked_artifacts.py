"""Artifacts whose data files are links: after `layout`, and in the Hugging Face cache."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx_ir as ir
import pytest

from siglip_onnx.exporter import freeze_labels
from siglip_onnx.exporter.graph.load import load_graph
from siglip_onnx.exporter.layouts import write_layout
from siglip_onnx.exporter.options import Layout
from siglip_onnx.quantize import Int8Weights, QuantizeRequest, quantize
from siglip_onnx.runtime import Artifact, Siglip

from ..conftest import files, quiet


def use(artifact: Path, pairs: Path, target: Path) -> None:
    """Freeze labels and quantize, which read every weight."""
    freeze_labels(artifact, ["a bear", "a cat"], target, progress=quiet)
    Artifact.open(target).verify()
    quantize(artifact, Int8Weights(), QuantizeRequest(data=pairs), progress=quiet)
    Siglip.load(artifact, "int8-weights").encode_text(["a bear"])


def test_a_layout_with_hard_links_leaves_the_artifact_usable(emoji: Path, pairs: Path, tmp_path: Path) -> None:
    write_layout(emoji, tmp_path / "optimum", Layout.OPTIMUM, progress=quiet)
    assert (emoji / "onnx/vision_model.onnx_data").stat().st_nlink > 1
    before = files(tmp_path / "optimum")
    use(emoji, pairs, tmp_path / "classifier")
    assert files(tmp_path / "optimum") == before


def test_an_artifact_of_symbolic_links_is_usable(emoji: Path, tmp_path: Path) -> None:
    blobs, linked = tmp_path / "blobs", tmp_path / "snapshot"
    shutil.copytree(emoji, linked)
    blobs.mkdir()
    for number, path in enumerate(sorted(path for path in linked.rglob("*") if path.is_file())):
        blob = Path(shutil.move(path, blobs / str(number)))
        path.symlink_to(blob)
    freeze_labels(linked, ["a bear", "a cat"], tmp_path / "classifier", progress=quiet)
    Artifact.open(tmp_path / "classifier").verify()


@pytest.mark.parametrize("location", ["../outside", "/etc/hostname", "sub/data"])
def test_a_data_file_outside_the_folder_is_not_read(tmp_path: Path, emoji: Path, location: str) -> None:
    model = ir.load(emoji / "onnx/text_model.onnx")
    weights = [v for v in model.graph.initializers.values() if isinstance(v.const_value, ir.ExternalTensor)]
    weights[0].const_value._location = location  # type: ignore[union-attr]
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx/text_model.onnx").write_bytes(ir.to_proto(model).SerializeToString())
    loaded = load_graph(tmp_path / "onnx/text_model.onnx").graph.initializers[str(weights[0].name)]
    assert loaded.const_value is not None
    with pytest.raises(ValueError, match="plain file name"):
        loaded.const_value.numpy()
