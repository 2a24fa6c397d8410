"""Writes a folder that reproduces a fault: the nodes, their inputs, the expected outputs, and a short script."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np

from ...runtime.artifact.contract import Provider
from ...runtime.engines.options import OPENVINO_PRECISIONS
from ...runtime.engines.providers import PROVIDERS
from .probe import ProbedTower
from .root_cause import FaultScene

FOLDER: Final = "replay"
GRAPH: Final = "culprit.onnx"
INPUTS: Final = "inputs.npz"
EXPECTED: Final = "expected.npz"
SCRIPT: Final = "replay.py"
_LARGEST: Final = 1 << 30  # bytes; half of protobuf's limit
_SECONDS: Final = 300
_REPORT: Final = "relative error"  # the first words that the script prints

_SCRIPT: Final = '''"""Run the faulty nodes alone and print their error; exit code 1 if it exceeds the limit.

{nodes}
"""

import os
import pathlib
import sys

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
sys.modules.setdefault("openvino_telemetry", None)  # stops OpenVINO from sending an event on import
import {module}

folder = pathlib.Path(__file__).parent
inputs, expected = (dict(np.load(folder / name)) for name in ("{inputs}", "{expected}"))
{run}
errors = [
    np.abs(output - correct).max() / (np.abs(correct).max() or 1.0) if output.shape == correct.shape else np.inf
    for output, correct in zip(actual, expected.values())
]
error = np.max(errors)
print(f"{report} {{error:.3g}}, limit {limit:.3g}")
sys.exit(0 if error <= {limit!r} else 1)  # NaN fails
'''
_ORT: Final = """session = onnxruntime.InferenceSession(folder / "{graph}", providers=["{device}"])
actual = session.run(list(expected), inputs)"""
_OPENVINO: Final = """model = openvino.Core().compile_model(
    folder / "{graph}", "{device}", {{"INFERENCE_PRECISION_HINT": "{openvino_precision}"}}
)
outputs = model(inputs)
actual = [outputs[name] for name in expected]"""


def write_replay(folder: Path, scene: FaultScene, limit: float) -> str:
    """Write the replay folder and run its script.

    Args:
        folder: Where to create the folder `replay`.
        scene: The fault to reproduce.
        limit: Largest relative error allowed for the nodes.

    Returns:
        Why there is no script, or why the script does not reproduce the fault; empty if it does.
    """
    part = scene.candidate_part
    if part.model.ByteSize() > _LARGEST:
        return f"No replay was written: the weights of these nodes take {part.model.ByteSize():,} bytes."
    replay = folder / FOLDER
    replay.mkdir()
    (replay / GRAPH).write_bytes(part.model.SerializeToString())
    _save(replay / INPUTS, scene.inputs)
    _save(replay / EXPECTED, {part.output_names[name]: array for name, array in scene.expected.items()})
    (replay / SCRIPT).write_text(_script(scene, limit), "utf-8")
    return _problem(replay / SCRIPT)


def _save(path: Path, arrays: dict[str, Any]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


def _script(scene: FaultScene, limit: float) -> str:
    tower = scene.probe.candidate
    module, run = _run_code(tower)
    nodes = "\n".join(tower.graph.node_names(scene.segment.candidate))
    return _SCRIPT.format(
        nodes=nodes, module=module, inputs=INPUTS, expected=EXPECTED, run=run, report=_REPORT, limit=limit
    )


def _run_code(tower: ProbedTower) -> tuple[str, str]:
    """The module that runs the graph, and the code that calls it."""
    provider = tower.options.provider
    if provider in (Provider.OPENVINO, Provider.OPENVINO_ORT):
        precision = str(tower.options.openvino_precision or OPENVINO_PRECISIONS[tower.precision])
        device = PROVIDERS[Provider.OPENVINO].name
        return "openvino", _OPENVINO.format(graph=GRAPH, device=device, openvino_precision=precision)
    device = PROVIDERS[Provider.CPU if PROVIDERS[provider].npm else provider].name
    return "onnxruntime", _ORT.format(graph=GRAPH, device=device)


def _problem(script: Path) -> str:
    """Why a script does not reproduce the fault; empty if it does."""
    try:
        done = subprocess.run(  # noqa: S603  the script was just written
            [sys.executable, "-W", "ignore", str(script)], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"The replay script did not finish within {_SECONDS} seconds."
    if done.returncode == 1 and done.stdout.startswith(_REPORT):
        return ""
    if done.returncode == 0:
        return "Alone the nodes are right: the fault appears only in the whole graph, or only on its provider."
    last = done.stderr.strip().splitlines()[-1:]
    return f"The replay script cannot run these nodes alone: {last[0] if last else done.returncode}"
