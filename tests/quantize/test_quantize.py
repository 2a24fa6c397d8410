"""Variants: what they compute, and how outliers affect them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from siglip_onnx.exporter import export
from siglip_onnx.quantize import Fp16, Goal, Int8, Int8Static, QuantizeRequest, QuantizeResult, Recipe, quantize
from siglip_onnx.quantize.recipes.base import CalibrationTower
from siglip_onnx.runtime import Artifact, Siglip
from siglip_onnx.runtime.artifact.contract import Precision, ReferenceKind, Role, Verdict
from siglip_onnx.runtime.errors import ParityError
from siglip_onnx.runtime.session import bare_session
from siglip_onnx.validate import Report, validate
from siglip_onnx.validate.stats import metrics

from ..conftest import CHECKPOINT, EVAL, FEW, add_pass, captions, measured, quiet
from ..support.outliers import rescale_values

# What the variants compute


@pytest.mark.parametrize(
    ("precision", "cosine", "size"),
    [
        (Precision.FP16, 0.9999, 0.505),
        (Precision.BF16, 0.9999, 0.515),
        (Precision.INT8, 0.999, 0.28),
        (Precision.INT8_STATIC, 0.999, 0.285),
        (Precision.INT8_WEIGHTS, 0.999, 0.305),
        (Precision.INT4, 0.98, 0.22),
    ],
)
def test_a_variant_is_small_accurate_and_passes(
    every: dict[Precision, QuantizeResult], precision: Precision, cosine: float, size: float
) -> None:
    result = every[precision]
    report = result.reports[0]
    assert report.verdict is Verdict.PASS
    assert report.against is ReferenceKind.FP32
    for role in (Role.VISION, Role.TEXT):
        assert measured(report, f"{role} centered cosine median") >= cosine
        tower = result.record.towers[role]
        assert tower.bytes <= size * tower.fp32_bytes


def test_variants_pass_against_pytorch_too(every: dict[Precision, QuantizeResult], pairs: Path) -> None:
    artifact = every[Precision.INT4].artifact
    report = validate(Siglip.load(artifact.folder, "int8"), CHECKPOINT, pairs, limits=FEW, progress=quiet).report
    assert (report.verdict, report.against) == (Verdict.PASS, ReferenceKind.CHECKPOINT)
    assert {check.group for check in report.checks} >= {"tokens", "pixels"}


def test_every_variant_is_listed_hashed_and_loaded_by_the_runtime(every: dict[Precision, QuantizeResult]) -> None:
    folder = every[Precision.INT4].artifact.folder
    Artifact.open(folder).verify()
    for precision in Precision:
        best = Siglip.load(folder, precision).classify([EVAL / "distorted-noto-1f43b.webp"], ["bear", "train", "pizza"])
        assert best[0][0].label == "bear"
    assert sorted(p.name for p in folder.iterdir() if p.name.startswith(".")) == []


def test_inputs_and_outputs_are_those_that_transformers_js_expects(every: dict[Precision, QuantizeResult]) -> None:
    folder = every[Precision.INT4].artifact.folder
    for suffix in ("_fp16", "_int8", "_q4", "_bf16", "_int8_static", "_int8_weights"):
        vision, text = (bare_session(str(folder / f"onnx/{name}_model{suffix}.onnx")) for name in ("vision", "text"))
        joint = bare_session(str(folder / f"onnx/model{suffix}.onnx"))
        interface = {value.name: value.type for value in (*vision.get_inputs(), *text.get_inputs())}
        assert interface == {"pixel_values": "tensor(float)", "input_ids": "tensor(int64)"}
        assert [value.name for value in vision.get_outputs()] == ["last_hidden_state", "pooler_output"]
        outputs = {value.name: value.type for value in joint.get_outputs()}
        assert set(outputs) == {"logits_per_image", "logits_per_text", "text_embeds", "image_embeds"}
        assert set(outputs.values()) == {"tensor(float)"}


def test_portable_variants_are_valid_onnx_of_standard_operators(every: dict[Precision, QuantizeResult]) -> None:
    folder = every[Precision.INT4].artifact.folder
    for suffix in ("_fp16", "_bf16", "_int8", "_int8_static"):
        for name in ("vision_model", "text_model", "model"):
            path = folder / f"onnx/{name}{suffix}.onnx"
            onnx.checker.check_model(path)
            domains = {node.domain for node in onnx.load(path, load_external_data=False).graph.node}
            assert domains == {""}


def test_another_implementation_of_onnx_reads_int8_the_same(
    every: dict[Precision, QuantizeResult], pairs: Path
) -> None:
    """onnx's own evaluator, which shares no code with ONNX Runtime."""
    folder = every[Precision.INT8].artifact.folder
    ids = Siglip.load(folder).tokenizer(["a bear", "pizza"])
    path = folder / "onnx/text_model_int8.onnx"
    theirs = ReferenceEvaluator(onnx.load(path)).run(["pooler_output"], {"input_ids": ids[:1]})[0]
    ours = bare_session(str(path)).run(["pooler_output"], {"input_ids": ids[:1]})[0]
    # a value on the edge of two steps may fall to either side, so they agree to about a step
    assert metrics.row_cosines(ours, theirs).min() > 0.9999


def test_true_float16_arithmetic_is_accurate(passed: Path, pairs: Path) -> None:
    """ONNX Runtime's CPU kernels may widen float16; numpy, below onnx's evaluator, rounds after every node."""
    model = Siglip.load(passed)
    rows = model.images([pairs / json.loads(line)["image"] for line in captions(pairs)[:4]])
    source = passed / "onnx/vision_model.onnx"
    converted = Fp16().prepare(CalibrationTower(source, rows)).derive(frozenset())
    actual = ReferenceEvaluator(ir.to_proto(_loaded(converted))).run(["pooler_output"], {"pixel_values": rows})[0]
    assert actual.dtype == np.float32
    assert metrics.centered_cosines(actual, model.encode(Role.VISION, rows)).min() > 0.9999


def _loaded(model: ir.Model) -> ir.Model:
    """With every weight in memory."""
    for name, value in model.graph.initializers.items():
        assert value.const_value is not None
        value.const_value = ir.Tensor(np.asarray(value.const_value.numpy()), name=name)
    return model


# Outliers


def test_outliers_defeat_plain_int8(outliers: Path, pairs: Path) -> None:
    with pytest.raises(ParityError, match="int8 on cpu: FAIL"):
        quantize(outliers, Int8(smoothing=False), QuantizeRequest(data=pairs), progress=quiet)
    assert Artifact.open(outliers).contract.variant(Precision.INT8) is None
    rejected = Report.from_json((outliers / "reports/rejected-int8-cpu.json").read_bytes())
    assert measured(rejected, "vision centered cosine median") < 0.9


@pytest.mark.parametrize("kind", [Int8, Int8Static])
def test_smoothing_handles_outliers(outliers: Path, pairs: Path, kind: type[Recipe], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(outliers, tmp_path / "emoji"))
    plain = Artifact.open(folder).contract.files["onnx/vision_model.onnx_data"].bytes
    result = quantize(folder, kind(), QuantizeRequest(data=pairs), progress=quiet)
    report = result.reports[0]
    assert measured(report, "vision centered cosine median") > 0.9995
    assert measured(report, "text centered cosine median") > 0.999
    assert result.record.towers[Role.VISION].notes  # the smoothed activations are noted
    assert result.record.towers[Role.VISION].bytes < 0.28 * plain  # and the graph keeps its size


def test_the_search_excludes_the_right_sites_without_smoothing(outliers: Path, pairs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(outliers, tmp_path / "emoji"))
    request = QuantizeRequest(data=pairs, goal=Goal(0.999), towers=(Role.TEXT,))
    result = quantize(folder, Int8(smoothing=False), request, progress=quiet)
    tower = result.record.towers[Role.TEXT]
    # only the products after the LayerNorms with outliers
    assert set(tower.excluded) == {f"layers.{i}.{site}" for i in range(3) for site in ("qkv", "mlp.fc1")}
    chosen = next(step for step in tower.steps if step.excluded == tower.excluded)
    assert chosen.measured.centered_cosine >= 0.999
    assert chosen.measured.speed is not None
    assert len(tower.steps) > 14  # each site alone, and the bisection
    assert not (folder / "reports/search-int8-text.json").exists()
    page = (folder / "reports/parity-int8-cpu.html").read_text()
    assert "Tower variants that the search measured" in page
    assert "layers.0.qkv" in page


@pytest.mark.gate
def test_nodes_that_would_overflow_float16_stay_float32_and_are_named(tmp_path: Path, pairs: Path) -> None:
    checkpoint = Path(shutil.copytree(CHECKPOINT, tmp_path / "checkpoint"))
    rescale_values(checkpoint, 5e4)
    folder = export(checkpoint, tmp_path / "emoji", progress=quiet).folder
    add_pass(folder, checkpoint, pairs)
    with pytest.raises(ParityError), np.errstate(invalid="ignore"):
        quantize(folder, Fp16(headroom=0.0), QuantizeRequest(data=pairs), progress=quiet)
    result = quantize(folder, Fp16(), QuantizeRequest(data=pairs, cuda=True), progress=quiet)
    notes = result.record.towers[Role.VISION].notes
    assert "layers.0.out/MatMul" in notes
    assert notes["layers.0.qkv/MatMul"].startswith("float32: ")
    assert not any("mlp" in name for name in notes)
    # no attention is fused around nodes that stay float32, but the MLPs are
    assert result.record.fused[Role.VISION]["Attention"] == 6
    fused = onnx.load(folder / "onnx/vision_model_fp16.cuda.onnx", load_external_data=False).graph
    kinds = [node.op_type for node in fused.node]
    assert (kinds.count("Attention"), kinds.count("FastGelu")) == (0, 7)
