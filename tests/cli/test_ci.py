"""The gate as a CI runs it: the shell of the action and of the GitLab template, with what these systems set for it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from siglip_onnx.runtime import errors
from siglip_onnx.runtime.errors import SiglipOnnxError

from ..conftest import CHECKPOINT, ROOT, Command, Run
from ..faults import in_contract

DOCS = ROOT / "docs" / "ci.md"
BIN = Path(sys.executable).parent
HOSTILE = 'x\'; touch pwned; $(touch pwned) `touch pwned` "$(touch pwned)" ${{ x }}'


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    return content


ACTION = read(ROOT / "action.yml")
TEMPLATE = read(ROOT / "examples" / "ci" / "gitlab.yml")[".siglip-onnx"]


def shell(script: str, folder: Path, environment: Mapping[str, str]) -> Run:
    """Run a script as GitHub's `shell: bash` does, and GitLab's runner where the image has bash."""
    path = folder / "script.sh"
    path.write_text(script, "utf-8")
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", path],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)


@dataclass(frozen=True)
class Step:
    """How a step of the action ended."""

    run: Run
    outputs: dict[str, str]
    summary: str


def step(name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(each for each in ACTION["runs"]["steps"] if each.get("id") == name)
    return found


def github(folder: Path, **inputs: str) -> Step:
    """The step `gate`, behind an installation that is there already."""
    given = {name.replace("_", "-"): value for name, value in inputs.items()}
    assert set(given) <= set(ACTION["inputs"])
    values = {f"inputs.{name}": str(told.get("default", "")) for name, told in ACTION["inputs"].items()}
    values |= {f"inputs.{name}": value for name, value in given.items()}
    values["steps.install.outputs.command"] = str(BIN / "siglip-onnx")
    environment = {
        name: re.sub(r"\$\{\{ (\S+) \}\}", lambda found: values[found[1]], value)
        for name, value in step("gate")["env"].items()
    }
    output, summary = folder / "output", folder / "summary"
    files = {"RUNNER_TEMP": str(folder), "GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(summary)}
    run = shell(step("gate")["run"], folder, environment | files)
    lines = output.read_text().splitlines() if output.exists() else []
    return Step(run, dict(line.split("=", 1) for line in lines), summary.read_text("utf-8") if summary.exists() else "")


def gitlab(folder: Path, **variables: str) -> Run:
    """The job's script, behind an installation that is there already."""
    own = {f"SIGLIP_ONNX_{name.upper()}": value for name, value in variables.items()}
    assert set(own) <= set(TEMPLATE["variables"])
    environment = {name: str(value) for name, value in TEMPLATE["variables"].items() if name != "SIGLIP_ONNX_CACHE"}
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return shell("\n".join(TEMPLATE["script"]), folder, environment | own | {"PATH": path})


def problems(folder: Path) -> list[str]:
    """The cases of a JUnit report that are no PASS."""
    suites = ElementTree.parse(folder / "parity.xml").getroot()  # noqa: S314  our own file
    return [f"{case.get('classname')}: {case.get('name')}" for case in suites.iter("testcase") if len(case)]


@pytest.fixture
def no_bias(broken: Path) -> Path:
    """An artifact whose logits lack the bias."""
    in_contract("logits", bias=0.0)(broken)
    return broken


@pytest.mark.gate
def test_a_github_job_of_a_good_artifact_is_green(artifact: Path, tmp_path: Path) -> None:
    found = github(tmp_path, artifact=str(artifact), reference=str(CHECKPOINT), options="--sample=10\n--seed=3\n")
    assert found.run.code == 0, found.run.out
    assert found.outputs == {"verdict": "PASS", "exit-code": "0", "report": "parity"}
    assert found.summary.startswith("# ✅ PASS")
    assert "10 images" in found.summary
    assert sorted(path.suffix for path in (tmp_path / "parity").iterdir()) == [".html", ".json", ".md", ".xml"]
    again = github(tmp_path, artifact=str(artifact), reference=str(CHECKPOINT))
    assert again.run.code == errors.InputError.exit_code
    assert "has a report already" in again.run.out


@pytest.mark.gate
def test_a_github_job_of_a_broken_artifact_is_red_and_its_summary_says_which_rung(
    no_bias: Path, tmp_path: Path
) -> None:
    found = github(tmp_path, artifact=str(no_bias), reference=str(CHECKPOINT), report="out")
    assert found.run.code == 1, found.run.out
    assert found.outputs == {"verdict": "FAIL", "exit-code": "1", "report": "out"}
    assert found.summary.startswith("# ❌ FAIL")
    assert "\nlogits: " in found.summary


@pytest.mark.gate
def test_a_gitlab_job_has_the_verdict_as_its_exit_code_and_the_checks_in_its_report(
    artifact: Path, no_bias: Path, tmp_path: Path
) -> None:
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
    (junit,) = TEMPLATE["artifacts"]["reports"].values()
    run = gitlab(tmp_path / "good", artifact=str(artifact), reference=str(CHECKPOINT), options="--sample=10\n--seed=3")
    assert run.code == 0, run.err
    assert "10 images" in run.out
    assert problems((tmp_path / "good" / junit).parent) == []
    run = gitlab(tmp_path / "bad", artifact=str(no_bias), reference=str(CHECKPOINT))
    assert run.code == 1, run.err
    assert any("logits" in problem for problem in problems((tmp_path / "bad" / junit).parent))


def test_what_ends_the_gate_before_a_verdict_is_in_the_summary_and_inputs_are_no_commands(tmp_path: Path) -> None:
    inputs = dict.fromkeys(("artifact", "reference", "data", "gates", "baseline", "report"), HOSTILE)
    found = github(tmp_path, **inputs, options=f"--labels={HOSTILE}")
    assert found.run.code == errors.ArtifactError.exit_code, found.run.out
    assert found.outputs == {"verdict": "", "exit-code": "7", "report": HOSTILE}
    assert "ended with exit code 7, without a report" in found.summary
    assert "There is no folder" in " ".join(found.summary.split())
    assert not (tmp_path / "pwned").exists()


def test_gitlab_variables_are_no_commands(tmp_path: Path) -> None:
    names = ("artifact", "reference", "optional", "data", "gates", "baseline", "precisions", "providers")
    run = gitlab(tmp_path, **dict.fromkeys(names, HOSTILE), options=f"--labels={HOSTILE}")
    assert run.code == 2, run.err
    assert f"{HOSTILE!r} is none of" in " ".join(run.err.split())
    assert not (tmp_path / "pwned").exists()


def test_a_switch_that_is_neither_on_nor_off_is_refused(tmp_path: Path) -> None:
    found = github(tmp_path, artifact="x", explain="yes")
    assert (found.run.code, found.outputs) == (2, {})
    assert "explain is true or false" in found.run.out


def test_no_script_of_the_action_has_an_input_in_its_text() -> None:
    scripts = [each["run"] for each in ACTION["runs"]["steps"] if "run" in each]
    assert len(scripts) == 2
    assert not any("${{" in script for script in scripts)
    used = {name for each in ACTION["runs"]["steps"] for name in re.findall(r"inputs\.([a-z-]+)", str(each))}
    assert used == set(ACTION["inputs"])


def test_the_examples_use_inputs_and_variables_that_there_are() -> None:
    examples = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)]
    workflow, inconclusive, pipeline = examples
    for each in (*workflow["jobs"]["parity"]["steps"], *inconclusive):
        if "siglip-onnx" in each.get("uses", ""):
            assert {"artifact"} <= set(each["with"]) <= set(ACTION["inputs"])
    assert set(pipeline["parity"]["variables"]) <= set(TEMPLATE["variables"])
    told = re.findall(r"^\| (`.*?`) \|.*\|$", DOCS.read_text("utf-8"), re.MULTILINE)
    assert set(re.findall(r"`([a-z-]+)`", " ".join(told))) == set(ACTION["inputs"]) | set(ACTION["outputs"])


def test_the_exit_codes_are_those_that_are_documented(command: Command) -> None:
    rows = re.findall(r"^\| (\d+) \| (\w*) ?\|", DOCS.read_text("utf-8"), re.MULTILINE)
    named = {name: int(code) for code, name in rows if name}
    assert named == {kind.__name__: kind.exit_code for kind in SiglipOnnxError.__subclasses__()}
    told = command("--help").out.partition("Exit codes:")[2].partition("Options:")[0]
    assert [int(code) for code, _ in rows] == [int(code) for code in re.findall(r"\b\d+\b", told)]
