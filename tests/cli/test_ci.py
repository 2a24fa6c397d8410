"""Scripts of the GitHub action and of the GitLab template, run with the environment that these systems provide."""

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
    """Run a script as GitHub's `shell: bash` does, and GitLab's runner if the image has bash."""
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
    """Result of a step of the action."""

    run: Run
    outputs: dict[str, str]
    summary: str


def step(name: str) -> dict[str, Any]:
    content: dict[str, Any] = next(each for each in ACTION["runs"]["steps"] if each.get("id") == name)
    return content


def github(folder: Path, **inputs: str) -> Step:
    """Run the step `gate` with the installed siglip-onnx."""
    inputs = {name.replace("_", "-"): value for name, value in inputs.items()}
    assert set(inputs) <= set(ACTION["inputs"])
    values = {f"inputs.{name}": str(definition.get("default", "")) for name, definition in ACTION["inputs"].items()}
    values |= {f"inputs.{name}": value for name, value in inputs.items()}
    values["steps.install.outputs.command"] = str(BIN / "siglip-onnx")
    environment = {
        name: re.sub(r"\$\{\{ (\S+) \}\}", lambda match: values[match[1]], value)
        for name, value in step("gate")["env"].items()
    }
    output, summary = folder / "output", folder / "summary"
    files = {"RUNNER_TEMP": str(folder), "GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(summary)}
    run = shell(step("gate")["run"], folder, environment | files)
    lines = output.read_text().splitlines() if output.exists() else []
    return Step(run, dict(line.split("=", 1) for line in lines), summary.read_text("utf-8") if summary.exists() else "")


def gitlab(folder: Path, **variables: str) -> Run:
    """Run the script of the job with the installed siglip-onnx."""
    custom = {f"SIGLIP_ONNX_{name.upper()}": value for name, value in variables.items()}
    assert set(custom) <= set(TEMPLATE["variables"])
    environment = {name: str(value) for name, value in TEMPLATE["variables"].items() if name != "SIGLIP_ONNX_CACHE"}
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return shell("\n".join(TEMPLATE["script"]), folder, environment | custom | {"PATH": path})


def problems(folder: Path) -> list[str]:
    """Test cases of a JUnit report with a problem."""
    suites = ElementTree.parse(folder / "parity.xml").getroot()  # noqa: S314  our own file
    return [f"{case.get('classname')}: {case.get('name')}" for case in suites.iter("testcase") if len(case)]


@pytest.fixture
def no_bias(broken: Path) -> Path:
    """Artifact whose contract has a logit bias of 0."""
    in_contract("logits", bias=0.0)(broken)
    return broken


@pytest.mark.gate
def test_github_job_of_a_good_artifact_passes(artifact: Path, tmp_path: Path) -> None:
    job = github(tmp_path, artifact=str(artifact), reference=str(CHECKPOINT), options="--max-samples=10\n--seed=3\n")
    assert job.run.code == 0, job.run.out
    assert job.outputs == {"verdict": "PASS", "exit-code": "0", "output-dir": "parity"}
    assert job.summary.startswith("# ✅ PASS")
    assert "10 images" in job.summary
    assert sorted(path.suffix for path in (tmp_path / "parity").iterdir()) == [".html", ".json", ".md", ".xml"]
    again = github(tmp_path, artifact=str(artifact), reference=str(CHECKPOINT))
    assert again.run.code == errors.InputError.exit_code
    assert "already contains a report" in again.run.out


@pytest.mark.gate
def test_github_job_of_a_broken_artifact_fails_and_its_summary_names_the_check_group(
    no_bias: Path, tmp_path: Path
) -> None:
    job = github(tmp_path, artifact=str(no_bias), reference=str(CHECKPOINT), output_dir="out")
    assert job.run.code == 1, job.run.out
    assert job.outputs == {"verdict": "FAIL", "exit-code": "1", "output-dir": "out"}
    assert job.summary.startswith("# ❌ FAIL")
    assert "\nlogits: " in job.summary


@pytest.mark.gate
def test_gitlab_job_ends_with_the_exit_code_of_the_verdict_and_reports_the_checks(
    artifact: Path, no_bias: Path, tmp_path: Path
) -> None:
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
    (junit,) = TEMPLATE["artifacts"]["reports"].values()
    options = "--max-samples=10\n--seed=3"
    run = gitlab(tmp_path / "good", artifact=str(artifact), reference=str(CHECKPOINT), options=options)
    assert run.code == 0, run.err
    assert "10 images" in run.out
    assert problems((tmp_path / "good" / junit).parent) == []
    run = gitlab(tmp_path / "bad", artifact=str(no_bias), reference=str(CHECKPOINT))
    assert run.code == 1, run.err
    assert any("logits" in problem for problem in problems((tmp_path / "bad" / junit).parent))


def test_error_before_a_verdict_is_in_the_github_summary_and_inputs_are_not_executed(tmp_path: Path) -> None:
    inputs = dict.fromkeys(("artifact", "reference", "data", "limits", "baseline", "output_dir"), HOSTILE)
    job = github(tmp_path, **inputs, options=f"--labels={HOSTILE}")
    assert job.run.code == errors.ArtifactError.exit_code, job.run.out
    assert job.outputs == {"verdict": "", "exit-code": "7", "output-dir": HOSTILE}
    assert "ended with exit code 7 and without a report" in job.summary
    assert "pwned" in job.summary  # the message names the missing artifact
    assert not (tmp_path / "pwned").exists()


def test_gitlab_variables_are_not_executed(tmp_path: Path) -> None:
    names = ("artifact", "reference", "allow_missing", "data", "limits", "baseline", "precision", "provider")
    run = gitlab(tmp_path, **dict.fromkeys(names, HOSTILE), options=f"--labels={HOSTILE}")
    assert run.code == 2, run.err
    assert "$(touch pwned)" in " ".join(run.err.split())  # the message names the unknown precision
    assert not (tmp_path / "pwned").exists()


def test_explain_must_be_true_or_false(tmp_path: Path) -> None:
    job = github(tmp_path, artifact="x", explain="yes")
    assert (job.run.code, job.outputs) == (2, {})
    assert "explain must be true or false" in job.run.out
    run = gitlab(tmp_path, artifact="x", explain="yes")
    assert run.code == 2
    assert "SIGLIP_ONNX_EXPLAIN must be true or false" in run.err


def test_scripts_of_the_action_contain_no_inputs() -> None:
    scripts = [each["run"] for each in ACTION["runs"]["steps"] if "run" in each]
    assert len(scripts) == 2
    assert not any("${{" in script for script in scripts)
    used = {name for each in ACTION["runs"]["steps"] for name in re.findall(r"inputs\.([a-z-]+)", str(each))}
    assert used == set(ACTION["inputs"])


def test_examples_and_tables_of_the_docs_use_the_existing_inputs_and_variables() -> None:
    examples = [yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", DOCS.read_text("utf-8"), re.DOTALL)]
    workflow, inconclusive, pipeline = examples
    for each in (*workflow["jobs"]["parity"]["steps"], *inconclusive):
        if "siglip-onnx" in each.get("uses", ""):
            assert {"artifact"} <= set(each["with"]) <= set(ACTION["inputs"])
    assert set(pipeline["parity"]["variables"]) <= set(TEMPLATE["variables"])
    rows = re.findall(r"^\| (`.*?`) \|.*\|$", DOCS.read_text("utf-8"), re.MULTILINE)
    assert set(re.findall(r"`([a-z-]+)`", " ".join(rows))) == set(ACTION["inputs"]) | set(ACTION["outputs"])


def test_exit_codes_match_the_docs(command: Command) -> None:
    rows = re.findall(r"^\| (\d+) \| (\w*) ?\|", DOCS.read_text("utf-8"), re.MULTILINE)
    documented = {name: int(code) for code, name in rows if name}
    assert documented == {kind.__name__: kind.exit_code for kind in SiglipOnnxError.__subclasses__()}
    listed = command("--help").out.partition("Exit codes:")[2].partition("Options:")[0]
    assert [int(code) for code, _ in rows] == [int(code) for code in re.findall(r"\b\d+\b", listed)]
