"""What tests/trace_modules.py counts, on a toy package of three layers."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from ..trace_modules import ModuleTrace, layer_of

TOY = {
    "__init__": "",
    "high": "from . import middle\ndef start():\n    return middle.work(report)\ndef report():\n    return 1\n",
    "middle": "from . import low\ndef work(callback):\n    return low.compute(callback)\n",
    "low": "def table():\n    return 2\nTABLE = table()\ndef compute(call):\n    return call() + call()\n",
}
LAYERS = {"low": (0, 0), "middle": (1, 0), "high": (2, 0)}


@pytest.fixture
def trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleTrace:
    """The trace of a run that imports the toy, starts at the top, and calls back from the bottom twice."""
    package = tmp_path / "toy_package"
    package.mkdir()
    for name, text in TOY.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    files = {str(package / f"{name}.py"): name for name in LAYERS}
    with ModuleTrace(files, LAYERS.__getitem__) as traced:
        importlib.import_module("toy_package.high").start()
    for name in [name for name in sys.modules if name.startswith("toy_package")]:
        del sys.modules[name]
    return traced


def test_modules_are_listed_in_the_order_of_first_entry(trace: ModuleTrace) -> None:
    assert list(trace.entered) == ["high", "middle", "low"]


def test_what_runs_during_an_import_is_not_counted(trace: ModuleTrace) -> None:
    assert trace.entered["low"] == "middle"  # not itself, which called table() at its top level


def test_a_callback_into_a_higher_layer_is_one_return(trace: ModuleTrace) -> None:
    assert trace.returns == {("low", "high"): 2}


def test_layers_are_those_of_the_table() -> None:
    order = ["runtime.model", "exporter.options", "validate.report.report", "validate.checks.numeric", "cli.validate"]
    assert sorted(order, key=layer_of) == order
