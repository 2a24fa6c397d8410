"""No character changes an exit code, whatever the encoding of the output."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from siglip_onnx.cli import cli as siglip_onnx

from ..conftest import CHECKPOINT, EVAL, Run

ENCODINGS = ("ascii", "cp1252", "cp437", "cp850", "cp932", "latin-1", "utf-8")
COMMANDS = siglip_onnx.list_commands(click.Context(siglip_onnx))
PHOTO = sorted(EVAL.rglob("*.webp"))[0]


def run(encoding: str, *arguments: str | Path) -> Run:
    """Run the command line; its output has the encoding and refuses other characters, as a Windows console's file."""
    done = subprocess.run(
        [sys.executable, "-m", "siglip_onnx", *map(str, arguments)],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": f"{encoding}:strict", "PYTHONUTF8": "0"},
        check=False,
    )
    return Run(done.returncode, done.stdout.decode(encoding, "replace"), done.stderr.decode(encoding, "replace"))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_labels_of_any_script_are_classified(artifact: Path, encoding: str) -> None:
    labels = [word for label in ("日本の犬", "Ärztin", "кот", "🦊") for word in ("--label", label)]
    done = run(encoding, "classify", artifact, PHOTO, *labels)
    assert done.code == 0, done.err
    assert ("🦊" in done.out) == (encoding == "utf-8")


def test_json_is_utf_8_in_every_encoding(artifact: Path) -> None:
    process = [sys.executable, "-m", "siglip_onnx", "classify", artifact, PHOTO, "--label", "日本の犬", "--json"]
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252:strict"}
    output = subprocess.run(list(map(str, process)), capture_output=True, env=environment, check=True).stdout
    assert "日本の犬" in json.dumps(json.loads(output.decode("utf-8")), ensure_ascii=False)


@pytest.mark.gate
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_verdict_is_printed_and_is_the_exit_code(artifact: Path, pairs: Path, tmp_path: Path, encoding: str) -> None:
    data = ("--reference", CHECKPOINT, "--data", pairs, "--output-dir", tmp_path / "out")
    done = run(encoding, "validate", artifact, *data)
    verdict = json.loads((tmp_path / "out" / "parity.json").read_text())["cells"][0]["verdict"]
    assert verdict in done.out
    assert done.code == {"PASS": 0, "FAIL": 1, "INCONCLUSIVE": 4}[verdict], done.err


@pytest.mark.gate
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_printed(command: str, encoding: str) -> None:
    assert run(encoding, command, "--help").code == 0


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_an_error_that_names_a_strange_file_keeps_its_exit_code(encoding: str) -> None:
    assert run(encoding, "inspect", "日本の犬 🦊").code == 7
