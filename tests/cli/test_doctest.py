"""The examples in docstrings of the runtime run and print the expected output."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import siglip_onnx.runtime
from siglip_onnx.runtime import Siglip
from siglip_onnx.runtime.artifact.contract import Role

from ..conftest import EVAL

PACKAGE = siglip_onnx.runtime
WRITER = f"{PACKAGE.__name__}.bulk.run"  # its example writes the file that the example of `search` reads
OTHERS = (found.name for found in pkgutil.walk_packages(PACKAGE.__path__, f"{PACKAGE.__name__}."))
MODULES = [PACKAGE.__name__, WRITER, *(name for name in OTHERS if name != WRITER)]


def run(module: ModuleType, names: dict[str, object]) -> int:
    """Run the examples of a module; return their number."""
    count = 0
    runner = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    for example in doctest.DocTestFinder().find(module, extraglobs=names):
        result = runner.run(example)
        assert result.failed == 0, example.name
        count += result.attempted
    return count


def test_examples_run(passed: Path, tmp_path: Path) -> None:
    names = {
        "folder": str(passed),
        "image": str(EVAL / "distorted-noto-1f43b.webp"),
        "output": tmp_path / "o.parquet",
        "Siglip": Siglip,
        "Role": Role,
        "np": np,
    }
    assert sum(run(importlib.import_module(name), names) for name in MODULES) >= 20


@pytest.mark.parametrize("name", ["load", "encode_image", "encode_text", "encode_labels", "probabilities", "on_device"])
def test_main_methods_have_an_example(name: str) -> None:
    assert ">>>" in str(getattr(Siglip, name).__doc__)
