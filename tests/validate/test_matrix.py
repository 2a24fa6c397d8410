"""Matrices: each cell runs in its own process, and however that process ends, the cell gets a verdict."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from siglip_onnx.quantize import Int8, quantize
from siglip_onnx.runtime import Artifact, Siglip
from siglip_onnx.runtime.artifact.artifact import verdict_of, write_contract
from siglip_onnx.runtime.artifact.contract import Precision, Provider, Verdict
from siglip_onnx.runtime.errors import ArtifactError
from siglip_onnx.validate import (
    Matrix,
    MatrixPlan,
    ValidationRequest,
    run_matrix,
    store_cells,
    store_verdict,
    validate,
)
from siglip_onnx.validate.matrix import processes
from siglip_onnx.validate.matrix.processes import Processes
from siglip_onnx.validate.matrix.protocol import WorkerTask
from siglip_onnx.validate.request import KnownHashes

from ..conftest import CHECKPOINT, Run, cli, quiet
from ..faults import in_contract

pytestmark = pytest.mark.gate
HASHES = KnownHashes("0" * 64, "0" * 64)


@pytest.fixture(scope="module")
def both(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact with fp32 and int8."""
    folder = Path(shutil.copytree(artifact, tmp_path_factory.mktemp("both") / "emoji"))
    model = Siglip.load(folder)
    result = validate(model, CHECKPOINT, progress=quiet)
    store_verdict(model.artifact, result)
    quantize(folder, Int8(), progress=quiet)
    return folder


@pytest.fixture(scope="module")
def baseline(both: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a release that passed."""
    folder = tmp_path_factory.mktemp("release")
    assert gate(both, folder, "--precision", "all")[0].code == 0
    return folder / "parity.json"


def gate(artifact: Path, report: Path, *more: str | Path) -> tuple[Run, Matrix | None]:
    run = cli("validate", artifact, "--reference", CHECKPOINT, "--output-dir", report, *more)
    path = report / "parity.json"
    return run, Matrix.from_json(path.read_bytes()) if path.exists() else None


def test_two_precisions_on_two_providers_pass_and_every_file_is_written(both: Path, tmp_path: Path) -> None:
    run, matrix = gate(both, tmp_path, "--precision", "all", "--provider", "cpu,openvino")
    assert run.code == 0, run.out + run.err
    assert matrix is not None
    assert matrix.verdict is Verdict.PASS
    assert [(cell.precision, cell.provider) for cell in matrix.cells] == [
        ("fp32", "cpu"),
        ("fp32", "openvino"),
        ("int8", "cpu"),
        ("int8", "openvino"),
    ]
    assert all(cell.report is not None and cell.report.cost is not None for cell in matrix.cells)
    suites = ElementTree.parse(tmp_path / "parity.xml").getroot()  # noqa: S314  our own file
    checks = sum(len(cell.report.checks) for cell in matrix.cells if cell.report)
    assert sum(1 for _ in suites.iter("testcase")) == checks
    assert "PASS" in (tmp_path / "parity.md").read_text()
    assert "bundled photos only" in run.out
    assert "bundled photos only" in (tmp_path / "parity.html").read_text()
    assert json.loads((tmp_path / "parity.json").read_text())["schema_version"] == 2


def test_verdicts_are_stored_in_the_artifact_without_an_output_folder(both: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(both, tmp_path / "emoji"))
    run = cli("validate", folder, "--reference", CHECKPOINT, "--precision", "int8", "--provider", "cpu")
    assert run.code == 0, run.err
    contract = Artifact.open(folder).contract
    variant = contract.variant(Precision.INT8)
    assert variant is not None
    assert verdict_of(variant, contract, Provider.CPU) is Verdict.PASS
    assert (folder / "reports" / "parity.html").exists()
    Artifact.open(folder).verify()


def test_a_missing_provider_fails_unless_it_may_be_missing(both: Path, tmp_path: Path) -> None:
    arguments = ("--precision", "fp32", "--provider", "cpu,coreml")
    run, matrix = gate(both, tmp_path / "a", *arguments)
    assert run.code == 1
    assert matrix is not None
    assert (matrix.cells[1].verdict, matrix.cells[1].report) == (Verdict.FAIL, None)
    assert "coreml" in matrix.cells[1].problem.lower()
    run, matrix = gate(both, tmp_path / "b", *arguments, "--allow-missing", "coreml")
    assert run.code == 0
    assert matrix is not None
    assert (matrix.cells[1].verdict, matrix.cells[1].required) == (Verdict.INCONCLUSIVE, False)


def test_a_provider_that_may_be_missing_must_pass_where_it_works(both: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(both, tmp_path / "emoji"))
    in_contract("logits", bias=0.0)(folder)
    run, matrix = gate(folder, tmp_path / "a", "--precision", "fp32", "--provider", "cpu", "--allow-missing", "cpu")
    assert (run.code, matrix and matrix.verdict) == (1, Verdict.FAIL)
    assert "logits" in run.out


def test_a_missing_variant_fails(both: Path, tmp_path: Path) -> None:
    run, matrix = gate(both, tmp_path, "--precision", "fp32,int4")
    assert run.code == 1
    assert matrix is not None
    assert [cell.verdict for cell in matrix.cells] == [Verdict.PASS, Verdict.FAIL]
    assert "has no" in matrix.cells[1].problem


def test_bad_data_end_the_command_without_a_report(both: Path, tmp_path: Path) -> None:
    run, matrix = gate(both, tmp_path / "r", "--precision", "all", "--data", tmp_path / "nowhere")
    assert (run.code, matrix, (tmp_path / "r").exists()) == (8, None, False)


@pytest.fixture
def known(both: Path, tmp_path: Path) -> ValidationRequest:
    """A request whose reference cache is complete."""
    request = ValidationRequest(both, str(CHECKPOINT), cache=tmp_path / "cache")
    run_matrix(request, MatrixPlan((Precision.FP32,), (Provider.CPU,)), progress=quiet)
    return request


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_by: str) -> None:
    """Replace Python by a script that dies in the process of an int8 cell and runs Python for everything else."""
    script = tmp_path / "python"
    script.write_text(f'#!/bin/sh\ncase "$4" in */int8-cpu) {dies_by};; esac\nexec {sys.executable} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr(processes.sys, "executable", str(script))


@pytest.mark.parametrize(
    ("dies_by", "problem"), [("kill -SEGV $$", "SIGSEGV"), ("echo no memory >&2; exit 3", "exit code 3. no memory")]
)
def test_a_crash_fails_its_cell_only(
    known: ValidationRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_by: str, problem: str
) -> None:
    stand_in(tmp_path, monkeypatch, dies_by)
    plan = MatrixPlan((Precision.FP32, Precision.INT8), (Provider.CPU,))
    matrix = run_matrix(known, plan, progress=quiet).matrix
    assert [cell.verdict for cell in matrix.cells] == [Verdict.PASS, Verdict.FAIL]
    assert problem in matrix.cells[1].problem
    assert matrix.verdict is Verdict.FAIL


def test_a_hanging_cell_is_stopped(known: ValidationRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "sleep 600")
    task, folder = WorkerTask(known, Precision.INT8, Provider.CPU, HASHES), tmp_path / "int8-cpu"
    assert "did not end within 2 seconds" in str(Processes().run(task, folder, 2.0, quiet))


def test_a_crash_fails_even_where_the_provider_may_be_missing(
    known: ValidationRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, "kill -SEGV $$")
    plan = MatrixPlan((Precision.INT8,), (Provider.CPU,), allow_missing=frozenset({Provider.CPU}))
    assert run_matrix(known, plan, progress=quiet).matrix.verdict is Verdict.FAIL


def test_children_of_a_crashed_cell_are_killed(
    known: ValidationRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, "sleep 300 & kill -SEGV $$")
    started = time.monotonic()
    task, folder = WorkerTask(known, Precision.INT8, Provider.CPU, HASHES), tmp_path / "int8-cpu"
    assert "SIGSEGV" in str(Processes().run(task, folder, 60.0, quiet))
    assert time.monotonic() - started < 20


def test_a_cell_without_a_report_fails(
    known: ValidationRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, "exit 0")
    matrix = run_matrix(known, MatrixPlan((Precision.INT8,), (Provider.CPU,)), progress=quiet).matrix
    assert (matrix.verdict, matrix.cells[0].report) == (Verdict.FAIL, None)


@pytest.mark.parametrize("signal_sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_command_leaves_no_process(both: Path, tmp_path: Path, signal_sent: signal.Signals) -> None:
    command = (sys.executable, "-m", "siglip_onnx", "validate", both, "--reference", CHECKPOINT, "--precision", "all")
    with subprocess.Popen(
        [*map(str, command), "--output-dir", str(tmp_path / "r")], stderr=subprocess.DEVNULL
    ) as gate_process:
        deadline = time.monotonic() + 60
        while not (cells := _cells_of(gate_process.pid)) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert cells
        gate_process.send_signal(signal_sent)
        assert gate_process.wait(20) != 0
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}/cmdline").exists() for pid in cells) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(Path(f"/proc/{pid}/cmdline").exists() for pid in cells)


def _cells_of(pid: int) -> list[int]:
    """Processes that a gate has started (Linux alone tells)."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        found += [int(child) for child in children.read_text().split()]
    return found


def test_a_variant_of_the_baseline_must_exist(both: Path, baseline: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(both, tmp_path / "emoji"))
    contract = Artifact.open(folder).contract
    write_contract(folder, replace(contract, variants=contract.variants[:1]))
    run, matrix = gate(folder, tmp_path / "b", "--precision", "all", "--baseline", baseline)
    assert run.code == 1
    assert matrix is not None
    assert [(cell.precision, cell.verdict) for cell in matrix.cells] == [("fp32", "PASS"), ("int8", "FAIL")]


def test_a_verdict_is_not_stored_in_a_changed_artifact(known: ValidationRequest, both: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(both, tmp_path / "emoji"))
    outcome = run_matrix(
        replace(known, artifact=folder), MatrixPlan((Precision.INT8,), (Provider.CPU,)), progress=quiet
    )
    in_contract("logits", bias=0.0)(folder)
    with pytest.raises(ArtifactError, match="changed during validation"):
        store_cells(folder, outcome)


def test_a_crash_replaces_an_earlier_pass(
    known: ValidationRequest, both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(both, tmp_path / "emoji"))
    stand_in(tmp_path, monkeypatch, "kill -SEGV $$")
    request = replace(known, artifact=folder)
    store_cells(folder, run_matrix(request, MatrixPlan((Precision.INT8,), (Provider.CPU,)), progress=quiet))
    artifact = Artifact.open(folder)
    variant = artifact.contract.variant(Precision.INT8)
    assert variant is not None
    assert verdict_of(variant, artifact.contract, Provider.CPU) is Verdict.FAIL
    artifact.verify()


def test_a_failing_run_removes_the_report_of_an_earlier_run(both: Path, tmp_path: Path) -> None:
    gate(both, tmp_path / "r", "--precision", "fp32")
    run, matrix = gate(both, tmp_path / "r", "--precision", "fp32", "--reference", tmp_path / "nowhere")
    assert run.code == 5
    assert matrix is None
    assert list((tmp_path / "r").iterdir()) == []


def test_the_reference_runs_once_for_all_variants(known: ValidationRequest, both: Path, tmp_path: Path) -> None:
    (cache,) = (tmp_path / "cache").iterdir()
    stamp = cache.stat().st_mtime_ns
    steps: list[str] = []
    run_matrix(known, MatrixPlan((Precision.FP32, Precision.INT8), (Provider.CPU,)), progress=steps.append)
    assert cache.stat().st_mtime_ns == stamp
    assert not any("Running the reference, image" in step for step in steps)


def test_the_report_of_a_matrix_is_a_baseline(both: Path, baseline: Path, tmp_path: Path) -> None:
    run, second = gate(both, tmp_path / "b", "--precision", "fp32", "--baseline", baseline)
    assert run.code == 0, run.out
    assert second is not None
    groups = {check.group for cell in second.cells if cell.report for check in cell.report.checks}
    assert "baseline" in groups
    run, matrix = gate(both, tmp_path / "c", "--precision", "fp32", "--provider", "openvino", "--baseline", baseline)
    assert (run.code, matrix) == (4, None)
    assert "The baseline has no fp32 on openvino" in run.err
