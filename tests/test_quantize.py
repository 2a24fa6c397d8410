"""Variants: what they compute, how they are judged, and what is left when something goes wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx.reference import ReferenceEvaluator

from siglip_onnx.exporter import export
from siglip_onnx.quantize import (
    RECIPES,
    Fp16,
    Goal,
    Int8,
    Int8Static,
    Job,
    Metric,
    Recipe,
    Result,
    derive,
    integer,
    quantize,
    search,
    weight_only,
)
from siglip_onnx.quantize.blocks import cut, stream
from siglip_onnx.quantize.fuse import fuse
from siglip_onnx.quantize.recipes import Tower
from siglip_onnx.quantize.search import Diary, Measured, Step
from siglip_onnx.runtime import Artifact, Siglip
from siglip_onnx.runtime.artifact import verdict_of
from siglip_onnx.runtime.contract import Precision, Provider, Role, Verdict, Yardstick
from siglip_onnx.runtime.errors import (
    ArtifactError,
    InconclusiveError,
    InputError,
    ParityError,
    QuantizationError,
)
from siglip_onnx.runtime.session import bare_session
from siglip_onnx.validate import Report, metrics, store, validate

from .conftest import CHECKPOINT, EVAL, Run, is_one_paragraph
from .outliers import rescale_norms, rescale_values

PAIRS = 48
Command = Callable[..., Run]


def quiet(step: str) -> None:
    pass


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of the evaluation set that is quick to run."""
    folder = tmp_path_factory.mktemp("pairs")
    lines = (EVAL / "captions.jsonl").read_text().splitlines()[:PAIRS]
    for line in lines:
        shutil.copy(EVAL / json.loads(line)["image"], folder)
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder


def judged(checkpoint: Path, folder: Path, data: Path) -> Path:
    """An artifact whose fp32 variant has passed."""
    export(checkpoint, folder, progress=quiet)
    model = Siglip.load(folder)
    report, html = validate(model, checkpoint, data, progress=quiet)
    report.require_pass()
    store(model.artifact, report, html)
    return folder


@pytest.fixture(scope="module")
def passed(tmp_path_factory: pytest.TempPathFactory, pairs: Path) -> Path:
    return judged(CHECKPOINT, tmp_path_factory.mktemp("passed") / "emoji", pairs)


@pytest.fixture
def emoji(passed: Path, tmp_path: Path) -> Path:
    """An artifact for a test to add to."""
    return Path(shutil.copytree(passed, tmp_path / "emoji"))


@pytest.fixture(scope="module")
def every(passed: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, Result]:
    """One artifact with every variant."""
    folder = Path(shutil.copytree(passed, tmp_path_factory.mktemp("every") / "emoji"))
    results = {}
    for precision, kind in RECIPES.items():
        job = Job(data=pairs, cuda=precision is Precision.FP16)
        results[precision] = quantize(folder, kind(), job, progress=quiet)
    return results


@pytest.fixture(scope="module")
def outliers(tmp_path_factory: pytest.TempPathFactory, pairs: Path) -> Path:
    """A function-preserving copy of the trained model whose LayerNorms have channels 30 to 300 times larger."""
    folder = tmp_path_factory.mktemp("outliers")
    shutil.copytree(CHECKPOINT, folder / "checkpoint")
    rescale_norms(folder / "checkpoint")
    return judged(folder / "checkpoint", folder / "emoji", pairs)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def found(report: Report, name: str) -> float:
    value = next(check.value for check in report.checks if check.name == name)
    assert value is not None
    return value


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
def test_a_variant_is_small_passes_and_stays_near(
    every: dict[Precision, Result], precision: Precision, cosine: float, size: float
) -> None:
    result = every[precision]
    report = result.reports[0]
    assert report.verdict is Verdict.PASS
    assert report.against is Yardstick.FP32
    for role in (Role.VISION, Role.TEXT):
        assert found(report, f"{role} centred cosine median") >= cosine
        tower = result.record.towers[role]
        assert tower.bytes <= size * tower.fp32_bytes


def test_variants_are_judged_by_pytorch_too(every: dict[Precision, Result], pairs: Path) -> None:
    artifact = every[Precision.INT4].artifact
    report, _ = validate(Siglip.load(artifact.folder, "int8"), CHECKPOINT, pairs, progress=quiet)
    assert (report.verdict, report.against) == (Verdict.PASS, Yardstick.CHECKPOINT)
    assert {check.rung for check in report.checks} >= {"tokens", "pixels"}


def test_every_variant_is_listed_hashed_and_loaded_by_the_runtime(every: dict[Precision, Result]) -> None:
    folder = every[Precision.INT4].artifact.folder
    Artifact.open(folder).verify()
    for precision in Precision:
        best = Siglip.load(folder, precision).classify([EVAL / "distorted-noto-1f43b.webp"], ["bear", "train", "pizza"])
        assert best[0][0].label == "bear"
    assert sorted(p.name for p in folder.iterdir() if p.name.startswith(".")) == []


def test_inputs_and_outputs_are_those_that_transformers_js_expects(every: dict[Precision, Result]) -> None:
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


def test_portable_variants_are_valid_onnx_of_standard_operators(every: dict[Precision, Result]) -> None:
    folder = every[Precision.INT4].artifact.folder
    for suffix in ("_fp16", "_bf16", "_int8", "_int8_static"):
        for name in ("vision_model", "text_model", "model"):
            path = folder / f"onnx/{name}{suffix}.onnx"
            onnx.checker.check_model(path)
            domains = {node.domain for node in onnx.load(path, load_external_data=False).graph.node}
            assert domains == {""}


def test_another_implementation_of_onnx_reads_int8_the_same(every: dict[Precision, Result], pairs: Path) -> None:
    """onnx's own evaluator, which shares no code with ONNX Runtime."""
    folder = every[Precision.INT8].artifact.folder
    ids = Siglip.load(folder).tokenizer(["a bear", "pizza"])
    path = folder / "onnx/text_model_int8.onnx"
    theirs = ReferenceEvaluator(onnx.load(path)).run(["pooler_output"], {"input_ids": ids[:1]})[0]
    ours = bare_session(str(path)).run(["pooler_output"], {"input_ids": ids[:1]})[0]
    # a value on the edge of two steps may fall to either side, so they agree to about a step
    assert metrics.row_cosines(ours, theirs).min() > 0.9999


def test_float16_arithmetic_done_in_earnest_stays_near(passed: Path, pairs: Path) -> None:
    """ONNX Runtime's CPU kernels may widen float16; numpy, below onnx's evaluator, rounds after every node."""
    model = Siglip.load(passed)
    rows = model.images([json.loads(line)["image"] and pairs / json.loads(line)["image"] for line in _lines(pairs)[:4]])
    source = passed / "onnx/vision_model.onnx"
    lowered = Fp16().prepare(Tower(source, rows)).derive(frozenset())
    found = ReferenceEvaluator(ir.to_proto(_loaded(lowered))).run(["pooler_output"], {"pixel_values": rows})[0]
    assert found.dtype == np.float32
    assert metrics.centred_cosines(found, model.encode(Role.VISION, rows)).min() > 0.9999


def _lines(folder: Path) -> list[str]:
    return (folder / "captions.jsonl").read_text().splitlines()


def _loaded(model: ir.Model) -> ir.Model:
    """With every weight in memory."""
    for name, value in model.graph.initializers.items():
        assert value.const_value is not None
        value.const_value = ir.Tensor(np.asarray(value.const_value.numpy()), name=name)
    return model


# Outliers


def test_outliers_defeat_plain_int8(outliers: Path, pairs: Path) -> None:
    with pytest.raises(ParityError, match="int8 on cpu: FAIL"):
        quantize(outliers, Int8(smoothing=False), Job(data=pairs), progress=quiet)
    assert Artifact.open(outliers).contract.variant(Precision.INT8) is None
    rejected = Report.from_json((outliers / "reports/rejected-int8-cpu.json").read_bytes())
    assert found(rejected, "vision centred cosine median") < 0.9


@pytest.mark.parametrize("kind", [Int8, Int8Static])
def test_smoothing_cures_outliers(outliers: Path, pairs: Path, kind: type[Recipe], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(outliers, tmp_path / "emoji"))
    plain = Artifact.open(folder).contract.files["onnx/vision_model.onnx_data"].bytes
    result = quantize(folder, kind(), Job(data=pairs), progress=quiet)
    report = result.reports[0]
    assert found(report, "vision centred cosine median") > 0.9995
    assert found(report, "text centred cosine median") > 0.999
    assert result.record.towers[Role.VISION].notes  # it says what was smoothed
    assert result.record.towers[Role.VISION].bytes < 0.28 * plain  # and the graph keeps its size


def test_the_search_finds_what_to_keep_where_there_is_no_smoothing(outliers: Path, pairs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(outliers, tmp_path / "emoji"))
    job = Job(data=pairs, goal=Goal(0.999), towers=(Role.TEXT,))
    result = quantize(folder, Int8(smoothing=False), job, progress=quiet)
    tower = result.record.towers[Role.TEXT]
    # the products behind the LayerNorms that were made worse, and no others
    assert set(tower.kept) == {f"layers.{i}.{site}" for i in range(3) for site in ("qkv", "mlp.fc1")}
    chosen = next(step for step in tower.walk if step.keep == tower.kept)
    assert chosen.measured.centred_cosine >= 0.999
    assert chosen.measured.speed is not None
    assert len(tower.walk) > 14  # each site alone, and the bisection
    assert not (folder / "reports/search-int8-text.json").exists()
    page = (folder / "reports/parity-int8-cpu.html").read_text()
    assert "Towers that the search measured" in page
    assert "layers.0.qkv" in page


def test_float16_keeps_what_would_overflow_in_float32_and_names_it(tmp_path: Path, pairs: Path) -> None:
    checkpoint = Path(shutil.copytree(CHECKPOINT, tmp_path / "checkpoint"))
    rescale_values(checkpoint, 5e4)
    folder = judged(checkpoint, tmp_path / "emoji", pairs)
    with pytest.raises(ParityError), np.errstate(invalid="ignore"):
        quantize(folder, Fp16(headroom=0.0), Job(data=pairs), progress=quiet)
    result = quantize(folder, Fp16(), Job(data=pairs, cuda=True), progress=quiet)
    notes = result.record.towers[Role.VISION].notes
    assert "layers.0.out/MatMul" in notes
    assert notes["layers.0.qkv/MatMul"].startswith("float32: ")
    assert not any("mlp" in name for name in notes)
    # no attention is fused around what stays float32, and the MLPs are
    assert result.record.fused[Role.VISION]["Attention"] == 6
    fused = onnx.load(folder / "onnx/vision_model_fp16.cuda.onnx", load_external_data=False).graph
    kinds = [node.op_type for node in fused.node]
    assert (kinds.count("Attention"), kinds.count("FastGelu")) == (0, 7)


# Parts


def test_blocks_compute_what_the_whole_computes(passed: Path) -> None:
    path, rng = passed / "onnx/vision_model.onnx", np.random.default_rng(0)
    rows = rng.uniform(-1, 1, (2, 3, 64, 64)).astype(np.float32)
    model = ir.load(path)
    blocks = cut(model.graph)
    assert sum(len(block.nodes) for block in blocks) == len(list(model.graph))
    assert len(blocks) > 12  # two for each layer
    parts = list(stream(model, rows, {"pooler_output"}, lambda array: array, lambda share: None))
    whole = bare_session(str(path)).run(["pooler_output"], {"pixel_values": rows})[0]
    np.testing.assert_allclose(np.concatenate(parts[-1]["pooler_output"]), whole, rtol=1e-4, atol=1e-4)


def test_fused_graphs_compute_the_same(passed: Path, tmp_path: Path) -> None:
    """com.microsoft's operators have CPU kernels in float32, which is how the rewrite is checked without a GPU."""
    rng = np.random.default_rng(0)
    feeds = {
        "vision": {"pixel_values": rng.uniform(-1, 1, (3, 3, 64, 64)).astype(np.float32)},
        "text": {"input_ids": rng.integers(0, 2000, (3, 64))},
    }
    for (role, feed), layers in zip(feeds.items(), (6, 3), strict=True):
        path = passed / f"onnx/{role}_model.onnx"
        model = ir.load(path)
        head = int(role == "vision")  # the MAP head's MLP, behind a LayerNormalization without a residual
        assert fuse(model.graph) == {
            "Attention": layers,
            "FastGelu": layers + head,
            "SkipLayerNormalization": 2 * layers,
        }
        ir.save(model, tmp_path / "fused.onnx", external_data="fused.onnx_data")
        ours = bare_session(str(tmp_path / "fused.onnx")).run(None, feed)
        theirs = bare_session(str(path)).run(None, feed)
        for found, wanted in zip(ours, theirs, strict=True):
            assert metrics.relative_error(found, wanted) < 1e-5


def test_the_fused_graph_shares_the_data_of_the_portable_one(every: dict[Precision, Result]) -> None:
    result = every[Precision.FP16]
    variant = result.artifact.contract.variant(Precision.FP16, Provider.CUDA)
    assert variant is not None
    assert variant.made_for is Provider.CUDA
    assert variant.graphs[Role.VISION].data == ("onnx/vision_model_fp16.onnx_data",)
    assert variant.parity == ()
    assert result.record.fused[Role.VISION]["Attention"] == 6
    assert result.artifact.contract.variant(Precision.FP16) != variant


def test_fused_graphs_are_sound_and_hold_no_weights_of_their_own(every: dict[Precision, Result]) -> None:
    folder = every[Precision.FP16].artifact.folder / "onnx"
    for name in ("vision_model", "text_model", "model"):
        path = folder / f"{name}_fp16.cuda.onnx"
        graph = onnx.load(path, load_external_data=False).graph
        outputs = [value for node in graph.node for value in node.output if value]
        assert len(outputs) == len(set(outputs))
        assert {"Attention", "FastGelu", "SkipLayerNormalization"} <= {node.op_type for node in graph.node}
        assert path.stat().st_size < 200_000  # the weights are in the portable graph's data


def test_what_is_kept_is_kept_in_the_fused_graph_too(emoji: Path, pairs: Path) -> None:
    quantize(emoji, Fp16(keep=("layers.0.qkv", "layers.1.mlp.fc1")), Job(data=pairs, cuda=True), progress=quiet)
    graph = onnx.load(emoji / "onnx/vision_model_fp16.cuda.onnx", load_external_data=False).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert kinds["layers.0.qkv.weight.fp32"] == kinds["layers.1.mlp.fc1.weight.fp32"] == onnx.TensorProto.FLOAT
    assert kinds["layers.1.qkv.weight"] == onnx.TensorProto.FLOAT16
    assert [node.op_type for node in graph.node].count("Attention") == 5
    assert (emoji / "onnx/vision_model_fp16.cuda.onnx").stat().st_size < 200_000


def test_a_fusion_that_goes_wrong_is_refused(emoji: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def spoiled(graph: ir.Graph, stays: object = None) -> dict[str, int]:
        made = fuse(graph)
        attention = next(node for node in graph if node.op_type == "Attention")
        attention.attributes["scale"] = ir.AttrFloat32("scale", 0.5)
        return made

    monkeypatch.setattr(derive, "fuse", spoiled)
    before = files(emoji)
    with pytest.raises(QuantizationError, match="differs from the plain one"):
        quantize(emoji, Fp16(), Job(data=pairs, cuda=True), progress=quiet)
    assert files(emoji) == before


matrices = arrays(np.float32, st.tuples(st.integers(1, 70), st.integers(1, 9)), elements=st.floats(-100, 100, width=32))


@given(matrices)
@settings(max_examples=60, deadline=None)
def test_eight_bit_columns_are_off_by_half_a_step_at_most(matrix: np.ndarray) -> None:  # type: ignore[type-arg]
    integers, scale = integer.columns(matrix)
    assert np.abs(integers).max() <= 127
    assert (np.abs(integers * scale - matrix) <= scale * 0.501).all()


@given(matrices, st.sampled_from([4, 8]))
@settings(max_examples=60, deadline=None)
def test_matmulnbits_reads_our_packing(matrix: np.ndarray, bits: int) -> None:  # type: ignore[type-arg]
    """ONNX Runtime unpacks, by multiplying with one-hot rows, what we packed."""
    packed = weight_only.nearest(matrix, bits)
    scales, zeros = (np.repeat(part.astype(np.float32), weight_only.BLOCK, 0) for part in (packed.scales, packed.zeros))
    wanted = ((packed.integers - zeros) * scales)[: len(matrix)]
    assert np.abs(wanted - matrix).max() <= scales.max() * 0.51 + 1e-6
    np.testing.assert_allclose(
        _unpacked(matrix, packed, bits), wanted, atol=2e-2 * max(1.0, float(np.abs(matrix).max()))
    )


def _unpacked(matrix: np.ndarray, packed: weight_only.Packed, bits: int) -> np.ndarray:  # type: ignore[type-arg]
    rows, columns = matrix.shape
    x = ir.Value(name="x", shape=ir.Shape(["n", rows]), type=ir.TensorType(ir.DataType.FLOAT))
    w = ir.Value(name="a.weight", shape=ir.Shape(matrix.shape), type=x.type, const_value=ir.Tensor(matrix))
    node = ir.node("MatMul", [x, w])
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = "y", x.type, ir.Shape(["n", columns])
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[w], opset_imports={"": 20})
    from siglip_onnx.quantize.graph import drop_unused, sites

    site = sites(graph)["a"]
    weight_only.write(graph, site, packed, bits)
    drop_unused(graph)
    session = bare_session(ir.to_proto(ir.Model(graph, ir_version=10)).SerializeToString())
    return np.asarray(session.run(None, {"x": np.eye(rows, dtype=np.float32)})[0])


def test_gptq_loses_less_than_rounding_to_the_nearest() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 96)).astype(np.float32) @ rng.normal(size=(96, 96)).astype(np.float32)
    w = rng.normal(size=(96, 40)).astype(np.float32)

    def loss(packed: weight_only.Packed) -> float:
        scales, zeros = (np.repeat(p.astype(np.float32), 32, 0) for p in (packed.scales, packed.zeros))
        return float(np.square(x @ ((packed.integers - zeros) * scales - w)).mean())

    assert loss(weight_only.gptq(w, 4, x.T @ x)) < 0.6 * loss(weight_only.nearest(w, 4))


def test_ranges() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=200_000).astype(np.float32)
    x[0] = 50  # one outlier
    assert integer.min_max(x).high == 50
    assert 3 < integer.percentile(x).high < 10
    assert 2 < integer.entropy(x).high < 20
    span = integer.Range(-1.0, 3.0)
    assert (float(span.zero), round(float(span.scale) * 255, 3)) == (64, 4.0)
    # ONNX's own definition of QuantizeLinear over that span
    assert integer.Range(0.5, 3.0).zero == 0  # 0 is always covered


# The search


def _measured(error: float, timed: bool, bytes_: int = 1) -> Measured:
    return Measured(1 - error, 1 - error, error, error, bytes_, 1.0 if timed else None)


def test_the_search_keeps_the_worst_sites_alone_and_remembers(tmp_path: Path) -> None:
    errors = {f"s{i}": 1e-6 for i in range(20)} | {"bad": 0.01, "worse": 0.05}
    calls: list[frozenset[str]] = []

    def evaluate(keep: frozenset[str], timed: bool) -> Measured:
        calls.append(keep)
        if len(calls) == 12 and not (tmp_path / "again").exists():
            (tmp_path / "again").touch()
            raise KeyboardInterrupt
        return _measured(sum(error for name, error in errors.items() if name not in keep), timed)

    costs = dict.fromkeys(errors, 100)
    with pytest.raises(KeyboardInterrupt):
        search.search(costs, evaluate, Goal(0.999), Diary(tmp_path / "diary.json", "a"), quiet)
    done = len(calls) - 1
    diary = Diary(tmp_path / "diary.json", "a")
    assert len(diary.steps) == done  # nothing that was measured is measured again
    assert search.search(costs, evaluate, Goal(0.999), diary, quiet) == {"bad", "worse"}
    assert len(set(calls)) == len(calls) - 1  # but for the one that was interrupted
    assert Diary(tmp_path / "diary.json", "another").steps == {}
    assert len(diary.steps) == len(set(calls))
    diary.remove()
    assert not (tmp_path / "diary.json").exists()


def test_what_is_no_number_is_the_worst_and_survives_an_interruption(tmp_path: Path) -> None:
    diary = Diary(tmp_path / "diary.json", "a")
    diary.add(Step((), Measured(None, None, None, 0.0, 1)))
    again = Diary(tmp_path / "diary.json", "a").steps[frozenset()]
    assert again.measured.centred_cosine is None
    assert Goal(0.5).loss(again.measured) == np.inf
    assert not Goal(0.5).met(again.measured)


def test_the_search_stays_within_its_evaluations(tmp_path: Path) -> None:
    costs = {f"layers.{i}.{site}": 100 for i in range(24) for site in ("qkv", "out", "mlp.fc1", "mlp.fc2")}
    error = {name: 1e-3 if name.startswith("layers.7.") else 1e-7 for name in costs}
    diary = Diary(tmp_path / "diary.json", "a")

    def evaluate(keep: frozenset[str], timed: bool) -> Measured:
        return _measured(sum(error[name] for name in costs if name not in keep), timed)

    keep = search.search(costs, evaluate, Goal(0.9999, evaluations=40), diary, quiet)
    assert keep == {name for name in costs if name.startswith("layers.7.")}
    assert len(diary.steps) <= 40


def test_an_impossible_target_says_the_best_that_was_reached(tmp_path: Path) -> None:
    def evaluate(keep: frozenset[str], timed: bool) -> Measured:
        return _measured(0.01 * (3 - len(keep)), timed, 5_000_000)

    with pytest.raises(
        QuantizationError, match=r"best of \d+ evaluations is centred-cosine 0\.99\d+ with 2 of 3 sites kept.*5\.0 MB"
    ):
        search.search(dict.fromkeys("abc", 1), evaluate, Goal(0.9999), Diary(tmp_path / "d.json", ""), quiet)


@pytest.mark.parametrize("target", [0.0, 1.0, 1.5, -0.1])
def test_targets_without_sense_are_refused(target: float) -> None:
    with pytest.raises(InputError, match="is no target"):
        Goal(target)
    assert Goal(0.0, Metric.RETRIEVAL_DROP).target == 0.0
    with pytest.raises(InputError, match="is no target"):
        Goal(1.0, Metric.RETRIEVAL_DROP)


# Adding to an artifact


def test_one_tower_alone_leaves_the_other_float32(emoji: Path, pairs: Path) -> None:
    quantize(emoji, Int8(), Job(data=pairs, towers=(Role.VISION,)), progress=quiet)
    variant = Artifact.open(emoji).contract.variant(Precision.INT8)
    assert variant is not None
    assert variant.graphs[Role.VISION].path == "onnx/vision_model_int8.onnx"
    assert variant.graphs[Role.TEXT].path == "onnx/text_model.onnx"
    assert set(variant.graphs[Role.JOINT].data) == {"onnx/text_model.onnx_data", "onnx/vision_model_int8.onnx_data"}
    quantize(emoji, Int8(), Job(data=pairs, towers=(Role.TEXT,)), progress=quiet)
    variant = Artifact.open(emoji).contract.variant(Precision.INT8)
    assert variant is not None
    assert {graph.path for graph in variant.graphs.values()} == {
        "onnx/vision_model_int8.onnx",
        "onnx/text_model_int8.onnx",
        "onnx/model_int8.onnx",
    }
    Artifact.open(emoji).verify()


def test_a_tower_that_is_there_is_replaced_only_on_request(emoji: Path, pairs: Path) -> None:
    quantize(emoji, Fp16(), Job(data=pairs, cuda=True), progress=quiet)
    with pytest.raises(QuantizationError, match="at fp16 already"):
        quantize(emoji, Fp16(), Job(data=pairs, towers=(Role.TEXT,)), progress=quiet)
    quantize(emoji, Fp16(keep=("norm",)), Job(data=pairs, overwrite=True), progress=quiet)
    contract = Artifact.open(emoji).contract
    # the CUDA graphs read data that is gone, so they are gone, too
    assert [variant.made_for for variant in contract.variants] == [None, None]
    assert not list(emoji.rglob("*.cuda.onnx"))
    Artifact.open(emoji).verify()


def test_variants_made_side_by_side_do_not_hide_each_other(
    emoji: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Artifact.stage

    def meanwhile(self: Artifact, *arguments: object) -> Artifact:
        monkeypatch.setattr(Artifact, "stage", real)
        quantize(emoji, RECIPES[Precision.BF16](), Job(data=pairs), progress=quiet)
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Artifact, "stage", meanwhile)
    quantize(emoji, Int8(), Job(data=pairs), progress=quiet)
    have = {variant.precision for variant in Artifact.open(emoji).contract.variants}
    assert have == {Precision.FP32, Precision.BF16, Precision.INT8}


def test_an_artifact_that_was_exported_anew_meanwhile_is_left_alone(
    emoji: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Artifact.commit

    def meanwhile(self: Artifact) -> Artifact:
        contract = Artifact.open(emoji).contract
        name = "onnx/text_model.onnx_data"
        changed = {**contract.files, name: replace(contract.files[name], sha256="0" * 64)}
        from siglip_onnx.runtime.artifact import write_contract

        write_contract(emoji, replace(contract, files=changed))
        return real(self)

    monkeypatch.setattr(Artifact, "commit", meanwhile)
    with pytest.raises(ArtifactError, match="changed in the meantime"):
        quantize(emoji, Int8(), Job(data=pairs, towers=(Role.VISION,)), progress=quiet)


def test_a_full_disk_leaves_the_artifact_as_it_was(emoji: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> int:
        raise OSError(28, "No space left on device")

    before = files(emoji)
    monkeypatch.setattr(derive, "save", full)
    with pytest.raises(QuantizationError, match="No space left"):
        quantize(emoji, Int8(), Job(data=pairs), progress=quiet)
    assert files(emoji) == before


@pytest.mark.parametrize("word", ["Calibrating", "Writing", "Hashing", "Checking", "Moving"])
def test_an_interruption_leaves_the_artifact_as_it_was(emoji: Path, pairs: Path, word: str) -> None:
    def stop(step: str) -> None:
        if step.startswith(word):
            raise KeyboardInterrupt

    before = files(emoji)
    with pytest.raises(KeyboardInterrupt):
        quantize(emoji, Int8(), Job(data=pairs), progress=stop)
    assert files(emoji) == before


def test_a_kill_while_files_move_leaves_an_artifact_without_the_variant(
    emoji: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every rename may be the last; what is there afterwards is valid and can be quantized again."""
    real, moves = Path.replace, 0

    def killed(self: Path, target: Path) -> Path:
        nonlocal moves
        moves += 1
        if moves == 3:
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        quantize(emoji, Int8(), Job(data=pairs), progress=quiet)
    monkeypatch.setattr(Path, "replace", real)
    Artifact.open(emoji).verify()
    assert Artifact.open(emoji).contract.variant(Precision.INT8) is None
    quantize(emoji, Int8(), Job(data=pairs), progress=quiet)
    Artifact.open(emoji).verify()


def test_a_failing_variant_is_kept_only_on_request(
    command: Command, outliers: Path, pairs: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(outliers, tmp_path / "emoji"))
    arguments = ("quantize", folder, "--precision", "int8", "--data", pairs, "--set", "smoothing=false")
    run = command(*arguments)
    assert (run.code, is_one_paragraph(run.err)) == (1, True)
    assert "int8 on cpu: FAIL" in " ".join(run.err.split())
    run = command(*arguments, "--keep-failing")
    assert run.code == 1
    assert "FAIL" in run.out
    assert "First problem" in run.out
    assert "FAIL" in command("inspect", folder).out


def test_nothing_is_proved_by_an_fp32_variant_that_nobody_judged(artifact: Path, pairs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(artifact, tmp_path / "emoji"))
    with pytest.raises(InconclusiveError, match="carries no verdict"):
        quantize(folder, Int8(), Job(data=pairs), progress=quiet)
    result = quantize(folder, Int8(), Job(data=pairs, reference=CHECKPOINT), progress=quiet)
    assert result.reports[0].against is Yardstick.CHECKPOINT
    parity = Artifact.open(folder).contract.variants[-1].parity[0]
    assert (parity.verdict, parity.against) == (Verdict.PASS, Yardstick.CHECKPOINT)


def test_a_variant_on_an_unjudged_base_is_never_a_pass(artifact: Path, pairs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(artifact, tmp_path / "emoji"))
    result = quantize(folder, Int8(), Job(data=pairs, keep_failing=True), progress=quiet)
    assert result.reports[0].verdict is Verdict.INCONCLUSIVE


def test_a_pass_falls_with_the_pass_that_it_stands_on(every: dict[Precision, Result]) -> None:
    contract = every[Precision.INT4].artifact.contract
    variant = contract.variant(Precision.INT8)
    base = contract.variant(Precision.FP32)
    assert variant is not None
    assert base is not None
    assert verdict_of(variant, contract) is Verdict.PASS
    failed = replace(base, parity=tuple(replace(p, verdict=Verdict.FAIL) for p in base.parity))
    assert verdict_of(variant, contract.with_variant(failed)) is Verdict.INCONCLUSIVE


def test_a_commit_that_fails_says_what_is_gone(emoji: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantize(emoji, Int8(), Job(data=pairs), progress=quiet)
    real = Path.replace

    def full(self: Path, target: Path) -> Path:
        if "vision" in self.name:
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(QuantizationError, match="now without it, and without what it was to replace"):
        quantize(emoji, Int8(smoothing=False), Job(data=pairs, overwrite=True), progress=quiet)
    monkeypatch.setattr(Path, "replace", real)
    assert Artifact.open(emoji).contract.variant(Precision.INT8) is None
    Artifact.open(emoji).verify()


def test_the_second_tower_keeps_what_is_known_of_the_first(emoji: Path, pairs: Path) -> None:
    vision = Job(data=pairs, towers=(Role.VISION,), cuda=True)
    quantize(emoji, Fp16(headroom=4.0, keep=("norm",)), vision, progress=quiet)
    quantize(emoji, Fp16(), replace(vision, towers=(Role.TEXT,)), progress=quiet)
    contract = Artifact.open(emoji).contract
    for provider, ending in ((Provider.CPU, "_fp16.onnx"), (Provider.CUDA, "_fp16.cuda.onnx")):
        variant = contract.variant(Precision.FP16, provider)
        assert variant is not None
        assert {graph.path.removeprefix("onnx/") for graph in variant.graphs.values()} == {
            f"{name}{ending}" for name in ("vision_model", "text_model", "model")
        }
        assert variant.made_with["vision: kept"] == "norm"
        assert "headroom=4.0" in variant.made_with["vision: options"]
        assert "headroom=8.0" in variant.made_with["text: options"]
    assert (emoji / "reports/quantize-fp16-vision.json").exists()


# Data


def test_bundled_photos_calibrate_what_is_not_fitted_to_them(emoji: Path) -> None:
    result = quantize(emoji, Fp16(), progress=quiet)
    assert (result.record.samples, result.reports[0].data.images) == (5, 8)


@pytest.mark.parametrize(("precision", "more"), [("int8-static", ()), ("int8", ("--auto",)), ("int4", ())])
def test_no_calibration_data(command: Command, emoji: Path, precision: str, more: tuple[str, ...]) -> None:
    run = command("quantize", emoji, "--precision", precision, *more)
    assert (run.code, is_one_paragraph(run.err)) == (8, True)
    assert "No calibration data" in run.err


def test_towers_have_names(emoji: Path, pairs: Path) -> None:
    for towers in ((), (Role.JOINT,)):
        with pytest.raises(InputError, match="no towers"):
            quantize(emoji, Int8(), Job(data=pairs, towers=towers), progress=quiet)


def test_what_calibrates_does_not_judge(every: dict[Precision, Result]) -> None:
    for result in every.values():
        assert result.record.samples + result.reports[0].data.images == PAIRS


def test_more_samples_than_there_are(command: Command, emoji: Path, pairs: Path) -> None:
    run = command("quantize", emoji, "--precision", "int8", "--data", pairs, "--samples", "41")
    assert (run.code, is_one_paragraph(run.err)) == (8, True)
    assert "at most 40" in " ".join(run.err.split())


def test_unreadable_pictures_are_named_and_left_out_on_request(
    command: Command, emoji: Path, pairs: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(pairs, tmp_path / "data"))
    victim = json.loads(_lines(data)[3])["image"]
    (data / victim).write_bytes((data / victim).read_bytes()[:100])
    arguments = ("quantize", emoji, "--precision", "int8", "--data", data)
    run = command(*arguments)
    assert (run.code, is_one_paragraph(run.err)) == (8, True)
    assert victim in "".join(run.err.split())
    run = command(*arguments, "--skip-unreadable")
    assert run.code == 0
    assert f"Left out as unreadable: {victim}" in run.out
    record = json.loads((emoji / "reports/quantize-int8-text.json").read_bytes())
    assert record["skipped"] == [victim]


def test_pictures_of_any_size_calibrate(emoji: Path, tmp_path: Path) -> None:
    """They are resized as the model's own are."""
    from siglip_onnx.validate.samples import BUNDLED

    result = quantize(emoji, Int8(), Job(data=BUNDLED, samples=4), progress=quiet)
    assert result.record.samples == 4


# The command line


def test_the_command_line_adds_a_variant(command: Command, emoji: Path, pairs: Path) -> None:
    run = command("quantize", emoji, "--precision", "int8", "--data", pairs, "--keep", "head", "--tower", "text")
    assert run.code == 0, run.err
    assert "PASS" in run.out
    assert "head" in run.out
    variant = Artifact.open(emoji).contract.variant(Precision.INT8)
    assert variant is not None
    assert variant.made_with["text: kept"] == "head"
    assert command("validate", emoji, "--precision", "int8", "--data", pairs).code == 0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--set", "smoothing=perhaps"), "does not fit"),
        (("--set", "colour=red"), "has no option"),
        (("--keep", "layers.99.qkv"), "No tower has layers.99.qkv to keep"),
        (("--cuda",), "no fused CUDA graph"),
        (("--auto", "--target", "2"), "is no target"),
        (("--set", "margin=nan"), "margin of nan"),
        (("--set", "smoothing=false", "--set", "scores=false", "--samples", "3"), "calibrates nothing"),
    ],
)
def test_wrong_options_are_refused(
    command: Command, emoji: Path, pairs: Path, arguments: tuple[str, ...], word: str
) -> None:
    before = files(emoji)
    run = command("quantize", emoji, "--precision", "int8", "--data", pairs, *arguments)
    assert (run.code, is_one_paragraph(run.err)) == (8, True)
    assert word in " ".join(run.err.split())
    assert files(emoji) == before
