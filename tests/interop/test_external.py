"""`validate` works on other tools' exports, against the checkpoint that they were made from.

Optimum's folder is written as by `optimum-cli export onnx`. The folder for transformers.js follows its
scripts/convert.py and scripts/quantize.py (see `optimum_exports.py`): Optimum exports each tower, ONNX Runtime's
dynamic quantizer writes `_quantized`, and its float16 converter writes `_fp16`. Only tokenizer.json is ours, because
neither transformers 4 nor Optimum writes one for SigLIP.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

from siglip_onnx.exporter.checkpoint.checkpoint import Checkpoint
from siglip_onnx.exporter.export_artifact import write_files
from siglip_onnx.runtime.artifact.contract import Precision, Provider, Role, Verdict
from siglip_onnx.validate import CheckGroup, Report, ValidationRequest, validate_cell
from siglip_onnx.validate.external.open_external import external_precisions, open_external
from tests.conftest import CHECKPOINT, FEW, files

from . import consumers, environments


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The bundled checkpoint, exported with both tools."""
    folder = tmp_path_factory.mktemp("exports")
    folders = {"optimum": folder / "optimum", "transformers_js": folder / "transformers.js"}
    job = {"checkpoint": str(CHECKPOINT), **{name: str(path) for name, path in folders.items()}}
    consumers.python(environments.python("optimum"), "optimum_exports.py", job, folder)
    (folder / "ours").mkdir()
    write_files(Checkpoint.open(CHECKPOINT), folder / "ours")
    shutil.copy(folder / "ours" / "tokenizer.json", folders["transformers_js"])
    return folders


def validated(folder: Path, pairs: Path, precision: Precision = Precision.FP32) -> Report:
    request = ValidationRequest(folder, str(CHECKPOINT), pairs, limits=FEW)
    return validate_cell(request, precision, Provider.CPU, progress=lambda step: None).report


def test_optimum_export_passes_and_is_not_changed(exports: dict[str, Path], pairs: Path) -> None:
    folder = exports["optimum"]
    before = files(folder)
    external = open_external(folder, Checkpoint.open(CHECKPOINT))
    assert (external.kind, external.precision) == ("optimum", Precision.FP32)
    assert (external.has_tokenizer, external.has_preprocessor, external.has_joint) == (False, True, True)
    assert external.artifact.path("spiece.model").parent == folder
    report = validated(folder, pairs)
    report.require_pass()
    assert {CheckGroup.PIXELS, CheckGroup.BATCH} <= set(report.expected)
    assert CheckGroup.TOKENS not in report.expected
    assert any(check.name.startswith("joint graph") for check in report.checks)
    assert files(folder) == before


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16, Precision.INT8])
def test_transformers_js_folder_passes_at_each_precision(
    exports: dict[str, Path], pairs: Path, precision: Precision
) -> None:
    folder = exports["transformers_js"]
    assert external_precisions(folder) == (Precision.FP32, Precision.FP16, Precision.INT8)
    external = open_external(folder, Checkpoint.open(CHECKPOINT), precision)
    suffix = {Precision.FP16: "_fp16", Precision.INT8: "_quantized"}.get(precision, "")
    graphs = external.artifact.contract.variants[0].graphs
    assert {role: graph.path for role, graph in graphs.items()} == {
        Role.VISION: f"onnx/vision_model{suffix}.onnx",
        Role.TEXT: f"onnx/text_model{suffix}.onnx",
    }
    report = validated(folder, pairs, precision)
    report.require_pass()
    assert CheckGroup.TOKENS in report.expected


def test_defect_in_an_optimum_export_is_caught(exports: dict[str, Path], pairs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(exports["optimum"], tmp_path / "broken"))
    model = onnx.load(folder / "model.onnx")
    name = next(t.name for t in model.graph.initializer if t.name.endswith("text_model.head.bias"))
    tensor = next(t for t in model.graph.initializer if t.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros_like(onnx.numpy_helper.to_array(tensor)), name))
    onnx.save(model, folder / "model.onnx")
    report = validated(folder, pairs)
    failed = {
        check.name.split()[0]
        for check in report.checks
        if check.group is CheckGroup.EMBEDDINGS and check.verdict is Verdict.FAIL
    }
    assert (report.verdict, failed) == (Verdict.FAIL, {"text"})
