"""Gates of many cells: each in a process of its own, whose end, however it comes, is that cell's verdict."""

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
from siglip_onnx.validate import Terms, store, validate
from siglip_onnx.validate.matrix import runner
from siglip_onnx.validate.matrix.output_files import store_cells
from siglip_onnx.validate.matrix.runner import MatrixPlan, run_matrix
from siglip_onnx.validate.matrix.worker import Job, WorkerTask
from siglip_onnx.validate.report.matrix import Matrix

from ..conftest import CHECKPOINT, Run, cli, quiet
from ..faults import in_contract

pytestmark = pytest.mark.gate


@pytest.fixture(scope="module")
def both(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact with fp32 and int8."""
    folder = Path(shutil.copytree(artifact, tmp_path_factory.mktemp("both") / "emoji"))
    model = Siglip.load(folder)
    report, html, _ = validate(model, CHECKPOINT, terms=Terms(), progress=quiet)
    store(model.artifact, report, html)
    quantize(folder, Int8(), progress=quiet)
    return folder


@pytest.fixture(scope="module")
def baseline(both: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a release that passed."""
    folder = tmp_path_factory.mktemp("release")
    assert gate(both, folder, "--precisions", "all")[0].code == 0
    return folder / "parity.json"


def gate(artifact: Path, report: Path, *more: str | Path) -> tuple[Run, Matrix | None]:
    run = cli("validate", artifact, "--reference", CHECKPOINT, "--report", report, *more)
    path = report / "parity.json"
    return run, Matrix.from_json(path.read_bytes()) if path.exists() else None


def test_every_precision_on_two_providers_passes_and_every_file_is_written(both: Path, tmp_path: Path) -> None:
    run, found = gate(both, tmp_path, "--precisions", "all", "--providers", "cpu,openvino")
    assert run.code == 0, run.out + run.err
    assert found is not None
    assert found.verdict is Verdict.PASS
    assert [(cell.precision, cell.provider) for cell in found.cells] == [
        ("fp32", "cpu"),
        ("fp32", "openvino"),
        ("int8", "cpu"),
        ("int8", "openvino"),
    ]
    assert all(cell.report is not None and cell.report.cost is not None for cell in found.cells)
    suites = ElementTree.parse(tmp_path / "parity.xml").getroot()  # noqa: S314  our own file
    checks = sum(len(cell.report.checks) for cell in found.cells if cell.report)
    assert sum(1 for _ in suites.iter("testcase")) == checks
    assert "PASS" in (tmp_path / "parity.md").read_text()
    assert "bundled photos alone" in run.out
    assert "bundled photos alone" in (tmp_path / "parity.html").read_text()
    assert json.loads((tmp_path / "parity.json").read_text())["schema_version"] == 1


def test_verdicts_go_into_the_artifact_unless_a_folder_is_named(both: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(both, tmp_path / "emoji"))
    run = cli("validate", folder, "--reference", CHECKPOINT, "--precisions", "int8", "--providers", "cpu")
    assert run.code == 0, run.err
    contract = Artifact.open(folder).contract
    variant = contract.variant(Precision.INT8)
    assert variant is not None
    assert verdict_of(variant, contract, Provider.CPU) is Verdict.PASS
    assert (folder / "reports" / "parity.html").exists()
    Artifact.open(folder).verify()


def test_a_provider_that_is_not_here_fails_the_gate_unless_it_is_optional(both: Path, tmp_path: Path) -> None:
    arguments = ("--precisions", "fp32", "--providers", "cpu,coreml")
    run, found = gate(both, tmp_path / "a", *arguments)
    assert run.code == 1
    assert found is not None
    assert (found.cells[1].verdict, found.cells[1].report) == (Verdict.FAIL, None)
    assert "coreml" in found.cells[1].problem.lower()
    run, found = gate(both, tmp_path / "b", *arguments, "--optional", "coreml")
    assert run.code == 0
    assert found is not None
    assert (found.cells[1].verdict, found.cells[1].required) == (Verdict.INCONCLUSIVE, False)


def test_an_optional_provider_that_is_here_must_pass(both: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(both, tmp_path / "emoji"))
    in_contract("logits", bias=0.0)(folder)
    run, found = gate(folder, tmp_path / "a", "--precisions", "fp32", "--providers", "cpu", "--optional", "cpu")
    assert (run.code, found and found.verdict) == (1, Verdict.FAIL)
    assert "logits" in run.out


def test_a_variant_that_is_not_there_fails_the_gate(both: Path, tmp_path: Path) -> None:
    run, found = gate(both, tmp_path, "--precisions", "fp32,int4")
    assert run.code == 1
    assert found is not None
    assert [cell.verdict for cell in found.cells] == [Verdict.PASS, Verdict.FAIL]
    assert "has no" in found.cells[1].problem


def test_bad_data_end_the_command_and_leave_nothing(both: Path, tmp_path: Path) -> None:
    run, found = gate(both, tmp_path / "r", "--precisions", "all", "--data", tmp_path / "nowhere")
    assert (run.code, found, (tmp_path / "r").exists()) == (8, None, False)


@pytest.fixture
def known(both: Path, tmp_path: Path) -> Job:
    """A job whose reference has answered, so that a process can be broken from then on."""
    job = Job(both, str(CHECKPOINT), tmp_path / "answers")
    run_matrix(job, MatrixPlan((Precision.FP32,), (Provider.CPU,)), progress=quiet)
    return job


def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_by: str) -> None:
    """Something that dies where an int8 cell is to be judged, and is Python for everything else."""
    script = tmp_path / "python"
    script.write_text(
        f'#!/bin/sh\ngrep -q \'"int8".*"judge":true\' "$3" && {{ {dies_by}; }}\nexec {sys.executable} "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setattr(runner.sys, "executable", str(script))


@pytest.mark.parametrize(
    ("dies_by", "problem"), [("kill -SEGV $$", "SIGSEGV"), ("echo no memory >&2; exit 3", "exit code 3. no memory")]
)
def test_a_crash_is_that_cells_fail(
    known: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies_by: str, problem: str
) -> None:
    stand_in(tmp_path, monkeypatch, dies_by)
    plan = MatrixPlan((Precision.FP32, Precision.INT8), (Provider.CPU,))
    found = run_matrix(known, plan, progress=quiet).matrix
    assert [cell.verdict for cell in found.cells] == [Verdict.PASS, Verdict.FAIL]
    assert problem in found.cells[1].problem
    assert found.verdict is Verdict.FAIL


def test_a_hang_is_that_cells_fail(known: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "sleep 600")
    task, folder = WorkerTask(known, Precision.INT8, Provider.CPU), tmp_path / "cell"
    assert "did not end within 2 seconds" in str(runner.Processes().run(task, folder, 2.0, quiet))


def test_an_optional_cell_that_crashes_fails_the_gate(
    known: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, "kill -SEGV $$")
    plan = MatrixPlan((Precision.INT8,), (Provider.CPU,), optional=frozenset({Provider.CPU}))
    assert run_matrix(known, plan, progress=quiet).matrix.verdict is Verdict.FAIL


def test_what_a_dead_cell_has_started_does_not_keep_the_gate_waiting(
    known: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, "sleep 300 & kill -SEGV $$")
    started = time.monotonic()
    said = runner.Processes().run(WorkerTask(known, Precision.INT8, Provider.CPU), tmp_path / "cell", 60.0, quiet)
    assert "SIGSEGV" in str(said)
    assert time.monotonic() - started < 20


def test_a_cell_that_ends_well_without_a_report_is_no_pass(
    known: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, "exit 0")
    found = run_matrix(known, MatrixPlan((Precision.INT8,), (Provider.CPU,)), progress=quiet).matrix
    assert (found.verdict, found.cells[0].report) == (Verdict.FAIL, None)


@pytest.mark.parametrize("signal_sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_gate_that_is_stopped_leaves_no_process_behind(
    both: Path, tmp_path: Path, signal_sent: signal.Signals
) -> None:
    command = (sys.executable, "-m", "siglip_onnx", "validate", both, "--reference", CHECKPOINT, "--precisions", "all")
    with subprocess.Popen(
        [*map(str, command), "--report", str(tmp_path / "r")], stderr=subprocess.DEVNULL
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


def test_a_variant_that_the_last_release_had_must_be_there(both: Path, baseline: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(both, tmp_path / "emoji"))
    contract = Artifact.open(folder).contract
    write_contract(folder, replace(contract, variants=contract.variants[:1]))
    run, found = gate(folder, tmp_path / "b", "--precisions", "all", "--baseline", baseline)
    assert run.code == 1
    assert found is not None
    assert [(cell.precision, cell.verdict) for cell in found.cells] == [("fp32", "PASS"), ("int8", "FAIL")]


def test_a_verdict_is_not_put_on_what_came_in_its_place(known: Job, both: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(both, tmp_path / "emoji"))
    outcome = run_matrix(
        replace(known, artifact=folder), MatrixPlan((Precision.INT8,), (Provider.CPU,)), progress=quiet
    )
    in_contract("logits", bias=0.0)(folder)
    with pytest.raises(ArtifactError, match="changed during validation"):
        store_cells(folder, outcome)


def test_a_cell_that_crashed_takes_an_earlier_pass_away(
    known: Job, both: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(both, tmp_path / "emoji"))
    stand_in(tmp_path, monkeypatch, "kill -SEGV $$")
    job = replace(known, artifact=folder)
    store_cells(folder, run_matrix(job, MatrixPlan((Precision.INT8,), (Provider.CPU,)), progress=quiet))
    artifact = Artifact.open(folder)
    variant = artifact.contract.variant(Precision.INT8)
    assert variant is not None
    assert verdict_of(variant, artifact.contract, Provider.CPU) is Verdict.FAIL
    artifact.verify()


def test_nobody_finds_the_report_of_an_earlier_run(both: Path, tmp_path: Path) -> None:
    gate(both, tmp_path / "r", "--precisions", "fp32")
    run, found = gate(both, tmp_path / "r", "--precisions", "fp32", "--reference", tmp_path / "nowhere")
    assert run.code == 5
    assert found is None
    assert list((tmp_path / "r").iterdir()) == []


def test_ten_variants_cost_one_run_of_the_reference(known: Job, both: Path, tmp_path: Path) -> None:
    (answers,) = (tmp_path / "answers").iterdir()
    stamp = answers.stat().st_mtime_ns
    steps: list[str] = []
    run_matrix(known, MatrixPlan((Precision.FP32, Precision.INT8), (Provider.CPU,)), progress=steps.append)
    assert answers.stat().st_mtime_ns == stamp
    assert not any("Running the reference, image" in step for step in steps)


def test_the_report_of_a_gate_is_a_baseline_for_the_next(both: Path, baseline: Path, tmp_path: Path) -> None:
    run, second = gate(both, tmp_path / "b", "--precisions", "fp32", "--baseline", baseline)
    assert run.code == 0, run.out
    assert second is not None
    rungs = {check.group for cell in second.cells if cell.report for check in cell.report.checks}
    assert "baseline" in rungs
    run, found = gate(both, tmp_path / "c", "--precisions", "fp32", "--providers", "openvino", "--baseline", baseline)
    assert run.code == 4
    assert found is not None
    assert "The baseline" in found.cells[0].problem
