"""What `explain` says of a variant that fails: the node, what would mend it, and a script that shows it."""

from __future__ import annotations

import itertools
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper

from siglip_onnx.quantize import QuantizeResult
from siglip_onnx.runtime import Artifact, SessionOptions, Siglip
from siglip_onnx.runtime.artifact.artifact import write_contract
from siglip_onnx.runtime.artifact.contract import Precision, Role, Verdict
from siglip_onnx.validate import DEFAULT_LIMITS, Check, CheckGroup, Report
from siglip_onnx.validate.explain import Explanation, explain
from siglip_onnx.validate.explain.explanation import Origin
from siglip_onnx.validate.explain.minimal_fix import OutOfBudgetError, Trial, ddmin
from siglip_onnx.validate.report.report import DataRecord
from siglip_onnx.validate.stats import metrics

from ..conftest import quiet, rewrite

Array = NDArray[Any]
TEXTS = ["a bear", "a slice of pizza"]


class Ward:
    """A patient and a healthy artifact to compare it with."""

    def __init__(self, healthy: Path, folder: Path) -> None:
        self.right = Artifact.open(healthy)
        self.folder = Path(shutil.copytree(healthy, folder / "patient"))
        self.why = folder / "why"

    def graph(self, precision: Precision = Precision.FP32) -> Path:
        return self.folder / Artifact.open(self.folder).graph(Role.TEXT, precision).path

    def edit(self, change: Callable[[onnx.GraphProto], None]) -> None:
        model = onnx.load(self.graph(), load_external_data=False)
        change(model.graph)
        self.graph().write_bytes(model.SerializeToString())
        rewrite(self.folder)

    def weight(self, name: str, precision: Precision = Precision.FP32) -> Array:
        """A weight in its data file; what is changed of it is there at once."""
        graph = onnx.load(self.graph(precision), load_external_data=False).graph
        tensor = next(tensor for tensor in graph.initializer if tensor.name == name)
        place = {entry.key: entry.value for entry in tensor.external_data}
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        path = self.graph().parent / place["location"]
        return np.memmap(path, dtype, "r+", int(place["offset"]), tuple(tensor.dims))

    def explain(
        self,
        precision: Precision = Precision.FP32,
        group: CheckGroup = CheckGroup.EMBEDDINGS,
        name: str = "text cosine min",
    ) -> Explanation:
        rewrite(self.folder)
        model = Siglip(Artifact.open(self.folder), precision, SessionOptions())
        healthy = Siglip(self.right)
        rows = healthy.tokenizer(TEXTS)
        wanted = np.concatenate([healthy.encode(Role.TEXT, rows[i : i + 1]) for i in range(len(rows))])

        def enough(role: Role, found: Array) -> bool:
            gate = DEFAULT_LIMITS[precision]
            error, cosine = metrics.relative_error(found, wanted), metrics.row_cosines(found, wanted).min()
            return bool(error <= gate.relative_error and cosine >= gate.cosine)

        report = failing(model, group, name)
        found = explain(model, self.right, {Role.TEXT: rows}, report, self.why, enough=enough, progress=quiet)
        assert Explanation.from_json((self.why / "explanation.json").read_bytes()) == found
        return found


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
def ward(artifact: Path, tmp_path: Path) -> Ward:
    return Ward(artifact, tmp_path)


@pytest.fixture
def variants(every: dict[Precision, QuantizeResult], tmp_path: Path) -> Ward:
    return Ward(every[Precision.INT8].artifact.folder, tmp_path)


def node(graph: onnx.GraphProto, name: str) -> onnx.NodeProto:
    return next(node for node in graph.node if node.name == name)


def play(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, folder / "replay.py"], capture_output=True, text=True, check=False)


def test_the_gelu_that_is_another_one_is_named_and_its_script_fails_until_it_is_mended(ward: Ward) -> None:
    def erf(graph: onnx.GraphProto) -> None:
        node(graph, "layers.1.mlp/Gelu").attribute[0].s = b"none"

    ward.edit(erf)
    found = ward.explain()
    assert found.culprit is not None
    assert found.remedy is not None
    assert found.culprit.nodes == ("layers.1.mlp/Gelu",)
    assert found.culprit.origin is Origin.FILE
    assert "approximate is none, where the trusted graph has tanh" in found.culprit.reasons[0]
    assert (found.remedy.nodes, found.remedy.minimal) == ((("layers.1.mlp/Gelu",),), True)
    assert "layers.1.mlp/Gelu is the first step that is off by itself" in " ".join(found.describe().split())
    replay = ward.why / found.replay
    assert (shown := play(replay)).returncode == 1, shown.stderr
    assert "where 2e-05 would do" in shown.stdout
    part = onnx.load(replay / "culprit.onnx")
    part.graph.node[0].attribute[0].s = b"tanh"
    onnx.save(part, replay / "culprit.onnx")
    assert (shown := play(replay)).returncode == 0, shown.stderr


def test_queries_taken_for_keys_are_found_where_they_are_swapped(ward: Ward) -> None:
    def swap(graph: onnx.GraphProto) -> None:
        split = node(graph, "layers.1.qkv/Split")
        split.output[0], split.output[1] = split.output[1], split.output[0]

    ward.edit(swap)
    found = ward.explain()
    assert found.culprit is not None
    assert found.culprit.nodes == ("layers.1.qkv/Split",)
    assert "gives split_1_split_1, split_1_split_0" in found.culprit.reasons[0]


def test_a_row_of_zeros_in_a_weight_is_told_by_its_number(ward: Ward) -> None:
    ward.weight("layers.1.mlp.fc2.weight")[17] = 0
    found = ward.explain()
    assert found.culprit is not None
    assert found.culprit.nodes == ("layers.1.mlp.fc2/MatMul",)
    assert "in row 17. There it is zero." in found.culprit.reasons[0]


def test_one_wrong_scale_in_int8_is_the_only_thing_to_mend(variants: Ward) -> None:
    variants.weight("layers.0.mlp.fc2.weight.scale", Precision.INT8)[3] *= 8
    found = variants.explain(Precision.INT8)
    assert found.culprit is not None
    assert found.remedy is not None
    assert found.culprit.trusted_nodes == ("layers.0.mlp.fc2/MatMul", "layers.0.mlp.fc2/Add")
    assert "layers.0.mlp.fc2/MatMulInteger_2" in found.culprit.nodes
    assert "in 1 of 128 channels (3), where it is 8" in found.culprit.reasons[0].replace("7.9", "8.")
    assert (found.remedy.nodes, found.remedy.minimal) == ((found.culprit.nodes,), True)
    assert any("layer_norm" in note and "another form" in note for note in found.notes)  # smoothing is no fault


def test_a_channel_too_large_for_float16_is_told_as_such_and_mended_as_far_as_it_reaches(variants: Ward) -> None:
    """Values that are 2^17 times as large, and divided by as much behind, are the same function in float32 alone."""
    wide, channel = np.float32(2**17), 9
    for precision in (Precision.FP32, Precision.FP16):
        weight, bias = (variants.weight(f"layers.1.qkv.{part}", precision) for part in ("weight", "bias"))
        column = bias.shape[0] // 3 * 2 + channel  # among the values, behind queries and keys
        weight[:, column] = np.clip(weight[:, column].astype(np.float32) * wide, -60000, 60000)
        bias[column] = np.clip(np.float32(bias[column]) * wide, -60000, 60000)
        row = variants.weight("layers.1.out.weight", precision)[channel]
        row[:] = row.astype(np.float32) / wide
    rewrite(variants.folder)
    variants.right = Artifact.open(variants.folder)
    found = variants.explain(Precision.FP16)
    assert found.culprit is not None
    assert found.remedy is not None
    assert found.culprit.nodes[0] == "layers.1.qkv/MatMul"
    assert any("float16 ends at 65504" in reason for reason in found.culprit.reasons)
    assert found.remedy.minimal
    assert all(name.startswith("layers.1") for step in found.remedy.nodes for name in step)


def test_a_graph_with_other_names_is_matched_by_what_its_values_hold(ward: Ward) -> None:
    def rename(graph: onnx.GraphProto) -> None:
        names = itertools.count()
        new = {name: name for name in ("input_ids", "last_hidden_state", "pooler_output")}

        def named(name: str) -> str:
            return new.setdefault(name, f"n{next(names)}")

        for each in graph.node:
            each.input[:], each.output[:] = map(named, each.input), map(named, each.output)
        for tensor in (*graph.initializer, *graph.value_info):
            tensor.name = named(tensor.name)

    ward.weight("layers.1.mlp.fc2.weight")[17] = 0
    ward.edit(rename)
    found = ward.explain()
    assert found.culprit is not None
    assert found.remedy is not None
    assert found.culprit.nodes == ("layers.1.mlp.fc2/MatMul",)
    assert found.culprit.trusted_nodes == ("layers.1.mlp.fc2/MatMul",)
    assert found.remedy.nodes == (found.culprit.nodes,)
    assert play(ward.why / found.replay).returncode == 1


def test_no_node_is_blamed_for_a_scale_or_for_inputs(ward: Ward) -> None:
    contract = Artifact.open(ward.folder).contract
    write_contract(ward.folder, replace(contract, logits=replace(contract.logits, bias=0.0)))
    found = ward.explain(group=CheckGroup.LOGITS, name="difference max")
    assert found.culprit is None
    assert "logit bias is 0, where -13.1" in found.conclusion
    found = ward.explain(group=CheckGroup.TOKENS, name="captions")
    assert found.culprit is None
    assert "no node" in found.conclusion
    assert not (ward.why / "replay").exists()


def test_a_tower_that_does_not_run_is_told_in_the_words_of_its_error(ward: Ward) -> None:
    ward.edit(lambda graph: setattr(node(graph, "layers.1.mlp/Gelu"), "op_type", "Jelly"))
    found = ward.explain()
    assert found.culprit is None
    assert found.towers[Role.TEXT].enough is None
    assert "Jelly" in found.conclusion


@pytest.mark.parametrize("needed", [{3}, {0, 7}, {1, 2, 6}, set(range(8))])
def test_what_delta_debugging_leaves_can_spare_nothing(needed: set[int]) -> None:
    trial = Trial(lambda some: needed <= set(some))
    assert set(ddmin(range(8), trial)) == needed
    assert trial.evaluations < 64


def test_a_search_that_takes_too_long_ends_with_the_best_so_far() -> None:
    def good(some: Sequence[int]) -> bool:
        return {1, 6} <= set(some)

    trial = Trial(good, budget=9)
    with pytest.raises(OutOfBudgetError):
        ddmin(range(8), trial)
    assert trial.best is not None
    assert {1, 6} <= set(trial.best) < set(range(8))
