"""The process of one cell, or of the reference for all cells.

    python -m siglip_onnx.validate.matrix TASK FOLDER

A crash, a leak or a hang of a provider then concerns one cell only, and the reference's memory is free before the first
cell starts. The process prints each step on a line of standard output and writes its result into FOLDER.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

import msgspec

from ...runtime.artifact.contract import Provider
from ...runtime.errors import SiglipOnnxError
from ...runtime.files import write_file
from ..data.samples import Samples
from ..open_model import open_model
from ..open_reference import open_context
from ..validate_variant import record_data, validate_cell
from .protocol import ERROR, PLOT_DATA, REFERENCE, REPORT, ReferenceRecord, WorkerError, WorkerTask, decode


def run(task: WorkerTask, folder: Path) -> None:
    """Validate a cell and write its report and plot data, or run the reference and write its record."""
    if task.hashes is None:
        record = _run_reference(task)
        write_file(folder / REFERENCE, msgspec.json.encode(record))
        return
    result = validate_cell(task.request, task.precision, task.provider, hashes=task.hashes, progress=_print_step)
    write_file(folder / REPORT, result.report.to_json())
    if result.plot_data is not None:
        result.plot_data.write(folder / PLOT_DATA)


def _run_reference(task: WorkerTask) -> ReferenceRecord:
    request = task.request
    model = open_model(request, task.precision, Provider.CPU).model
    samples = Samples.read(request.data, request.data_options)
    context = open_context(model, request, samples, progress=_print_step)
    data = record_data(samples, samples.sha256, frozen=context.has_frozen_labels)
    return ReferenceRecord(data, context.reference.oracle.sha256)


def _print_step(step: str) -> None:
    print(step, flush=True)


def _end_with_parent() -> None:
    """Exit at the end of standard input, which comes when the parent process is gone."""
    while os.read(0, 1):  # not sys.stdin: a thread may not hold its lock when Python exits
        pass
    os._exit(1)


def main(arguments: list[str]) -> int:
    """Run a task; return the exit code of its error."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    task, folder = decode(Path(arguments[0]).read_bytes()), Path(arguments[1])
    try:
        run(task, folder)
    except SiglipOnnxError as error:
        problem = WorkerError(type(error).__name__, error.message, error.next_step)
        write_file(folder / ERROR, msgspec.json.encode(problem))
        return error.exit_code
    return 0
