"""No release is worse than the last accepted one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from siglip_onnx.runtime import Siglip
from siglip_onnx.runtime.artifact.contract import Precision, Provider, ReferenceKind, Verdict
from siglip_onnx.runtime.errors import InputError
from siglip_onnx.validate import CheckGroup, LimitTable, Report, read_baseline, validate
from siglip_onnx.validate.checks.regression import compare_latency, compare_with_baseline
from siglip_onnx.validate.report.matrix import Cell, Matrix, matrix_verdict

from ..conftest import CHECKPOINT, Command, quiet


@pytest.fixture(scope="module")
def before(artifact: Path) -> Report:
    return validate(Siglip.load(artifact), CHECKPOINT, progress=quiet).report


def changed(report: Report, name: str, **values: float) -> Report:
    checks = tuple(replace(c, **values) if c.name == name else c for c in report.checks)  # type: ignore[arg-type]
    return replace(report, checks=checks)


def verdicts(report: Report, before: Report, data: str | None = None) -> dict[str, Verdict]:
    return {
        check.name: check.verdict
        for check in compare_with_baseline(report.checks, before, data or report.data.sha256, report.against)
    }


def test_the_same_release_again_passes(artifact: Path, before: Report) -> None:
    limits = LimitTable({("default",): {"latency": 50.0}})
    report = validate(Siglip.load(artifact), CHECKPOINT, limits=limits, baseline=before, progress=quiet).report
    assert report.verdict is Verdict.PASS, report.first_problem()
    assert {CheckGroup.BASELINE, CheckGroup.LATENCY} <= {check.group for check in report.checks}


@pytest.mark.parametrize(
    ("name", "value"),
    [("vision relative error", 2e-5), ("text centered cosine min", 0.999995), ("top-1 agreement", 0.9999)],
)
def test_a_number_within_its_limit_may_not_become_worse(before: Report, name: str, value: float) -> None:
    worse = verdicts(changed(before, name, measured=value), before)
    assert [key for key, verdict in worse.items() if verdict is not Verdict.PASS] == [
        f"{check.group}: {name}" for check in before.checks if check.name == name
    ]


def test_the_noise_of_a_measurement_is_no_regression(before: Report) -> None:
    noisy = changed(changed(before, "difference max", measured=0.004), "offset", measured=0.0001)
    known = changed(before, "difference max", measured=0.002, noise=0.003)
    assert set(verdicts(noisy, known).values()) == {Verdict.PASS}


def test_a_release_does_not_set_its_own_slack(before: Report) -> None:
    """A floor of its own, however high, excuses nothing, and that of the baseline at most a quarter of the limit."""
    worse = changed(before, "difference max", measured=0.008, noise=0.019)
    assert verdicts(worse, before)["logits: difference max"] is Verdict.FAIL
    loose = changed(before, "difference max", noise=0.019)
    assert verdicts(worse, loose)["logits: difference max"] is Verdict.FAIL


def test_rounding_of_another_processor_is_no_regression(before: Report) -> None:
    old = next(check.measured for check in before.checks if check.name == "difference max")
    assert old is not None
    assert set(verdicts(changed(before, "difference max", measured=3 * old), before).values()) == {Verdict.PASS}


def test_another_reference_is_inconclusive(before: Report) -> None:
    found = list(compare_with_baseline(before.checks, before, before.data.sha256, ReferenceKind.FP32))
    assert [check.verdict for check in found] == [Verdict.INCONCLUSIVE]


def test_a_matrix_that_failed_is_refused_as_a_baseline(before: Report, tmp_path: Path) -> None:
    good = Cell(Precision.FP32, Provider.CPU, Verdict.PASS, True, before)
    bad = Cell(Precision.INT8, Provider.CPU, Verdict.FAIL, True, None, "It crashed.")
    matrix = Matrix("", 0.0, "x", "y", before.data, matrix_verdict((good, bad)), (good, bad), {})
    (tmp_path / "parity.json").write_bytes(matrix.to_json())
    with pytest.raises(InputError, match="the verdict FAIL"):
        read_baseline(tmp_path / "parity.json")


def test_a_number_that_is_no_longer_measured_fails(before: Report) -> None:
    less = replace(before, checks=tuple(c for c in before.checks if c.name != "residual sigma"))
    assert verdicts(less, before)["logits: residual sigma"] is Verdict.FAIL


def test_other_data_are_inconclusive(before: Report) -> None:
    assert set(verdicts(before, before, "0" * 64).values()) == {Verdict.INCONCLUSIVE}


def test_latency_is_compared_on_the_same_machine_only(before: Report) -> None:
    assert before.cost is not None
    machine = before.environment["machine"]
    slower = replace(before.cost, seconds={role: 2 * s for role, s in before.cost.seconds.items()})
    assert {c.verdict for c in compare_latency(slower, before, machine, 1.5)} == {Verdict.FAIL}
    assert {c.verdict for c in compare_latency(slower, before, machine, 3.0)} == {Verdict.PASS}
    assert {c.verdict for c in compare_latency(slower, before, "another", 3.0)} == {Verdict.INCONCLUSIVE}


@pytest.mark.parametrize("content", ["", "{}", '{"cells": 3}', "[]", '{"schema_version": 1}'])
def test_a_file_that_is_no_report_is_refused_as_a_baseline(tmp_path: Path, content: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(InputError, match="baseline"):
        read_baseline(tmp_path / "x.json")


def test_the_report_of_a_failed_release_is_refused_as_a_baseline(
    before: Report, tmp_path: Path, artifact: Path, command: Command
) -> None:
    path = tmp_path / "failed.json"
    path.write_bytes(replace(before, verdict=Verdict.FAIL).to_json())
    run = command("validate", artifact, "--reference", CHECKPOINT, "--baseline", path, "--output-dir", tmp_path / "r")
    assert (run.code, "Name the report of a release that passed" in run.err) == (8, True)
