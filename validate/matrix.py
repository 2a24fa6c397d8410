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

from ..runtime import errors, machine
from ..runtime.contract import Precision, Provider, Verdict
from ..runtime.errors import InconclusiveError, ParityError
from . import cell as cells
from .cell import Job, Problem, Task
from .evidence import Evidence
from .matrix_report import Cell, Matrix, together
from .report import DataRecord, Report
from .run import environment

_BESIDE_WEIGHTS: Final = (
    1_500_000_000  # bytes of a cell's process besides its graphs: PyTorch's code, pictures, buffers
)
_TIMES_WEIGHTS: Final = 2  # providers keep a second copy of the weights while they arrange them
_LAST_LINES: Final = 3
_MEMORY: Final = Path("/proc/meminfo")
_SECOND: Final = 1.0

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
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


class Outcome(NamedTuple):
    """A gate's report, and what its page is drawn from by the name of the cell."""

    matrix: Matrix
    evidence: dict[str, Evidence]


def run_matrix(job: Job, plan: Plan, sizes: dict[Precision, int], *, progress: Progress = print) -> Outcome:
    """Judge every cell.

    Args:
        job: What is judged, and by what.
        plan: Which cells there are.
        sizes: Bytes of the weights of each precision, which decide how many cells fit into memory.
        progress: Told what is being done, in a few words.

    Raises:
        SiglipOnnxError: What all cells share is bad: the checkpoint, the data, the gates, the baseline.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="siglip-onnx-gate-") as scratch:
        folder = Path(scratch)
        data = _ask_reference(job, plan, folder / "reference", progress)
        runner = _Runner(job, plan, sizes, folder, progress)
        found = runner.run()
    matrix = Matrix(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started, 1),
        artifact=next((c.report.artifact for c, _ in found if c.report), job.artifact.resolve().name),
        reference=next((c.report.reference for c, _ in found if c.report), job.checkpoint or "its fp32 variant"),
        data=data,
        verdict=together([cell for cell, _ in found]),
        cells=tuple(cell for cell, _ in found),
        environment=environment(),
    )
    return Outcome(matrix, {cell.name: evidence for cell, evidence in found if evidence is not None})


def _ask_reference(job: Job, plan: Plan, folder: Path, progress: Progress) -> DataRecord:
    """Have the reference answer everything, in a process whose memory is free again afterwards."""
    task = Task(job, plan.precisions[0], plan.providers[0], judge=False)
    ended = _process(task, folder, plan.timeout, progress)
    if (folder / cells.DATA).exists():
        return msgspec.json.decode((folder / cells.DATA).read_bytes(), type=DataRecord)
    if isinstance(ended, Problem):
        raise getattr(errors, ended.kind, ParityError)(ended.what, ended.next_step)
    raise InconclusiveError(f"The reference gave no answers: {ended}", "Free some memory, or raise --timeout.")


class _Runner:
    """Runs cells, as many at a time as fit into memory."""

    def __init__(self, job: Job, plan: Plan, sizes: dict[Precision, int], folder: Path, progress: Progress) -> None:
        self.plan, self.sizes, self.folder, self.progress = plan, sizes, folder, progress
        self.jobs = min(plan.jobs or max(1, machine.cores() // 4), len(plan.cells))
        threads = job.options.threads or max(1, machine.cores() // self.jobs)
        self.job = replace(job, options=replace(job.options, threads=threads))
        self._free = threading.Condition()
        self._taken, self._limit = 0, _available()

    def run(self) -> list[tuple[Cell, Evidence | None]]:
        with ThreadPoolExecutor(self.jobs) as pool:
            return list(pool.map(self._cell, *zip(*self.plan.cells, strict=True)))

    def _cell(self, precision: Precision, provider: Provider) -> tuple[Cell, Evidence | None]:
        with self._room(_TIMES_WEIGHTS * self.sizes.get(precision, 0) + _BESIDE_WEIGHTS):
            started, folder = time.monotonic(), self.folder / f"{precision}-{provider}"
            task = Task(self.job, precision, provider)
            ended = _process(
                task, folder, self.plan.timeout, lambda s: self.progress(f"{precision} on {provider}: {s}")
            )
            cell = _cell(precision, provider, provider not in self.plan.optional, folder, ended)
        evidence = folder / cells.EVIDENCE
        found = Evidence.read(evidence) if cell.report is not None and evidence.exists() else None
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
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 0


def _cell(precision: Precision, provider: Provider, required: bool, folder: Path, ended: Problem | str | None) -> Cell:
    """A cell as its process left it: what ran must pass; what could not fails, or where it is optional says nothing."""
    if ended is None:
        report = Report.from_json((folder / cells.REPORT).read_bytes())
        return Cell(precision, provider, report.verdict, True, report)
    problem = ended if isinstance(ended, str) else f"{ended.what} {ended.next_step}"
    unsure = isinstance(ended, Problem) and ended.kind == InconclusiveError.__name__
    absent = isinstance(ended, Problem) and ended.kind == "ProviderError" and not required
    verdict = Verdict.INCONCLUSIVE if unsure or absent else Verdict.FAIL
    return Cell(precision, provider, verdict, required, None, problem)


def _process(task: Task, folder: Path, timeout: float, progress: Progress) -> Problem | str | None:
    """Run a task in a process: None if it did its work, else what it said, or how it ended."""
    folder.mkdir()
    (folder / "task.json").write_bytes(cells.encode(task))
    command = [sys.executable, "-m", cells.__name__, str(folder / "task.json"), str(folder)]
    with (
        (folder / "stderr").open("wb") as errors_of,
        subprocess.Popen(  # noqa: S603  this Python, with files of our own
            command, stdout=subprocess.PIPE, stderr=errors_of, text=True, start_new_session=True
        ) as process,
    ):
        reader = threading.Thread(target=_follow, args=(process, progress), daemon=True)
        reader.start()
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            _kill(process)
            return f"It did not end within {timeout:g} seconds and was stopped."
        except BaseException:  # the user's Ctrl-C does not reach a session of its own
            _kill(process)
            raise
    if (folder / cells.ERROR).exists():
        return msgspec.json.decode((folder / cells.ERROR).read_bytes(), type=Problem)
    return None if code == 0 else _ended(code, folder)


def _follow(process: subprocess.Popen[str], progress: Progress) -> None:
    for line in process.stdout or ():
        progress(line.strip())


def _kill(process: subprocess.Popen[str]) -> None:
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _ended(code: int, folder: Path) -> str:
    """How a process ended that wrote no result, with its last words."""
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    said = (folder / "stderr").read_text("utf-8", "replace").strip().splitlines()[-_LAST_LINES:]
    return f"Its process ended with {name}. {' / '.join(said)}".strip()
