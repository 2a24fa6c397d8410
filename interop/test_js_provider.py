"""The providers `node` and `web`: our own runtime with ONNX Runtime for JavaScript behind it, from a user's packages.

What these builds of ONNX Runtime compute is proved in test_onnxruntime_js.py; here, that our runtime gives it, whole and
to whom it belongs, and that a process that dies or hangs is an error.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import pytest

from siglip_onnx.runtime import Artifact, SessionOptions, Siglip, js_engine
from siglip_onnx.runtime.contract import Precision, Provider, Role
from siglip_onnx.runtime.engine import Source, load
from siglip_onnx.runtime.errors import ProviderError
from siglip_onnx.runtime.js_engine import CHROMIUM, PACKAGES, JsEngine

from . import environments, limits
from .answers import apart, difference
from .consumers import Samples

JAVASCRIPT: Final = (Provider.NODE, Provider.WEB)
PRECISIONS: Final = (Precision.FP32, Precision.INT8)


@pytest.fixture(scope="module", autouse=True)
def packages() -> Iterator[Path]:
    """The user's folder with node_modules, and browser."""
    folder = environments.folder("node")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PACKAGES, str(folder))
        patch.setenv(CHROMIUM, str(environments.browser()))
        yield folder


@pytest.fixture(params=JAVASCRIPT)
def engine(request: pytest.FixtureRequest) -> Iterator[JsEngine]:
    """A graph that repeats its input, loaded."""
    loaded = load(Source(identity_graph()), SessionOptions(request.param))
    assert isinstance(loaded, JsEngine)
    yield loaded
    loaded.close()


def identity_graph() -> bytes:
    """x -> y, float32 [rows, ?]."""
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", None]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "same", [x], [y])
    opset = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


def family(pid: int) -> set[int]:
    """A process with all below it, such as its browser; none that has ended."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
    alive = {int(row[0]): int(row[1]) for row in map(str.split, listed.splitlines()) if not row[2].startswith("Z")}
    found = {pid} & alive.keys()
    while more := {child for child, parent in alive.items() if parent in found} - found:
        found |= more
    return found


def ended(processes: set[int]) -> bool:
    """Whether none of them is left within ten seconds."""
    end = time.monotonic() + 10
    while (left := any(family(pid) for pid in processes)) and time.monotonic() < end:
        time.sleep(0.1)
    return not left


@pytest.mark.parametrize("provider", JAVASCRIPT)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_embeddings_and_logits_are_those_of_the_cpu(
    artifact: Artifact, samples: Samples, provider: Provider, precision: Precision
) -> None:
    ours = Siglip.load(artifact.folder, precision)
    rows = {Role.VISION: samples.pixels, Role.TEXT: samples.ids}
    feeds = {"pixel_values": samples.pixels[:3], "input_ids": samples.ids[:2]}
    with Siglip.load(artifact.folder, precision, provider) as theirs:
        for role in ours.contract.towers:
            for count in (1, 3):
                some = rows[role][:count]
                assert apart(theirs.encode(role, some), ours.encode(role, some)) <= limits.EMBEDDINGS[precision]
        found, expected = (model.session(Role.JOINT).run(feeds) for model in (theirs, ours))
    assert list(found) == list(expected)
    for name, values in expected.items():
        assert found[name].shape == values.shape
        assert found[name].dtype == values.dtype
        assert difference(found[name], values) <= 100 * limits.EMBEDDINGS[precision], name


def test_bits_come_through_as_they_are(engine: JsEngine) -> None:
    x = np.array([[np.nan, np.inf, -np.inf, -0.0], [1e-45, 3.4e38, 0.1, 1]], np.float32)
    assert engine.inputs[0].shape == ("rows", "?")
    for given in (x, x[:, ::2], x[:1]):  # the second is not contiguous
        (found,) = engine.run(["y"], {"x": given})
        assert found.tobytes() == given.tobytes()
        found[:] = 0  # and they are the caller's own


def test_what_fails_is_an_error_and_the_next_is_answered(engine: JsEngine) -> None:
    with pytest.raises(ProviderError, match="failed to run a graph that was just made"):
        engine.run(["y"], {"x": np.zeros(3, np.float32)})
    assert engine.run(["y"], {"x": np.ones((1, 2), np.float32)})[0].tolist() == [[1, 1]]


def test_it_ends_when_nobody_holds_it(engine: JsEngine) -> None:
    other = load(Source(identity_graph()), SessionOptions(Provider.NODE))
    assert isinstance(other, JsEngine)
    forgotten, closed = family(other.process.pid), family(engine.process.pid)
    assert forgotten
    assert len(closed) > 1 or engine.process.script == "node.mjs"  # a browser is many processes
    del other
    gc.collect()
    assert ended(forgotten)
    engine.close()
    assert ended(closed)
    with pytest.raises(ProviderError, match="was ended before"):
        engine.run(["y"], {"x": np.ones((1, 2), np.float32)})


def test_a_killed_process_is_an_error(engine: JsEngine) -> None:
    processes = family(engine.process.pid)
    os.kill(engine.process.pid, signal.SIGKILL)
    with pytest.raises(ProviderError, match=r"\.mjs was ended by SIGKILL"):
        engine.run(["y"], {"x": np.ones((1, 2), np.float32)})
    assert ended(processes)


def test_a_killed_browser_is_an_error() -> None:
    engine = load(Source(identity_graph()), SessionOptions(Provider.WEB))
    assert isinstance(engine, JsEngine)
    for pid in family(engine.process.pid) - {engine.process.pid}:
        with contextlib.suppress(ProcessLookupError):  # it went with another
            os.kill(pid, signal.SIGKILL)
    with pytest.raises(ProviderError, match="closed"):
        engine.run(["y"], {"x": np.ones((1, 2), np.float32)})


def test_a_process_that_hangs_is_ended(engine: JsEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(js_engine, "RUNNING", 1.0)
    processes = family(engine.process.pid)
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    with pytest.raises(ProviderError, match="gave no answer within 1 s"):
        engine.run(["y"], {"x": np.ones((1000, 1000), np.float32)})  # more than a pipe holds
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    assert ended(processes)


@pytest.mark.parametrize("provider", JAVASCRIPT)
def test_it_does_not_outlive_python(artifact: Artifact, provider: Provider) -> None:
    script = """
import sys
from siglip_onnx.runtime import Siglip
engine = Siglip.load(sys.argv[1], provider=sys.argv[2]).session("text").engine
print(engine.process.pid, flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", script, str(artifact.folder), provider]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as python:
        assert python.stdout is not None
        processes = family(int(python.stdout.readline()))
        assert processes
        python.kill()
    assert ended(processes)


def test_what_its_program_says_as_it_dies_is_told(tmp_path: Path, packages: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = Path(shutil.copytree(packages / "node_modules" / "onnxruntime-node", tmp_path / "node_modules" / "onnxruntime-node"))
    monkeypatch.setenv(PACKAGES, str(tmp_path))
