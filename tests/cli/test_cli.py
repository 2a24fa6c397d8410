"""The command line: one paragraph and an exit code per error, and JSON for programs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from siglip_onnx import __version__
from siglip_onnx.runtime import errors

from ..conftest import CHECKPOINT, DATA, EVAL, cli, is_one_paragraph

BEAR = EVAL / "distorted-noto-1f43b.webp"


def test_version_and_help() -> None:
    assert cli("--version").out.strip().endswith(__version__)
    page = cli("--help")
    assert page.code == 0
    assert all(name in page.out for name in ("export", "validate", "classify", "inspect", "doctor"))
    assert "Exit codes: 0 success" in page.out


@pytest.mark.parametrize("name", ["export", "validate", "classify", "inspect", "doctor"])
def test_every_command_has_help(name: str) -> None:
    run = cli(name, "--help")
    assert run.code == 0
    assert "Usage:" in run.out


def test_every_error_has_a_distinct_exit_code() -> None:
    kinds = errors.SiglipOnnxError.__subclasses__()
    codes = [kind.exit_code for kind in kinds]
    assert len(kinds) == len(set(codes)) == 8
    assert not {0, 2} & set(codes)
    for kind in kinds:
        assert f"{kind.__name__} " in str(errors.__doc__)


@pytest.mark.parametrize("path", sorted((DATA / "images" / "odd").glob("BAD_*")), ids=lambda path: path.name)
def test_damaged_image_is_one_paragraph(artifact: Path, path: Path) -> None:
    run = cli("classify", artifact, path, "--label", "cat")
    assert run.code == errors.InputError.exit_code
    assert is_one_paragraph(run.err)
    assert path.name in run.err.replace("\n", "")


@pytest.mark.parametrize("name", ["one_pixel_red.png", "aspect_2000x4.png"])
def test_extreme_image_is_classified(artifact: Path, name: str) -> None:
    assert cli("classify", artifact, DATA / "images" / "odd" / name, "--label", "cat").code == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("classify",), 2),
        (("classify", "{artifact}", BEAR), 2),
        (("classify", "{artifact}", BEAR, "--label", "x", "--precision", "fp17"), 2),
        (("frobnicate",), 2),
        (("export", "./no/such", "somewhere"), 5),
        (("export", "../typo", "somewhere"), 5),
        (("classify", "{artifact}", BEAR, "--labels-from", BEAR), 8),
        (("inspect", "nowhere"), 7),
        (("classify", "nowhere", BEAR, "--label", "x"), 7),
        (("classify", "{artifact}", BEAR, "--label", "x", "--precision", "int8"), 7),
        (("classify", "{artifact}", BEAR, "--label", "x", "--template", "none"), 8),
        (("validate", "{artifact}", "--reference", "nowhere"), 5),
        (("validate", "{artifact}", "--reference", CHECKPOINT, "--data", "nowhere"), 8),
        (("export", "nowhere", "somewhere"), 5),
    ],
    ids=lambda value: str(value)[:40],
)
def test_exit_codes(artifact: Path, arguments: tuple[str | Path, ...], code: int) -> None:
    run = cli(*(str(a).format(artifact=artifact) for a in arguments))
    assert run.code == code, run.err
    assert "Traceback" not in run.err
    assert run.out == ""


def test_names_are_printed_literally(artifact: Path, tmp_path: Path) -> None:
    image = tmp_path / "[red]:bear:[a].webp"
    image.write_bytes(BEAR.read_bytes())
    run = cli("classify", artifact, image, "--label", "[/b]", "--label", ":bear:")
    assert run.code == 0
    assert all(name in run.out.replace("\n", "") for name in ("[red]:bear:[a].webp", "[/b]", ":bear:"))


def test_broken_pipe_is_not_a_parity_failure() -> None:
    command = f"{sys.executable} -m siglip_onnx doctor | true; exit ${{PIPESTATUS[0]}}"
    assert subprocess.run(["bash", "-c", command], check=False).returncode in (0, 141)


def test_debug_shows_the_traceback() -> None:
    run = cli("--debug", "inspect", "nowhere")
    assert run.code == errors.ArtifactError.exit_code
    assert "Traceback" in run.err
    assert "ArtifactError" in run.err


def test_classify_prints_a_table_or_json(artifact: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("bear\n\nteapot\n", "utf-8")
    people = cli("classify", artifact, BEAR, "--labels-from", tmp_path / "labels.txt", "--label", "rocket")
    assert people.code == 0
    assert "probability" in people.out
    programs = cli("classify", artifact, BEAR, "--label", "teapot", "--label", "bear", "--top", "1", "--json")
    ranked = json.loads(programs.out)[str(BEAR)]
    assert [row["label"] for row in ranked] == ["bear"]


def test_inspect_prints_a_table_or_json(artifact: Path) -> None:
    people = cli("inspect", artifact, "--verify")
    assert people.code == 0
    assert "onnx/vision_model.onnx" in people.out
    assert "files match the contract" in people.out
    assert json.loads(cli("inspect", artifact, "--json").out)["embedding"]["size"] == 192


def test_doctor_prints_a_table_or_json() -> None:
    page = cli("doctor").out
    assert re.search(r"^cpu +yes", page, re.MULTILINE)
    assert re.search(r"^coreml +no +it needs macOS", page, re.MULTILINE) or sys.platform == "darwin"
    found = json.loads(cli("doctor", "--json").out)
    assert found["siglip-onnx"] == __version__
    assert {"name": "cpu", "works": True, "problem": None} in found["providers"]
    assert all(provider["works"] or provider["problem"]["fix"] for provider in found["providers"])
