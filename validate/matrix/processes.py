"""Worker processes of a matrix, and the memory that they share."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

from ...runtime import privacy
from ...runtime.progress import Progress
from . import protocol
from .protocol import WorkerError, WorkerTask

_MODULE: Final = "siglip_onnx.validate.matrix"
_LAST_LINES: Final = 3  # of standard error in a message
_READ_SECONDS: Final = 5.0  # to read what a process printed before it ended
_MEMORY: Final = Path("/proc/meminfo")
_CGROUP: Final = Path("/sys/fs/cgroup")  # of the container, seen from inside


class Processes:
    """The worker processes of a matrix; `stop` ends all of them."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._lock, self._stopped = threading.Lock(), False

    def stop(self) -> None:
        """End every running process and start no other."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            _kill(process)

    def run(self, task: WorkerTask, folder: Path, timeout: float, progress: Progress) -> WorkerError | str | None:
        """Run a task in a process.

        Args:
            task: The task.
            folder: A new folder for the task and its result.
            timeout: Seconds after which the process is ended.
            progress: Receives the steps that the process prints.

        Returns:
            None if the task succeeded; else the error that it reported, or a sentence on how it ended.
        """
        folder.mkdir()
        (folder / protocol.TASK).write_bytes(protocol.encode(task))
        process = self._start(folder)
        reader = threading.Thread(target=_read_steps, args=(process, progress), daemon=True)
        reader.start()
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            return f"It did not end within {timeout:g} seconds and was stopped."
        finally:
            self._clean_up(process, reader)
        return _outcome(code, folder)

    def _start(self, folder: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", _MODULE, str(folder / protocol.TASK), str(folder)]
        with self._lock, (folder / "stderr").open("wb") as stderr:
            if self._stopped:
                raise KeyboardInterrupt
            process = subprocess.Popen(  # noqa: S603  this Python with our own files
                command,
                stdin=subprocess.PIPE,  # closes when this process ends, and ends the worker
                stdout=subprocess.PIPE,
                stderr=stderr,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
                env={**os.environ, **privacy.choices(), "PYTHONIOENCODING": "utf-8"},
            )
            self._running.add(process)
        return process

    def _clean_up(self, process: subprocess.Popen[str], reader: threading.Thread) -> None:
        _kill(process)  # with its children: a pipe that one of them holds would never close
        reader.join(_READ_SECONDS)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        with self._lock:
            self._running.discard(process)


def _read_steps(process: subprocess.Popen[str], progress: Progress) -> None:
    with contextlib.suppress(ValueError, OSError):  # the pipe was closed
        for line in process.stdout or ():
            progress(line.strip())


def _kill(process: subprocess.Popen[str]) -> None:
    """End a process and its children; ignore those that have ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _outcome(code: int, folder: Path) -> WorkerError | str | None:
    if (folder / protocol.ERROR).exists():
        return msgspec.json.decode((folder / protocol.ERROR).read_bytes(), type=WorkerError)
    if code == 0 and ((folder / protocol.REPORT).exists() or (folder / protocol.REFERENCE).exists()):
        return None
    end = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    last_lines = (folder / "stderr").read_text("utf-8", "replace").strip().splitlines()[-_LAST_LINES:]
    return f"Its process ended with {end}. {' / '.join(last_lines)}".strip()


class MemoryRoom:
    """The memory that was free at the start, shared by cells that run at the same time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken, self._limit = 0, _available_memory()

    @contextlib.contextmanager
    def take(self, size: int) -> Iterator[None]:
        """Wait until `size` bytes are free and hold them; one holder alone never waits."""
        with self._changed:
            self._changed.wait_for(lambda: self._taken == 0 or self._taken + size <= self._limit)
            self._taken += size
        try:
            yield
        finally:
            with self._changed:
                self._taken -= size
                self._changed.notify_all()


def _available_memory() -> int:
    """Free memory in bytes; 0 where the system does not report it, so that cells run one by one."""
    try:
        lines = dict(line.split(":") for line in _MEMORY.read_text().splitlines())
        available = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 0
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit
        limit, used = ((_CGROUP / name).read_text() for name in ("memory.max", "memory.current"))
        available = min(available, int(limit) - int(used))
    return available
