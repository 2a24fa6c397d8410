"""The providers `node` and `web`: our runtime on ONNX Runtime for JavaScript, from a user's packages.

test_onnxruntime_js.py proves the outputs of these builds of ONNX Runtime. These tests prove that our runtime returns
the same outputs, and that a process that dies or hangs is an error.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import pytest

from siglip_onnx.runtime import Artifact, SessionOptions, Siglip
from siglip_onnx.runtime.artifact.contract import Precision, Provider, Role
from siglip_onnx.runtime.engines.base import GraphSource
from siglip_onnx.runtime.engines.javascript import engine as js_engine
from siglip_onnx.runtime.engines.javascript.engine import CHROMIUM, PACKAGES, JsEngine
from siglip_onnx.runtime.engines.loader import load
from siglip_onnx.runtime.engines.preflight import check_provider
from siglip_onnx.runtime.errors import ProviderError

from . import environments, limits
from .consumers import ConsumerSamples
from .outputs import difference, embedding_difference

JAVASCRIPT: Final = (Provider.NODE, Provider.WEB)
PRECISIONS: Final = (Precision.FP32, Precision.INT8)


@pytest.fixture(scope="module", autouse=True)
def packages() -> Iterator[Path]:
    """A user's folder with node_modules, and a browser."""
    folder = environments.folder("node")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(PACKAGES, str(folder))
        patch.setenv(CHROMIUM, str(environments.browser()))
        yield folder


@pytest.fixture(params=JAVASCRIPT)
def engine(request: pytest.FixtureRequest) -> Iterator[JsEngine]:
    """A loaded graph that returns its input."""
    loaded = load(GraphSource(identity_graph()), SessionOptions(request.param))
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
    """A running process and its descendants, such as its browser."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
    alive = {int(row[0]): int(row[1]) for row in map(str.split, listed.splitlines()) if not row[2].startswith("Z")}
    running = {pid} & alive.keys()
    while more := {child for child, parent in alive.items() if parent in running} - running:
        running |= more
    return running


def ended(processes: set[int]) -> bool:
    """Whether all processes end within ten seconds."""
    end = time.monotonic() + 10
    while (left := any(family(pid) for pid in processes)) and time.monotonic() < end:
        time.sleep(0.1)
    return not left


@pytest.mark.parametrize("provider", JAVASCRIPT)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_embeddings_and_logits_match_the_cpu(
    artifact: Artifact, samples: ConsumerSamples, provider: Provider, precision: Precision
) -> None:
    ours = Siglip.load(artifact.folder, precision)
    rows = {Role.VISION: samples.pixels, Role.TEXT: samples.ids}
    feeds = {"pixel_values": samples.pixels[:3], "input_ids": samples.ids[:2]}
    with Siglip.load(artifact.folder, precision, provider) as theirs:
        for role in ours.contract.towers:
            for count in (1, 3):
                inputs = rows[role][:count]
                error = embedding_difference(theirs.encode(role, inputs), ours.encode(role, inputs))
                assert error <= limits.EMBEDDINGS[precision]
        actual, expected = (model.session(Role.JOINT).run(feeds) for model in (theirs, ours))
    assert list(actual) == list(expected)
    for name, values in expected.items():
        assert actual[name].shape == values.shape
        assert actual[name].dtype == values.dtype
        assert difference(actual[name], values) <= 100 * limits.EMBEDDINGS[precision], name


def test_values_are_returned_bit_by_bit(engine: JsEngine) -> None:
    x = np.array([[np.nan, np.inf, -np.inf, -0.0], [1e-45, 3.4e38, 0.1, 1]], np.float32)
    assert engine.inputs[0].shape == ("rows", "?")
    for array in (x, x[:, ::2], x[:1]):  # the second is not contiguous
        (output,) = engine.run(["y"], {"x": array})
        assert output.tobytes() == array.tobytes()
        output[:] = 0  # outputs are writable


def test_a_failed_run_is_an_error_and_the_next_run_works(engine: JsEngine) -> None:
    with pytest.raises(ProviderError, match="failed to run a graph in memory"):
        engine.run(["y"], {"x": np.zeros(3, np.float32)})
    assert engine.run(["y"], {"x": np.ones((1, 2), np.float32)})[0].tolist() == [[1, 1]]


def test_process_ends_with_its_engine(engine: JsEngine) -> None:
    other = load(GraphSource(identity_graph()), SessionOptions(Provider.NODE))
    assert isinstance(other, JsEngine)
    forgotten, closed = family(other.process.pid), family(engine.process.pid)
    assert forgotten
    assert len(closed) > 1 or engine.process.script == "node.mjs"  # a browser has many processes
    del other
    gc.collect()
    assert ended(forgotten)
    engine.close()
    assert ended(closed)
    with pytest.raises(ProviderError, match="has already ended"):
        engine.run(["y"], {"x": np.ones((1, 2), np.float32)})


def test_a_killed_process_is_an_error(engine: JsEngine) -> None:
    processes = family(engine.process.pid)
    os.kill(engine.process.pid, signal.SIGKILL)
    with pytest.raises(ProviderError, match=r"\.mjs was killed by signal 9"):
        engine.run(["y"], {"x": np.ones((1, 2), np.float32)})
    assert ended(processes)
    assert not engine.process.scratch.exists()


def test_a_killed_browser_is_an_error() -> None:
    engine = load(GraphSource(identity_graph()), SessionOptions(Provider.WEB))
    assert isinstance(engine, JsEngine)
    for pid in family(engine.process.pid) - {engine.process.pid}:
        with contextlib.suppress(ProcessLookupError):  # it ended with another one
            os.kill(pid, signal.SIGKILL)
    with pytest.raises(ProviderError, match="closed"):
        engine.run(["y"], {"x": np.ones((1, 2), np.float32)})


def test_a_hanging_process_is_killed(engine: JsEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(js_engine, "RUNNING", 1.0)
    processes = family(engine.process.pid)
    os.kill(engine.process.pid, signal.SIGSTOP)
    with pytest.raises(ProviderError, match="did not reply within 1 s"):
        engine.run(["y"], {"x": np.ones((1000, 1000), np.float32)})  # more than a pipe holds
    assert ended(processes)
    assert not engine.process.scratch.exists()


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A temporary folder with a path short enough for a browser's sockets."""
    with tempfile.TemporaryDirectory(prefix="js-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("provider", JAVASCRIPT)
def test_process_and_files_do_not_outlive_python(artifact: Artifact, provider: Provider, temporary: Path) -> None:
    script = """
import sys
from siglip_onnx.runtime import Siglip
engine = Siglip.load(sys.argv[1], provider=sys.argv[2]).session("text").engine
print(engine.process.pid, flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", script, str(artifact.folder), provider]
    environment = os.environ | {"TMPDIR": str(temporary)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as python:
        assert python.stdout is not None
        processes = family(int(python.stdout.readline()))
        assert processes
        assert list(temporary.glob("siglip-onnx-*"))
        python.kill()
    assert ended(processes)
    assert not list(temporary.glob("siglip-onnx-*"))


def test_error_output_of_a_dying_process_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_OPTIONS", "--no-such-option")
    problem = check_provider(Provider.NODE)
    assert problem is not None
    assert "node.mjs ended with exit code 9: " in problem.cause
    assert "--no-such-option is not allowed in NODE_OPTIONS" in problem.cause


def test_a_forked_process_neither_uses_nor_ends_the_engine(engine: JsEngine) -> None:
    script = """
import os, sys
import numpy as np
from siglip_onnx.runtime import SessionOptions
from siglip_onnx.runtime.artifact.contract import Provider
from siglip_onnx.runtime.engines.base import GraphSource
from siglip_onnx.runtime.engines.loader import load
from siglip_onnx.runtime.errors import ProviderError
engine = load(GraphSource(bytes.fromhex(sys.argv[2])), SessionOptions(Provider(sys.argv[1])))
x = np.ones((1, 2), np.float32)
if os.fork() == 0:
    try:
        engine.run(["y"], {"x": x})
    except ProviderError as error:
        print(error, flush=True)
    sys.exit()
os.wait()
print(engine.run(["y"], {"x": x})[0].tolist())
"""
    provider = Provider(engine.process.script.removesuffix(".mjs"))
    command = [sys.executable, "-c", script, provider, identity_graph().hex()]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    refused, answered = done.stdout.splitlines()
    assert "was started before this process was forked" in refused
    assert answered == "[[1.0, 1.0]]"


def test_a_graph_that_cannot_be_loaded_is_an_error() -> None:
    unknown = onnx.load_from_string(identity_graph())
    unknown.graph.node[0].op_type = "NoSuchOperator"
    for provider in JAVASCRIPT:
        with pytest.raises(ProviderError, match=rf"\({provider}\) failed to load .*NoSuchOperator"):
            load(GraphSource(unknown.SerializeToString()), SessionOptions(provider))


@pytest.mark.parametrize("provider", JAVASCRIPT)
def test_provider_check_passes(provider: Provider) -> None:
    assert check_provider(provider) is None


def test_missing_package_or_browser_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packages: Path
) -> None:
    (tmp_path / "node_modules").mkdir()
    (tmp_path / "node_modules" / "onnxruntime-web").symlink_to(packages / "node_modules" / "onnxruntime-web")
    monkeypatch.setenv(PACKAGES, str(tmp_path))
    problem = check_provider(Provider.WEB)
    assert problem is not None
    assert "has no node_modules/playwright-core" in problem.cause
    assert "npm install --prefix" in problem.fix
    monkeypatch.setenv(PACKAGES, str(packages))
    monkeypatch.setenv(CHROMIUM, str(tmp_path / "no-browser"))
    problem = check_provider(Provider.WEB)
    assert problem is not None
    assert "no-browser, which is not a program" in problem.cause


def test_node_uses_the_same_onnxruntime_file_as_transformers_js(packages: Path) -> None:
    script = """
const { createRequire } = require("node:module");
const ours = createRequire(process.argv[1] + "/package.json");
const theirs = createRequire(ours.resolve("@huggingface/transformers"));
console.log(JSON.stringify([ours, theirs].map((require) => require.resolve("onnxruntime-node"))));
"""
    done = subprocess.run(["node", "-e", script, str(packages)], capture_output=True, text=True, check=True)
    ours, theirs = json.loads(done.stdout)
    assert ours == theirs
