"""The modules that one run passes through, in the order of their first entry.

    python -m tests.trace_modules validate [OPTION]…   # `siglip-onnx validate` of the bundled model, in this process
    python -m tests.trace_modules cell                 # a cell of a matrix: validate/matrix/worker.py, in this process

The bundled checkpoint is exported and its evaluation set is reduced to 48 pairs first, which is not traced.

What is counted, from the events of `sys.setprofile`, in every thread:

- A module of the product is *entered* when one of its functions is called. What runs while a module is imported (its
  top level, class bodies, decorators) does not count, and neither does generated code, such as the `__init__` of a
  dataclass.
- A *return* is a call from a module into another module of a higher layer, by the tables of tests/layers.py (packages,
  and the rooms of validate): the chain of calls turns back up, as by a callback. The caller is the nearest function of
  the product on the stack. Returns are counted by distinct pairs of modules; how often each was called stands beside.
"""

from __future__ import annotations

import inspect
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from unittest import mock

from . import layers

CHECKPOINT = layers.ROOT / "examples" / "emoji" / "checkpoint"
EVAL = layers.ROOT / "examples" / "emoji" / "eval"
THIS = "tests.trace_modules"
WORKER = "siglip_onnx.validate.matrix"
TRACES = "SIGLIP_ONNX_TRACES"  # set in a worker process: the folder for its trace
PAIRS = 48
MODULE_LIMITS = {"validate": 25, "cell": 22}
MAX_RETURNS = 8

Rank = Callable[[str], tuple[int, int]]


def layer_of(module: str) -> tuple[int, int]:
    """The layer of a module by the tables of tests/layers.py."""
    ranks = layers.layer_rank()
    return ranks.get(layers.room(module)) or ranks[module.split(".")[0]]


@dataclass
class ModuleTrace:
    """The modules entered while it is active.

    Attributes:
        modules: File to module name, of the modules that count.
        rank: The layer of a module; higher is nearer to the command line.
        entered: Each module once, in the order of first entry, with the module that called it.
        returns: Calls from a lower layer into a higher one: (caller, callee) and how often.
    """

    modules: Mapping[str, str]
    rank: Rank = layer_of
    entered: dict[str, str] = field(default_factory=dict)
    returns: Counter[tuple[str, str]] = field(default_factory=Counter)

    def __enter__(self) -> ModuleTrace:
        threading.setprofile(self._event)
        sys.setprofile(self._event)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def _event(self, frame: FrameType, event: str, argument: Any) -> None:
        if event != "call" or (module := self._function(frame)) is None:
            return
        caller = self._caller(frame)
        if caller is None:  # called while a module is imported
            return
        self.entered.setdefault(module, caller)
        if caller not in (module, "") and self.rank(module) > self.rank(caller):
            self.returns[caller, module] += 1

    def _function(self, frame: FrameType) -> str | None:
        """The product's module of a function's frame; None for other files, module code and class bodies."""
        if not frame.f_code.co_flags & inspect.CO_OPTIMIZED:
            return None
        return self.modules.get(frame.f_code.co_filename)

    def _caller(self, frame: FrameType) -> str | None:
        """The nearest module of the product on the stack, "" if there is none; None if it is being imported."""
        above = frame.f_back
        while above is not None:
            if above.f_code.co_filename in self.modules:
                return self._function(above)
            above = above.f_back
        return ""


def product_files() -> dict[str, str]:
    """File to module name, of every module of the product."""
    return {str(path): name for name, path in layers.product_modules().items()}


def describe(trace: ModuleTrace, title: str, limit: int) -> str:
    """The lists that the command prints."""
    packages = Counter(name.split(".")[0] for name in trace.entered)
    shares = ", ".join(f"{count} of {name}" for name, count in packages.most_common())
    lines = [f"{title}: {len(trace.entered)} modules entered ({shares}), limit {limit}"]
    lines += [
        f"{place:>4}  {name:<44} from {caller or '-'}" for place, (name, caller) in enumerate(trace.entered.items(), 1)
    ]
    lines.append(f"{len(trace.returns)} returns into a higher layer, limit {MAX_RETURNS}")
    lines += [f"      {caller} -> {module}, {count} calls" for (caller, module), count in trace.returns.most_common()]
    return "\n".join(lines)


def trace_validate(folder: Path, options: list[str]) -> None:
    """Run `siglip-onnx validate` in this process and print what it enters."""
    with ModuleTrace(product_files()) as trace:
        _run_command(folder, options)
    print(describe(trace, "validate", MODULE_LIMITS["validate"]))


def trace_cell(folder: Path, options: list[str]) -> None:
    """Run a matrix whose worker processes trace themselves, and print what each cell enters."""
    start, lists = subprocess.Popen, folder / "traces"
    lists.mkdir()

    def start_traced(command: list[str], *arguments: Any, **keywords: Any) -> Any:
        words = [THIS if str(word) == WORKER else str(word) for word in command]
        if WORKER in map(str, command):
            keywords["env"] = {**(keywords.get("env") or os.environ), TRACES: str(lists)}
            keywords["cwd"] = str(layers.ROOT)
        return start(words, *arguments, **keywords)

    with mock.patch.object(subprocess, "Popen", start_traced):
        _run_command(folder, ["--provider", "cpu,openvino", *options])
    for path in sorted(lists.iterdir()):
        print(path.read_text())


def trace_worker(arguments: list[str]) -> int:
    """Run a worker of the matrix and write its trace into a file; the reference's worker is not traced."""
    from siglip_onnx.validate.matrix import worker

    with ModuleTrace(product_files()) as trace:
        code = worker.main(arguments)
    name = Path(arguments[-1]).name
    if name != "reference":
        path = Path(os.environ[TRACES]) / f"{name}.txt"
        path.write_text(describe(trace, f"cell {name}", MODULE_LIMITS["cell"]))
    return code


def _run_command(folder: Path, options: list[str]) -> None:
    from siglip_onnx.cli import main

    data = ["--reference", str(CHECKPOINT), "--data", str(folder / "pairs"), "--output-dir", str(folder / "out")]
    sys.argv = ["siglip-onnx", "validate", str(folder / "emoji"), *data, *options]
    try:
        main()
    except SystemExit as end:
        print(f"siglip-onnx validate ended with exit code {end.code}")


def _prepare(folder: Path) -> None:
    """An artifact of the bundled checkpoint and a few pairs of its evaluation set."""
    from siglip_onnx.exporter import export

    (folder / "pairs").mkdir()
    lines = (EVAL / "captions.jsonl").read_text().splitlines()[:PAIRS]
    for line in lines:
        shutil.copy(EVAL / json.loads(line)["image"], folder / "pairs")
    (folder / "pairs" / "captions.jsonl").write_text("\n".join(lines))
    export(CHECKPOINT, folder / "emoji", progress=lambda step: None)


def main(arguments: list[str]) -> int:
    if TRACES in os.environ:
        return trace_worker(arguments)
    command = {"validate": trace_validate, "cell": trace_cell}[arguments[0]]
    with tempfile.TemporaryDirectory() as folder:
        _prepare(Path(folder))
        command(Path(folder), arguments[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
