"""A gate: every precision on every provider, each in a process of its own, and one verdict."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from ...runtime import errors, privacy
from ...runtime.artifact.contract import Precision, Provider, Verdict
from ...runtime.engines import host
from ...runtime.errors import InconclusiveError, ParityError, ProviderError
from ..open_model import precisions_of, weights_of
from ..report.matrix import Cell, Matrix, matrix_verdict
from ..report.plot_data import PlotData
from ..report.report import DataRecord, Report
from ..validate_variant import environment
from . import worker as cells
from .worker import Job, WorkerError, WorkerTask

# Of a cell's process besides its graphs: PyTorch's code, images, buffers.
_BESIDE_WEIGHTS: Final = 1_500_000_000
_TIMES_WEIGHTS: Final = 2  # providers keep a second copy of the weights while they arrange them
_LAST_LINES: Final = 3
_MEMORY: Final = Path("/proc/meminfo")
_GROUP: Final = Path("/sys/fs/cgroup")  # of a container, in its own eyes
_LAST_WORDS: Final = 5.0  # seconds for what a process printed before it ended

Progress = Callable[[str], None]


@dataclass(frozen=True)
class MatrixPlan:
    """Which cells there are, and how they are run.

    Attributes:
        precisions: The rows.
        providers: The columns.
        optional: Providers whose cells may be missing.
        jobs: Cells at a time; None takes as many as there are four cores for.
        timeout: Seconds after which a cell counts as hanging.
    """

    precisions: tuple[Precision, ...]
    providers: tuple[Provider, ...]
    optional: frozenset[Provider] = frozenset()
    jobs: int | None = None
    timeout: float = 3600.0

    @property
    def cells(self) -> tuple[tuple[Precision, Provider], ...]:
        """Every cell, row by row."""
        return tuple((precision, provider) for precision in self.precisions for provider in self.providers)


class MatrixResult(NamedTuple):
    """A gate's report, and what its page is drawn from by the name of the cell."""

    matrix: Matrix
    evidence: dict[str, PlotData]


def run_matrix(job: Job, plan: MatrixPlan, *, progress: Progress = print) -> MatrixResult:
    """Judge every cell.

    Args:
        job: What is judged, and by what.
        plan: Which cells there are.
        progress: Told what is being done, in a few words.

    Raises:
        SiglipOnnxError: What all cells share is bad: the checkpoint, the data, the gates, the baseline.
    """
    started = time.monotonic()
    job.check()
    with tempfile.TemporaryDirectory(prefix="siglip-onnx-gate-") as scratch:
        folder = Path(scratch)
        processes = Processes()
        try:
            data = _ask_reference(job, plan, folder / "reference", processes, progress)
            found = _Runner(job, plan, folder, processes, progress).run()
        finally:  # an interrupted gate leaves nothing running behind
            processes.stop()
    matrix = Matrix(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started, 1),
        artifact=next((c.report.artifact for c, _ in found if c.report), job.artifact.resolve().name),
        reference=next((c.report.reference for c, _ in found if c.report), job.checkpoint or "its fp32 variant"),
        data=data,
        verdict=matrix_verdict([cell for cell, _ in found]),
        cells=tuple(cell for cell, _ in found),
        environment=environment(),
    )
    return MatrixResult(matrix, {cell.name: evidence for cell, evidence in found if evidence is not None})


def _ask_reference(job: Job, plan: MatrixPlan, folder: Path, processes: Processes, progress: Progress) -> DataRecord:
    """Have the reference answer everything, in a process whose memory is free again afterwards."""
    there = [p for p in precisions_of(job) if job.checkpoint is not None or p is not Precision.FP32]
    precision = next((p for p in plan.precisions if p in there), next(iter(there), plan.precisions[0]))
    ended = processes.run(WorkerTask(job, precision, Provider.CPU, judge=False), folder, plan.timeout, progress)
    if (folder / cells.DATA).exists():
        return msgspec.json.decode((folder / cells.DATA).read_bytes(), type=DataRecord)
    if isinstance(ended, WorkerError):
        raise getattr(errors, ended.kind, ParityError)(ended.message, ended.next_step)
    raise InconclusiveError(f"The reference gave no answers: {ended}", "Free some memory, or raise --timeout.")


class _Runner:
    """Runs cells, as many at a time as fit into memory."""

    def __init__(
        self,
        job: Job,
        plan: MatrixPlan,
        folder: Path,
        processes: Processes,
        progress: Progress,
    ) -> None:
        self.plan, self.folder, self.progress = plan, folder, progress
        self.processes, self.sizes = processes, weights_of(job)
        self.jobs = min(plan.jobs or max(1, host.cores() // 4), len(plan.cells))
        threads = job.options.threads or max(1, host.cores() // self.jobs)
        self.job = replace(job, options=replace(job.options, threads=threads))
        self._free = threading.Condition()
        self._taken, self._limit = 0, _available()

    def run(self) -> list[tuple[Cell, PlotData | None]]:
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                return list(pool.map(self._cell, *zip(*self.plan.cells, strict=True)))
            except BaseException:  # such as Ctrl-C, which reaches this thread alone
                self.processes.stop()
                pool.shutdown(cancel_futures=True)
                raise

    def _cell(self, precision: Precision, provider: Provider) -> tuple[Cell, PlotData | None]:
        with self._room(_TIMES_WEIGHTS * self.sizes.get(precision, 0) + _BESIDE_WEIGHTS):
            started, folder = time.monotonic(), self.folder / f"{precision}-{provider}"
            task = WorkerTask(self.job, precision, provider)
            name = f"{precision} on {provider}"
            ended = self.processes.run(task, folder, self.plan.timeout, lambda s: self.progress(f"{name}: {s}"))
            cell = _cell(precision, provider, provider not in self.plan.optional, folder, ended)
        evidence = folder / cells.EVIDENCE
        found = PlotData.read(evidence) if cell.report is not None and evidence.exists() else None
        return replace(cell, seconds=round(time.monotonic() - started, 1)), found

    @contextlib.contextmanager
    def _room(self, needed: int) -> Iterator[None]:
        """Wait until what is needed is free; one cell alone always runs."""
        with self._free:
            self._free.wait_for(lambda: self._taken == 0 or self._taken + needed <= self._limit)
            self._taken += needed
        try:
            yield
        finally:
            with self._free:
                self._taken -= needed
                self._free.notify_all()


def _available() -> int:
    """Bytes of memory that are free for use, where the system tells; else none, so that cells run one by one."""
    try:
        lines = dict(line.split(":") for line in _MEMORY.read_text().splitlines())
        free = int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 0
    with contextlib.suppress(OSError, ValueError):  # no limit of a container's own
        free = min(free, int((_GROUP / "memory.max").read_text()) - int((_GROUP / "memory.current").read_text()))
    return free


def _cell(
    precision: Precision, provider: Provider, required: bool, folder: Path, ended: WorkerError | str | None
) -> Cell:
    """A cell as its process left it: what ran must pass; what could not fails, or where it is optional says nothing."""
    if ended is None:
        report = Report.from_json((folder / cells.REPORT).read_bytes())
        return Cell(precision, provider, report.verdict, True, report)
    problem = ended if isinstance(ended, str) else f"{ended.message} {ended.next_step}"
    kind = ended.kind if isinstance(ended, WorkerError) else ""
    absent = kind == ProviderError.__name__ and not required
    verdict = Verdict.INCONCLUSIVE if absent or kind == InconclusiveError.__name__ else Verdict.FAIL
    return Cell(precision, provider, verdict, not absent, None, problem)


class Processes:
    """The processes of a gate; none outlives it."""

    def __init__(self) -> None:
        self._running: set[subprocess.Popen[str]] = set()
        self._lock, self._stopped = threading.Lock(), False

    def stop(self) -> None:
        """End those that run, and let no other begin."""
        with self._lock:
            self._stopped = True
            running = list(self._running)
        for process in running:
            _kill(process)

    def run(self, task: WorkerTask, folder: Path, timeout: float, progress: Progress) -> WorkerError | str | None:
        """Run a task in a process: None if it did its work, else what it said, or how it ended."""
        folder.mkdir()
        (folder / "task.json").write_bytes(cells.encode(task))
        process = self._start([sys.executable, "-m", cells.__name__, str(folder / "task.json"), str(folder)], folder)
        reader = threading.Thread(target=_follow, args=(process, progress), daemon=True)
        reader.start()
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            return f"It did not end within {timeout:g} seconds and was stopped."
        finally:
            _kill(process)  # and whatever it has started; a pipe that one of these holds would never end
            reader.join(_LAST_WORDS)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
            with self._lock:
                self._running.discard(process)
        if (folder / cells.ERROR).exists():
            return msgspec.json.decode((folder / cells.ERROR).read_bytes(), type=WorkerError)
        done = code == 0 and ((folder / cells.REPORT).exists() or (folder / cells.DATA).exists())
        return None if done else _ended(code, folder)

    def _start(self, command: list[str], folder: Path) -> subprocess.Popen[str]:
        with self._lock, (folder / "stderr").open("wb") as said:
            if self._stopped:
                raise KeyboardInterrupt
            process = subprocess.Popen(  # noqa: S603  this Python, with files of our own
                command,
                stdin=subprocess.PIPE,  # ends with us, and the process with it
                stdout=subprocess.PIPE,
                stderr=said,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
                env={**os.environ, **privacy.choices(), "PYTHONIOENCODING": "utf-8"},
            )
            self._running.add(process)
        return process


def _follow(process: subprocess.Popen[str], progress: Progress) -> None:
    with contextlib.suppress(ValueError, OSError):  # the pipe was closed
        for line in process.stdout or ():
            progress(line.strip())


def _kill(process: subprocess.Popen[str]) -> None:
    """End a process and its children; what has ended already is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _ended(code: int, folder: Path) -> str:
    """How a process ended that wrote no result, with its last words."""
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    said = (folder / "stderr").read_text("utf-8", "replace").strip().splitlines()[-_LAST_LINES:]
    return f"Its process ended with {name}. {' / '.join(said)}".strip()
