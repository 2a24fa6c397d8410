"""A folder that shows a fault by itself: the nodes, what they are given, what is due, and a script of a few lines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

from ...runtime.artifact.contract import Provider
from ...runtime.engines.options import OPENVINO_PRECISIONS
from ...runtime.engines.providers import PROVIDERS
from .root_cause import Scene

FOLDER: Final = "replay"
GRAPH: Final = "culprit.onnx"
INPUTS: Final = "inputs.npz"
EXPECTED: Final = "expected.npz"
SCRIPT: Final = "replay.py"
_LARGEST: Final = 1 << 30  # bytes; a protobuf ends at twice that
_SECONDS: Final = 300

_SCRIPT: Final = '''"""Run nodes by themselves and say how far off they are; exit code 1 if that is too much.

{nodes}
"""

import os
import pathlib
import sys

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # OpenVINO would send an event when it is imported
import {module}

folder = pathlib.Path(__file__).parent
inputs, expected = (dict(np.load(folder / name)) for name in ("{inputs}", "{expected}"))
{run}
errors = [
    np.abs(ours - right).max() / (np.abs(right).max() or 1.0) if ours.shape == right.shape else np.inf
    for ours, right in zip(found, expected.values())
]
error = np.max(errors)
print(f"off by {{error:.3g}} of the largest element, where {limit:.3g} would do")
sys.exit(0 if error <= {limit!r} else 1)  # a NaN is not
'''
_ORT: Final = """session = onnxruntime.InferenceSession(folder / "{graph}", providers=["{name}"])
found = session.run(list(expected), inputs)"""
_OPENVINO: Final = """graph = openvino.Core().compile_model(
    folder / "{graph}", "{name}", {{"INFERENCE_PRECISION_HINT": "{hint}"}}
)
answers = graph(inputs)
found = [answers[name] for name in expected]"""


def write_replay(folder: Path, scene: Scene, limit: float) -> str:
    """Write the folder and run its script.

    Args:
        folder: Will have a folder `replay`.
        scene: What is shown.
        limit: How far off the nodes may be.

    Returns:
        Why there is nothing to show, or nothing to see; empty if the script fails as it should.
    """
    part = scene.ours
    if part.model.ByteSize() > _LARGEST:
        return f"There is no script, since the weights of these nodes take {part.model.ByteSize():,} bytes."
    replay = folder / FOLDER
    replay.mkdir()
    (replay / GRAPH).write_bytes(part.model.SerializeToString())
    _write(replay / INPUTS, scene.given)
    _write(replay / EXPECTED, {part.given[name]: array for name, array in scene.wanted.items()})
    (replay / SCRIPT).write_text(_script(scene, limit), "utf-8")
    return _problem(replay / SCRIPT)


def _write(path: Path, arrays: dict[str, Any]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _script(scene: Scene, limit: float) -> str:
    judged = scene.bench.judged
    provider = judged.options.provider
    nodes = "\n".join(judged.net.names(scene.segment.ours))
    if provider in (Provider.OPENVINO, Provider.OPENVINO_ORT):
        module, run = "openvino", _OPENVINO
        name, openvino_precision = (
            PROVIDERS[Provider.OPENVINO].name,
            str(judged.options.openvino_precision or OPENVINO_PRECISIONS[judged.precision]),
        )
    else:
        module, run, openvino_precision = "onnxruntime", _ORT, ""
        name = PROVIDERS[Provider.CPU if PROVIDERS[provider].npm else provider].name
    lines = run.format(graph=GRAPH, name=name, openvino_precision=openvino_precision)
    return _SCRIPT.format(nodes=nodes, module=module, inputs=INPUTS, expected=EXPECTED, run=lines, limit=limit)


def _problem(script: Path) -> str:
    """Why a script does not show the fault; empty if it does."""
    try:
        done = subprocess.run(  # noqa: S603  it was just written
            [sys.executable, "-W", "ignore", str(script)], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"The script did not end in {_SECONDS} seconds."
    if done.returncode == 1 and done.stdout.startswith("off by"):
        return ""
    if done.returncode == 0:
        return (
            "By themselves the nodes are right: the fault shows only within the whole graph, or only on its provider."
        )
    last = done.stderr.strip().splitlines()[-1:]
    return f"The script cannot run these nodes by themselves: {last[0] if last else done.returncode}"
