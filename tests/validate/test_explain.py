"""Explanations of failing variants: the faulty node, the minimal fix, and the replay script."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from siglip_onnx.quantize import QuantizeResult
from siglip_onnx.runtime import Artifact, SessionOptions, Siglip
from siglip_onnx.runtime.arrays import AnyArray
from siglip_onnx.runtime.artifact.artifact import write_contract
from siglip_onnx.runtime.artifact.contract import Precision, Provider, Role, Verdict
from siglip_onnx.validate import DEFAULT_LIMITS, Check, CheckGroup, Report
from siglip_onnx.validate.explain import Explanation, explain
from siglip_onnx.validate.explain.explanation import Origin
from siglip_onnx.validate.explain.minimal_fix import OutOfBudgetError, TrialBudget, ddmin
from siglip_onnx.validate.report.report import DataRecord
from siglip_onnx.validate.stats import metrics

from ..conftest import quiet, rewrite

TEXTS = ["a bear", "a slice of pizza"]


class Patient:
    """A copy of an artifact to break, and the healthy artifact to compare it with."""

    def __init__(self, healthy: Path, folder: Path) -> None:
        self.reference = Artifact.open(healthy)
        self.folder = Path(shutil.copytree(healthy, folder / "patient"))
        self.why = folder / "why"

    def graph(self, precision: Precision = Precision.FP32) -> Path:
        return self.folder / Artifact.open(self.folder).graph(Role.TEXT, precision).path

    def edit(self, change: Callable[[onnx.GraphProto], None]) -> None:
        model = onnx.load(self.graph(), load_external_data=False)
        change(model.graph)
        self.graph().write_bytes(model.SerializeToString())
        rewrite(self.folder)

    def weight(self, name: str, precision: Precision = Precision.FP32) -> AnyArray:
        """A weight, mapped from its data file; changes are written to the file."""
        graph = onnx.load(self.graph(precision), load_external_data=False).graph
        tensor = next(tensor for tensor in graph.initializer if tensor.name == name)
        external = {entry.key: entry.value for entry in tensor.external_data}
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        path = self.graph().parent / external["location"]
        return np.memmap(path, dtype, "r+", int(external["offset"]), tuple(tensor.dims))

    def explain(
        self,
        precision: Precision = Precision.FP32,
        group: CheckGroup = CheckGroup.EMBEDDINGS,
        name: str = "text cosine min",
        provider: Provider = Provider.CPU,
    ) -> Explanation:
        rewrite(self.folder)
        model = Siglip(Artifact.open(self.folder), precision, SessionOptions(provider))
        healthy = Siglip(self.reference)
        rows = healthy.tokenizer(TEXTS)
        expected = np.concatenate([healthy.encode(Role.TEXT, rows[i : i + 1]) for i in range(len(rows))])

        def passes(role: Role, embeddings: AnyArray) -> bool:
            limits = DEFAULT_LIMITS[precision]
            error = metrics.relative_error(embeddings, expected)
            cosine = metrics.row_cosines(embeddings, expected).min()
            return bool(error <= limits.relative_error and cosine >= limits.cosine)

        report = failing(model, group, name)
        result = explain(model, self.reference, {Role.TEXT: rows}, report, self.why, passes=passes, progress=quiet)
        assert Explanation.from_json((self.why / "explanation.json").read_bytes()) == result
        return result


def failing(model: Siglip, group: CheckGroup, name: str) -> Report:
    check = Check(group, name, Verdict.FAIL, 0.5, 0.999, "at least")
    return Report(
        created="2026-01-01T00:00:00+00:00",
        seconds=1.0,
        artifact=model.contract.name,
        contract_sha256="0" * 64,
        precision=model.precision,
        provider=model.options.provider,
        reference="emoji",
        reference_sha256="0" * 64,
        data=DataRecord("pairs", "0" * 64, 2, 2, 2),
        environment={},
        verdict=Verdict.FAIL,
        checks=(check,),
    )


@pytest.fixture
def patient(artifact: Path, tmp_path: Path) -> Patient:
    return Patient(artifact, tmp_path)


@pytest.fixture
def variants(every: dict[Precision, QuantizeResult], tmp_path: Path) -> Patient:
    return Patient(every[Precision.INT8].artifact.folder, tmp_path)


def node(graph: onnx.GraphProto, name: str) -> onnx.NodeProto:
    return next(node for node in graph.node if node.name == name)


def replay_in(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, folder / "replay.py"], capture_output=True, text=True, check=False)


def test_wrong_gelu_is_named_and_its_replay_passes_after_the_fix(patient: Patient) -> None:
    def erf(graph: onnx.GraphProto) -> None:
        node(graph, "layers.1.mlp/Gelu").attribute[0].s = b"none"

    patient.edit(erf)
    result = patient.explain()
    assert result.culprit is not None
    assert result.minimal_fix is not None
    assert result.culprit.nodes == ("layers.1.mlp/Gelu",)
    assert result.culprit.origin is Origin.FILE
    assert "approximate is none, the reference graph has tanh" in result.culprit.reasons[0]
    assert (result.minimal_fix.steps, result.minimal_fix.minimal) == ((("layers.1.mlp/Gelu",),), True)
    assert "layers.1.mlp/Gelu is the first faulty step" in " ".join(result.describe().split())
    replay = patient.why / result.replay
    assert (done := replay_in(replay)).returncode == 1, done.stderr
    assert "limit 2e-05" in done.stdout
    part = onnx.load(replay / "culprit.onnx")
    part.graph.node[0].attribute[0].s = b"tanh"
    onnx.save(part, replay / "culprit.onnx")
    assert (done := replay_in(replay)).returncode == 0, done.stderr


@pytest.mark.needs_provider("openvino")
def test_replay_runs_on_openvino(patient: Patient) -> None:
    patient.weight("layers.1.mlp.fc2.weight")[17] = 0
    result = patient.explain(provider=Provider.OPENVINO)
    assert result.culprit is not None
    assert "layers.1.mlp.fc2/MatMul" in result.culprit.nodes
    done = replay_in(patient.why / result.replay)
    assert done.returncode == 1, done.stderr
    assert "import openvino" in (patient.why / result.replay / "replay.py").read_text()


def test_swapped_queries_and_keys_are_found_at_the_split(patient: Patient) -> None:
    def swap(graph: onnx.GraphProto) -> None:
        split = node(graph, "layers.1.qkv/Split")
        split.output[0], split.output[1] = split.output[1], split.output[0]

    patient.edit(swap)
    result = patient.explain()
    assert result.culprit is not None
    assert result.culprit.nodes == ("layers.1.qkv/Split",)
    assert "returns split_1_split_1, split_1_split_0" in result.culprit.reasons[0]


def test_zeroed_row_of_a_weight_is_named_by_its_index(patient: Patient) -> None:
    patient.weight("layers.1.mlp.fc2.weight")[17] = 0
    result = patient.explain()
    assert result.culprit is not None
    assert result.culprit.nodes == ("layers.1.mlp.fc2/MatMul",)
    assert "in row 17. All of these are zero." in result.culprit.reasons[0]


def test_one_wrong_int8_scale_is_the_only_fix(variants: Patient) -> None:
    variants.weight("layers.0.mlp.fc2.weight.scale", Precision.INT8)[3] *= 8
    result = variants.explain(Precision.INT8)
    assert result.culprit is not None
    assert result.minimal_fix is not None
    assert result.culprit.reference_nodes == ("layers.0.mlp.fc2/MatMul", "layers.0.mlp.fc2/Add")
    assert "layers.0.mlp.fc2/MatMulInteger_2" in result.culprit.nodes
    assert "in 1 of 128 channels (3), by a factor of 8" in result.culprit.reasons[0].replace("7.9", "8.")
    assert (result.minimal_fix.steps, result.minimal_fix.minimal) == ((result.culprit.nodes,), True)
    assert any("layer_norm" in note and "compensate" in note for note in result.notes)  # SmoothQuant is no fault


def test_float16_overflow_is_named_and_fixed(variants: Patient) -> None:
    """Values scaled by 2^17, and scaled back after the attention, leave the function unchanged in float32 only."""
    wide, channel = np.float32(2**17), 9
    for precision in (Precision.FP32, Precision.FP16):
        weight, bias = (variants.weight(f"layers.1.qkv.{part}", precision) for part in ("weight", "bias"))
        column = bias.shape[0] // 3 * 2 + channel  # among the values, after queries and keys
        weight[:, column] = np.clip(weight[:, column].astype(np.float32) * wide, -60000, 60000)
        bias[column] = np.clip(np.float32(bias[column]) * wide, -60000, 60000)
        row = variants.weight("layers.1.out.weight", precision)[channel]
        row[:] = row.astype(np.float32) / wide
    rewrite(variants.folder)
    variants.reference = Artifact.open(variants.folder)
    result = variants.explain(Precision.FP16)
    assert result.culprit is not None
    assert result.minimal_fix is not None
    assert result.culprit.nodes[0] == "layers.1.qkv/MatMul"
    assert any("the largest float16 is 65504" in reason for reason in result.culprit.reasons)
    assert result.minimal_fix.minimal
    assert all(name.startswith("layers.1") for step in result.minimal_fix.steps for name in step)


def test_graph_with_other_names_is_matched_by_content(patient: Patient) -> None:
    def rename(graph: onnx.GraphProto) -> None:
        names = itertools.count()
        new = {name: name for name in ("input_ids", "last_hidden_state", "pooler_output")}

        def named(name: str) -> str:
            return new.setdefault(name, f"n{next(names)}")

        for each in graph.node:
            each.input[:], each.output[:] = map(named, each.input), map(named, each.output)
        for tensor in (*graph.initializer, *graph.value_info):
            tensor.name = named(tensor.name)

    patient.weight("layers.1.mlp.fc2.weight")[17] = 0
    patient.edit(rename)
    result = patient.explain()
    assert result.culprit is not None
    assert result.minimal_fix is not None
    assert result.culprit.nodes == ("layers.1.mlp.fc2/MatMul",)
    assert result.culprit.reference_nodes == ("layers.1.mlp.fc2/MatMul",)
    assert result.minimal_fix.steps == (result.culprit.nodes,)
    assert replay_in(patient.why / result.replay).returncode == 1


def test_no_node_is_named_for_a_wrong_logit_bias_or_wrong_inputs(patient: Patient) -> None:
    contract = Artifact.open(patient.folder).contract
    write_contract(patient.folder, replace(contract, logits=replace(contract.logits, bias=0.0)))
    result = patient.explain(group=CheckGroup.LOGITS, name="difference max")
    assert result.culprit is None
    assert "logit bias is 0, expected -13.1" in result.conclusion
    result = patient.explain(group=CheckGroup.TOKENS, name="captions")
    assert result.culprit is None
    assert "no node" in result.conclusion
    assert not (patient.why / "replay").exists()


def test_error_of_a_tower_that_does_not_run_is_reported(patient: Patient) -> None:
    patient.edit(lambda graph: setattr(node(graph, "layers.1.mlp/Gelu"), "op_type", "Jelly"))
    result = patient.explain()
    assert result.culprit is None
    assert result.towers[Role.TEXT].passes is None
    assert "Jelly" in result.conclusion


@pytest.mark.parametrize("needed", [{3}, {0, 7}, {1, 2, 6}, set(range(8))])
def test_ddmin_leaves_only_necessary_items(needed: set[int]) -> None:
    trial = TrialBudget(lambda items: needed <= set(items))
    assert set(ddmin(range(8), trial)) == needed
    assert trial.trials < 64


def test_search_out_of_budget_keeps_the_best_set() -> None:
    def passes(items: Sequence[int]) -> bool:
        return {1, 6} <= set(items)

    trial = TrialBudget(passes, budget=9)
    with pytest.raises(OutOfBudgetError):
        ddmin(range(8), trial)
    assert trial.best is not None
    assert {1, 6} <= set(trial.best) < set(range(8))
