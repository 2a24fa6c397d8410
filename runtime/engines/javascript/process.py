"""A Node program in a separate process that answers frames until this process closes it or ends.

A frame has three parts: the sizes in bytes of header and body, two little-endian uint64; the header, as JSON; and the
body, the tensors that the header lists (name, dtype, shape), one after the other, little-endian. scripts/frames.mjs is
the counterpart in JavaScript. The program ends at the end of its standard input, so it never outlives this process.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import struct
import subprocess
import tempfile
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import numpy as np

from ... import privacy
from ...arrays import AnyArray
from ...errors import ProviderError

SCRIPTS: Final = Path(__file__).parent / "scripts"
_SIZES: Final = struct.Struct("<QQ")
_GRACE: Final = 10.0  # seconds for a program to end by itself; a browser takes less than one
_TRIES, _PAUSE = 40, 0.25  # attempts, and seconds between them, to delete a folder that a killed browser writes to
_LINES, _WIDTH = 6, 200  # of standard error, quoted in an error


@dataclass(frozen=True)
class Frame:
    """A message.

    Attributes:
        facts: Values that JSON can represent.
        tensors: Tensors by name.
    """

    facts: Mapping[str, Any]
    tensors: Mapping[str, AnyArray] = field(default_factory=dict)

    def parts(self) -> list[memoryview]:
        """The frame's bytes; contiguous tensors are not copied."""
        ordered = {name: _little(np.ascontiguousarray(array)) for name, array in self.tensors.items()}
        listed = [{"name": name, "dtype": a.dtype.name, "shape": list(a.shape)} for name, a in ordered.items()]
        header = json.dumps({**self.facts, "tensors": listed}).encode()
        sizes = _SIZES.pack(len(header), sum(array.nbytes for array in ordered.values()))
        return [memoryview(sizes + header), *(array.reshape(-1).view(np.uint8).data for array in ordered.values())]

    @classmethod
    def read(cls, stream: IO[bytes]) -> Frame:
        """The next frame of a stream.

        Raises:
            EOFError: The stream ends inside the frame.
        """
        header, body = _SIZES.unpack(_exactly(stream, _SIZES.size))
        facts = json.loads(_exactly(stream, header))
        rest, tensors = memoryview(_exactly(stream, body)), {}
        for tensor in facts.pop("tensors"):
            dtype, shape = np.dtype(tensor["dtype"]), tuple(tensor["shape"])
            size = math.prod(shape) * dtype.itemsize
            values = np.frombuffer(rest[:size], dtype.newbyteorder("<"))
            tensors[tensor["name"]] = values.astype(dtype).reshape(shape)  # a writable copy
            rest = rest[size:]
        return cls(facts, tensors)


def _little(array: AnyArray) -> AnyArray:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


class NodeProcess:
    """A running script. Threads may share it; it answers one request at a time.

    Args:
        script: Name of a file in `SCRIPTS`.
        job: The script's argument, as JSON, to which `scratch` is added.

    Attributes:
        script: As given.
        scratch: A temporary folder that is deleted with the process.

    Raises:
        ProviderError: Node is missing or cannot be started.
    """

    def __init__(self, script: str, job: Mapping[str, Any]) -> None:
        self.script, self._lock, self._timed_out = script, threading.Lock(), threading.Event()
        self._owner = os.getpid()
        self.scratch = Path(tempfile.mkdtemp(prefix="siglip-onnx-"))
        try:
            self._process = self._start({**job, "scratch": str(self.scratch)})
        except BaseException:
            shutil.rmtree(self.scratch, ignore_errors=True)
            raise
        self._finish = weakref.finalize(self, _end, self._process, self.scratch, self._owner)

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    def ask(self, request: Frame | None, seconds: float) -> Frame:
        """Send a request and wait for the reply.

        Args:
            request: The request; None for the reply that a script sends at its start.
            seconds: Time limit, after which the program is killed.

        Raises:
            ProviderError: The program ended or exceeded a time limit, now or earlier; or this process is a fork of the
                one that started it.
        """
        if self._owner != os.getpid():
            raise ProviderError(f"{self.script} was started before this process was forked.", "Load the model again.")
        with self._lock:
            if not self._finish.alive:
                raise ProviderError(f"{self.script} has already ended.", "Load the model again.")
            try:
                with self._limited(seconds):
                    return self._exchange(request)
            except (OSError, EOFError) as error:
                raise self._failure(seconds) from error
            except BaseException:  # interrupted: the pending reply would be taken for the reply to the next request
                self._kill()
                raise

    def close(self) -> None:
        """End the program and delete its temporary folder."""
        self._finish()

    def _start(self, job: Mapping[str, Any]) -> subprocess.Popen[bytes]:
        node = shutil.which("node")
        if node is None:
            raise ProviderError("There is no `node` on the PATH.", "Install Node.js 20 or later.")
        try:
            with (self.scratch / "stderr.txt").open("wb") as errors:
                return subprocess.Popen(  # noqa: S603  one of our scripts
                    [node, str(SCRIPTS / self.script), json.dumps(job)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=os.environ | privacy.choices(),  # onnxruntime-node is ONNX Runtime's native code
                )
        except OSError as error:
            raise ProviderError(f"{node} cannot be started ({error.strerror}).", "Reinstall Node.js.") from error

    def _exchange(self, request: Frame | None) -> Frame:
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101, PT018  see Popen
        for part in request.parts() if request else ():
            self._process.stdin.write(part)
        self._process.stdin.flush()
        return Frame.read(self._process.stdout)

    @contextlib.contextmanager
    def _limited(self, seconds: float) -> Iterator[None]:
        """Kill the program if the block takes longer; reads and writes in the block then fail."""

        def kill() -> None:
            self._timed_out.set()
            self._process.kill()

        timer = threading.Timer(seconds, kill)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _failure(self, seconds: float) -> ProviderError:
        """The reason why there is no reply."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE)
        reason, output = _reason(self._process.returncode), _first_lines(self.scratch / "stderr.txt")
        self._kill()
        if self._timed_out.is_set():
            reason = f"did not reply within {seconds:g} s and was killed"
        return ProviderError(
            f"{self.script} {reason}{': ' + output if output else '.'}",
            "If memory is short, use smaller batches; `siglip-onnx doctor` shows whether the provider works here.",
        )

    def _kill(self) -> None:
        self._process.kill()
        self._finish()


def _end(process: subprocess.Popen[bytes], scratch: Path, owner: int) -> None:
    """End a program and delete its temporary folder, unless this is a fork of the process that started it."""
    if os.getpid() != owner:
        return
    assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018  see Popen
    with contextlib.suppress(OSError):  # the program ended before it read the last request
        process.stdin.close()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
    _remove(scratch, 1 if process.returncode == 0 else _TRIES)


def _remove(folder: Path, tries: int) -> None:
    """Delete a folder; a browser whose parent was killed goes on writing into it for a moment."""
    for left in reversed(range(tries)):
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(_PAUSE if left else 0)
        if not folder.exists():
            return


def _reason(code: int | None) -> str:
    if code is None:
        return "closed its output"
    if code < 0:
        return f"was killed by signal {-code}"
    return f"ended with exit code {code}"


def _first_lines(path: Path) -> str:
    """The first lines of a file, joined to one."""
    with contextlib.suppress(OSError):
        lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
        return " | ".join(line[:_WIDTH] for line in lines[:_LINES])
    return ""
