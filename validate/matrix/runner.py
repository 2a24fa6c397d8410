"""Validate every precision on every provider, each cell in its own process, and give one verdict."""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from ...runtime import errors
from ...runtime.artifact.contract import Precision, Provider, Verdict
from ...runtime.engines import host
from ...runtime.errors import InconclusiveError, ParityError, ProviderError
from ...runtime.progress import Progress
from ..environment import environment
from ..open_model import available_precisions, weight_sizes
from ..report.matrix import Cell, Matrix, matrix_verdict
from ..report.plot_data import PlotData
from ..report.report import DataRecord, Report
from ..request import KnownHashes, ValidationRequest
from ..validate_variant import validate_cell
from . import protocol
from .processes import MemoryRoom, Processes
from .protocol import ReferenceRecord, WorkerError, WorkerTask

# Memory of a cell's process: code and buffers, and twice the weights, because providers copy them while loading.
_BASE_MEMORY: Final = 1_500_000_000
_WEIGHT_COPIES: Final = 2
_CORES_PER_CELL: Final = 4


@dataclass(frozen=True)
class MatrixPlan:
    """The cells of a matrix, and how they run.

    Attributes:
        precisions: The rows.
        providers: The columns.
        allow_missing: Providers that may be missing on this machine.
        jobs: Cells that run at once; None takes one per four cores.
        timeout: Seconds after which a cell counts as hanging.
    """

    precisions: tuple[Precision, ...]
    providers: tuple[Provider, ...]
    allow_missing: frozenset[Provider] = frozenset()
    jobs: int | None = None
    timeout: float = 3600.0

    @property
    def cells(self) -> tuple[tuple[Precision, Provider], ...]:
        """Every cell, row by row."""
        return tuple((precision, provider) for precision in self.precisions for provider in self.providers)


class MatrixResult(NamedTuple):
    """The report of a matrix.

    Attributes:
        matrix: Every cell and the verdict.
        plot_data: Data of the page's plots by the cell's name.
        notes: Assumptions about an external model, a sentence each; of a single cell only.
    """

    matrix: Matrix
    plot_data: dict[str, PlotData]
    notes: tuple[str, ...] = ()


def run_cell(
    request: ValidationRequest, precision: Precision, provider: Provider, *, progress: Progress = print
) -> MatrixResult:
    """Validate a single cell in this process, and report it as a matrix of one cell.

    Raises:
        SiglipOnnxError: As `validate_cell`.
    """
    report, plot_data, notes = validate_cell(request, precision, provider, progress=progress)
    cell = Cell(precision, provider, report.verdict, True, report, seconds=report.seconds)
    matrix = _matrix(request, (cell,), report.data, report.seconds)
    return MatrixResult(matrix, {} if plot_data is None else {cell.name: plot_data}, notes)


def run_matrix(request: ValidationRequest, plan: MatrixPlan, *, progress: Progress = print) -> MatrixResult:
    """Validate every cell of a plan, each in its own process.

    Args:
        request: The candidate, reference, data and limits of all cells.
        plan: The cells.
        progress: Receives a short description of each step.

    Raises:
        SiglipOnnxError: The checkpoint or the data, which all cells share, cannot be used.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="siglip-onnx-matrix-") as scratch:
        folder, processes = Path(scratch), Processes()
        if request.cache is None:  # the cells share the reference's outputs through a folder
            request = replace(request, cache=folder / "cache")
        try:
            record = _run_reference(request, plan, folder / "reference", processes, progress)
            results = _Runner(request, plan, folder, record.hashes, processes, progress).run()
        finally:  # an interrupted matrix leaves no process behind
            processes.stop()
    cells = tuple(cell for cell, _ in results)
    matrix = _matrix(request, cells, record.data, round(time.monotonic() - started, 1))
    return MatrixResult(matrix, {cell.name: plot_data for cell, plot_data in results if plot_data is not None})


def _matrix(request: ValidationRequest, cells: tuple[Cell, ...], data: DataRecord, seconds: float) -> Matrix:
    first = next((cell.report for cell in cells if cell.report), None)
    return Matrix(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=seconds,
        artifact=first.artifact if first else request.artifact.resolve().name,
        reference=first.reference if first else request.reference or "its fp32 variant",
        data=data,
        verdict=matrix_verdict(cells),
        cells=cells,
        environment=environment(),
    )


def _run_reference(
    request: ValidationRequest, plan: MatrixPlan, folder: Path, processes: Processes, progress: Progress
) -> ReferenceRecord:
    """Run the reference in a process of its own, so that its memory is free again for the cells."""
    comparable = [
        precision
        for precision in available_precisions(request)
        if request.reference is not None or precision is not Precision.FP32
    ]
    fallback = next(iter(comparable), plan.precisions[0])
    precision = next((precision for precision in plan.precisions if precision in comparable), fallback)
    task = WorkerTask(replace(request, baseline=()), precision, Provider.CPU)
    problem = processes.run(task, folder, plan.timeout, progress)
    if (folder / protocol.REFERENCE).exists():
        return msgspec.json.decode((folder / protocol.REFERENCE).read_bytes(), type=ReferenceRecord)
    if isinstance(problem, WorkerError):
        raise getattr(errors, problem.kind, ParityError)(problem.message, problem.next_step)
    raise InconclusiveError(f"The reference did not finish: {problem}", "Free some memory, or raise the timeout.")


class _Runner:
    """Runs the cells of a plan, as many at once as fit into memory."""

    def __init__(
        self,
        request: ValidationRequest,
        plan: MatrixPlan,
        folder: Path,
        hashes: KnownHashes,
        processes: Processes,
        progress: Progress,
    ) -> None:
        self._plan, self._folder, self._hashes = plan, folder, hashes
        self._processes, self._progress = processes, progress
        self._sizes, self._memory = weight_sizes(request), MemoryRoom()
        self._jobs = min(plan.jobs or max(1, host.cores() // _CORES_PER_CELL), len(plan.cells))
        threads = request.options.threads or max(1, host.cores() // self._jobs)
        self._request = replace(request, options=replace(request.options, threads=threads))

    def run(self) -> list[tuple[Cell, PlotData | None]]:
        with ThreadPoolExecutor(self._jobs) as pool:
            try:
                return list(pool.map(self._run_cell, *zip(*self._plan.cells, strict=True)))
            except BaseException:  # such as Ctrl-C, which only this thread receives
                self._processes.stop()
                pool.shutdown(cancel_futures=True)
                raise

    def _run_cell(self, precision: Precision, provider: Provider) -> tuple[Cell, PlotData | None]:
        name, folder = f"{precision} on {provider}", self._folder / f"{precision}-{provider}"
        with self._memory.take(_WEIGHT_COPIES * self._sizes.get(precision, 0) + _BASE_MEMORY):
            started = time.monotonic()
            problem = self._processes.run(
                WorkerTask(self._cell_request(precision, provider), precision, provider, self._hashes),
                folder,
                self._plan.timeout,
                lambda step: self._progress(f"{name}: {step}"),
            )
            seconds = round(time.monotonic() - started, 1)
        cell = _read_cell(precision, provider, provider not in self._plan.allow_missing, folder, problem)
        path = folder / protocol.PLOT_DATA
        plot_data = PlotData.read(path) if cell.report is not None and path.exists() else None
        return replace(cell, seconds=seconds), plot_data

    def _cell_request(self, precision: Precision, provider: Provider) -> ValidationRequest:
        """The request with only the cell's own report of the baseline, where there is one."""
        own = tuple(r for r in self._request.baseline if (r.precision, r.provider) == (precision, provider))
        return replace(self._request, baseline=own or self._request.baseline[:1])


def _read_cell(
    precision: Precision, provider: Provider, required: bool, folder: Path, problem: WorkerError | str | None
) -> Cell:
    """The result of a cell's process: a cell that ran must pass; one that could not run fails, if it is required."""
    if problem is None:
        report = Report.from_json((folder / protocol.REPORT).read_bytes())
        return Cell(precision, provider, report.verdict, True, report)
    message = problem if isinstance(problem, str) else f"{problem.message} {problem.next_step}"
    kind = problem.kind if isinstance(problem, WorkerError) else ""
    missing = kind == ProviderError.__name__ and not required
    verdict = Verdict.INCONCLUSIVE if missing or kind == InconclusiveError.__name__ else Verdict.FAIL
    return Cell(precision, provider, verdict, not missing, None, message)
