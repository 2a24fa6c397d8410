"""A Node program in a process of its own, which answers frames until this process lets go of it or dies.

A frame is the sizes in bytes of its header and its body, as two little-endian uint64; the header as JSON; and as the
body the tensors that the header lists (name, dtype, shape), one after the other, little-endian. The other side is
scripts/frames.mjs. Standard input that ends tells the program to end, so it survives no death of this process.
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
from ...errors import ProviderError
from ..base import Array

SCRIPTS: Final = Path(__file__).parent / "scripts"
_SIZES: Final = struct.Struct("<QQ")
_GRACE: Final = 10.0  # seconds that a program has to end by itself; a browser takes less than one
_TRIES, _PAUSE = 40, 0.25  # to remove what a killed browser still writes to
_LINES, _WIDTH = 6, 200  # of standard error, in a message


@dataclass(frozen=True)
class Frame:
    """A message: facts that JSON can say, and tensors by their names."""

    facts: Mapping[str, Any]
    tensors: Mapping[str, Array] = field(default_factory=dict)

    def parts(self) -> list[memoryview]:
        """Its bytes, without a copy of tensors that are contiguous."""
        ordered = {name: _little(np.ascontiguousarray(array)) for name, array in self.tensors.items()}
        listed = [{"name": name, "dtype": a.dtype.name, "shape": list(a.shape)} for name, a in ordered.items()]
        header = json.dumps({**self.facts, "tensors": listed}).encode()
        sizes = _SIZES.pack(len(header), sum(array.nbytes for array in ordered.values()))
        return [memoryview(sizes + header), *(array.reshape(-1).view(np.uint8).data for array in ordered.values())]

    @classmethod
    def read(cls, stream: IO[bytes]) -> Frame:
        """The next frame of a stream.

        Raises:
            EOFError: The stream ends before the frame does.
        """
        header, body = _SIZES.unpack(_exactly(stream, _SIZES.size))
        facts = json.loads(_exactly(stream, header))
        rest, tensors = memoryview(_exactly(stream, body)), {}
        for tensor in facts.pop("tensors"):
            dtype, shape = np.dtype(tensor["dtype"]), tuple(tensor["shape"])
            size = math.prod(shape) * dtype.itemsize
            found = np.frombuffer(rest[:size], dtype.newbyteorder("<"))
            tensors[tensor["name"]] = found.astype(dtype).reshape(shape)  # a copy, which may be written to
            rest = rest[size:]
        return cls(facts, tensors)


def _little(array: Array) -> Array:
    return array.astype(array.dtype.newbyteorder("<"), copy=False)


def _exactly(stream: IO[bytes], size: int) -> bytes:
    found = stream.read(size)
    if len(found) < size:
        raise EOFError
    return found


class NodeProcess:
    """A running script. Threads may share it; they take turns.

    Args:
        script: The name of one in `SCRIPTS`.
        job: What it is told, as JSON; `scratch` is added, a folder that vanishes with the process.

    Attributes:
        script: As given.
        scratch: The folder.

    Raises:
        ProviderError: There is no Node, or it cannot be started.
    """

    def __init__(self, script: str, job: Mapping[str, Any]) -> None:
        self.script, self._turn, self._late = script, threading.Lock(), threading.Event()
        self._owner = os.getpid()
        self.scratch = Path(tempfile.mkdtemp(prefix="siglip-onnx-"))
        try:
            self._process = self._started({**job, "scratch": str(self.scratch)})
        except BaseException:
            shutil.rmtree(self.scratch, ignore_errors=True)
            raise
        self._finish = weakref.finalize(self, _end, self._process, self.scratch, self._owner)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def ask(self, question: Frame | None, seconds: float) -> Frame:
        """The next answer, to a question or, at the start, to none.

        Args:
            question: What is sent; None only waits.
            seconds: How long the answer may take, before the program is ended.

        Raises:
            ProviderError: The program died or took too long, now or earlier; or this process was forked from the one
                that started it.
        """
        if self._owner != os.getpid():
            raise ProviderError(f"{self.script} was started before this process was forked.", "Load the model again.")
        with self._turn:
            if not self._finish.alive:
                raise ProviderError(f"{self.script} was ended before.", "Load the model again.")
            try:
                with self._limited(seconds):
                    return self._exchanged(question)
            except (OSError, EOFError) as error:
                raise self._ended(seconds) from error
            except BaseException:  # interrupted: what is left in the pipe would be taken for the next answer
                self._kill()
                raise

    def close(self) -> None:
        """End the program."""
        self._finish()

    def _started(self, job: Mapping[str, Any]) -> subprocess.Popen[bytes]:
        node = shutil.which("node")
        if node is None:
            raise ProviderError("Node.js is missing: there is no `node` on the PATH.", "Install version 20 or later.")
        try:
            with (self.scratch / "stderr.txt").open("wb") as errors:
                return subprocess.Popen(  # noqa: S603  a script of ours
                    [node, str(SCRIPTS / self.script), json.dumps(job)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=os.environ | privacy.choices(),  # onnxruntime-node is ONNX Runtime's native code
                )
        except OSError as error:
            raise ProviderError(f"{node} cannot be started ({error.strerror}).", "Install Node.js anew.") from error

    def _exchanged(self, question: Frame | None) -> Frame:
        assert self._process.stdin is not None and self._process.stdout is not None  # noqa: S101, PT018  told to Popen
        for part in question.parts() if question else ():
            self._process.stdin.write(part)
        self._process.stdin.flush()
        return Frame.read(self._process.stdout)

    @contextlib.contextmanager
    def _limited(self, seconds: float) -> Iterator[None]:
        """End the program if the block takes longer, which then sees its streams end."""

        def late() -> None:
            self._late.set()
            self._process.kill()

        timer = threading.Timer(seconds, late)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _ended(self, seconds: float) -> ProviderError:
        """Why there will be no answer."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_GRACE)
        how, said = _how(self._process.returncode), _first_lines(self.scratch / "stderr.txt")
        self._kill()
        if self._late.is_set():
            how = f"gave no answer within {seconds:g} s and was ended"
        return ProviderError(
            f"{self.script} {how}{': ' + said if said else '.'}",
            "If memory is short, use smaller batches; `siglip-onnx doctor` tells whether the provider works here.",
        )

    def _kill(self) -> None:
        self._process.kill()
        self._finish()


def _end(process: subprocess.Popen[bytes], scratch: Path, owner: int) -> None:
    """End a program and remove what it left. A forked process must not end its parent's."""
    if os.getpid() != owner:
        return
    assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018  told to Popen
    with contextlib.suppress(OSError):  # it died with a question unread
        process.stdin.close()
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
    _remove(scratch, 1 if process.returncode == 0 else _TRIES)


def _remove(folder: Path, tries: int) -> None:
    """A browser whose program was killed goes on writing for a moment, also where something was removed."""
    for left in reversed(range(tries)):
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(_PAUSE if left else 0)
        if not folder.exists():
            return


def _how(code: int | None) -> str:
    if code is None:
        return "closed its output"
    if code < 0:
        return f"was ended by signal {-code}"
    return f"ended with exit code {code}"


def _first_lines(path: Path) -> str:
    """The first lines that a program wrote to standard error, as one."""
    with contextlib.suppress(OSError):
        lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
        return " | ".join(line[:_WIDTH] for line in lines[:_LINES])
    return ""
