"""No network socket is opened, and nothing is written below HOME except the documented cache."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from siglip_onnx.runtime import privacy
from siglip_onnx.runtime.bulk import Cluster, ray_backend
from siglip_onnx.runtime.engines.javascript import process
from siglip_onnx.validate.matrix.processes import Processes

from ..conftest import CHECKPOINT, ROOT

KEPT = ("PATH", "LD_LIBRARY_PATH", "PYTHONPATH", "TMPDIR")
NAMES = [name for name, _ in privacy.OPT_OUTS]
# Blocks and prints every network access of Python code, here and in forks; callers often catch the errors.
WATCH = """
import os, socket, sys
def watch(event, arguments):
    opened = event == "socket.__new__" and arguments[1] != getattr(socket, "AF_UNIX", None)
    asked = event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
    if opened or asked:
        os.write(2, f"NETWORK {event} {arguments[1:]}\\n".encode())
        raise OSError("no network in this test")
sys.addaudithook(watch)
"""
COMMANDS = """
import json
from siglip_onnx.cli import main
for command in json.loads(sys.argv[1]):
    sys.argv = ["siglip-onnx", *command]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (command, end.code)
import huggingface_hub.constants
assert huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY
"""


def commands(artifact: Path, pairs: Path, limits: Path, out: Path, *more: str) -> list[list[str]]:
    """Classify, embed and validate."""
    image = next(pairs.glob("*.webp"))
    validate = [
        "validate",
        artifact,
        "--reference",
        CHECKPOINT,
        "--data",
        pairs,
        "--limits",
        limits,
        "--output-dir",
        out,
    ]
    found = [
        ["classify", artifact, image, "--label", "a cat", "--label", "a dog", "--provider", "openvino"],
        ["embed", artifact, pairs, "-o", out.with_suffix(".parquet")],
        [*validate, *more],
    ]
    return [list(map(str, command)) for command in found]


def at_home(home: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command with an empty HOME and without the user's variables."""
    home.mkdir(exist_ok=True)
    own = {name: os.environ[name] for name in KEPT if name in os.environ}
    return subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env={**own, "HOME": str(home)}, cwd=ROOT, check=False
    )


def left(home: Path) -> list[str]:
    """Files below HOME that are not in the cache."""
    below = [path.relative_to(home) for path in home.rglob("*") if path.is_file()]
    return [str(path) for path in below if path.parts[:2] != (".cache", "siglip-onnx")]


def test_watch_detects_a_socket(tmp_path: Path) -> None:
    ask = "try: socket.create_connection(('localhost', 9))\nexcept OSError: pass"
    assert "NETWORK socket.getaddrinfo" in at_home(tmp_path, sys.executable, "-c", WATCH + ask).stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the cache is elsewhere")
def test_python_code_does_not_use_the_network(artifact: Path, pairs: Path, lenient: Path, tmp_path: Path) -> None:
    asked = json.dumps(commands(artifact, pairs, lenient, tmp_path / "out"))
    done = at_home(tmp_path / "home", sys.executable, "-c", WATCH + COMMANDS, asked)
    assert done.returncode == 0, done.stderr
    assert "NETWORK" not in done.stderr
    assert left(tmp_path / "home") == []


@pytest.fixture
def strace() -> str:
    found = shutil.which("strace")
    if found is None:
        pytest.skip("NOT RUN: strace is missing (apt-get install strace), so no system call was watched")
    if subprocess.run([found, "-f", "--seccomp-bpf", "true"], capture_output=True, check=False).returncode:
        pytest.skip("NOT RUN: strace may not trace here, so no system call was watched")
    return found


@pytest.mark.gate
def test_libraries_do_not_use_the_network(
    artifact: Path, pairs: Path, lenient: Path, tmp_path: Path, strace: str
) -> None:
    """Native code is only visible to strace; several providers start a process each."""
    asked = commands(artifact, pairs, lenient, tmp_path / "out", "--provider", "cpu,openvino")
    for number, command in enumerate(asked):
        log = tmp_path / f"{number}.log"
        trace = [strace, "-f", "--seccomp-bpf", "-e", "trace=network", "-o", str(log)]
        done = at_home(tmp_path / "home", *trace, sys.executable, "-m", "siglip_onnx", *command)
        assert done.returncode == 0, done.stderr
        # Only glibc's lookup of the user for PyTorch, by nscd on this machine.
        assert set(re.findall(r"\bAF_\w+", calls := log.read_text())) <= {"AF_UNIX"}, calls
        assert set(re.findall(r'sun_path=@?"([^"]*)"', calls)) <= {"/var/run/nscd/socket"}, calls
    assert left(tmp_path / "home") == []


def test_variables_of_the_user_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    privacy.opt_out()
    assert [os.environ[name] for name in NAMES] == ["0", "0", "1"]


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Variables as a child process should get them: one is the user's, the others are ours."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "0")
    return {"ORT_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0", "HF_HUB_DISABLE_TELEMETRY": "0"}


class Started(Exception):  # noqa: N818  no error
    """Raised instead of starting a process, with its environment."""


def popen(*_: Any, env: dict[str, str], **__: Any) -> NoReturn:
    raise Started({name: env.get(name) for name in NAMES})


def test_node_gets_the_variables(chosen: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(Started) as started:
        process.NodeProcess("node.mjs", {})
    assert started.value.args == (chosen,)


def test_cells_get_the_variables(chosen: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(Started) as started:
        Processes()._start(tmp_path)
    assert started.value.args == (chosen,)


@pytest.mark.parametrize("submitted", [False, True])
def test_workers_of_ray_get_the_variables(
    chosen: dict[str, str], monkeypatch: pytest.MonkeyPatch, *, submitted: bool
) -> None:
    if submitted:  # by `ray job submit`, whose own variables Ray wants to be the only ones
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    asked: dict[str, Any] = {}
    ray = SimpleNamespace(is_initialized=lambda: False, init=asked.update)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", SimpleNamespace())
    ray_backend._ray(Cluster())
    assert asked["runtime_env"] == ({} if submitted else {"env_vars": chosen})
    assert {name: os.environ[name] for name in NAMES} == chosen  # Ray's own processes on this machine inherit these


def test_openvino_is_imported_without_its_telemetry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "openvino_telemetry", loaded := SimpleNamespace())
    with privacy.openvino_unreported(), pytest.raises(ImportError):
        importlib.import_module("openvino_telemetry")
    assert sys.modules["openvino_telemetry"] is loaded  # type: ignore[comparison-overlap]


@pytest.mark.skipif(sys.platform == "win32", reason="the answer is elsewhere")
def test_openvino_telemetry_is_kept_after_opting_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "intel").mkdir()
    (tmp_path / "intel" / "openvino_telemetry").write_text("1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "openvino_telemetry", loaded := SimpleNamespace())
    with privacy.openvino_unreported():
        assert sys.modules["openvino_telemetry"] is loaded  # type: ignore[comparison-overlap]


def test_docs_list_every_variable() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text()
    assert [name for name in NAMES if f"`{name}={dict(privacy.OPT_OUTS)[name]}`" not in page] == []
