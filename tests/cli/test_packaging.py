"""The wheel contains every module and every data file of the repository's folders."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from ..conftest import ROOT

FOLDERS = ("siglip_onnx", "exporter", "quantize", "runtime", "validate")


def test_wheel_contains_every_file(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, source]
    subprocess.run(command, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        actual = {name for name in wheel.namelist() if ".dist-info/" not in name}
    expected = {
        "/".join(("siglip_onnx", *path.relative_to(source).parts)).replace("siglip_onnx/siglip_onnx", "siglip_onnx")
        for folder in FOLDERS
        for path in (source / folder).rglob("*")
        if path.is_file()
    }
    assert actual == expected
