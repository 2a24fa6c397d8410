"""The process of one cell, or of the reference for all cells.

    python -m siglip_onnx.validate.matrix TASK FOLDER

A crash, a leak or a hang of a provider then concerns one cell only, and the reference's memory is free before the first
cell starts. The process prints each step on a line of standard output and writes its result into FOLDER.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Final

import msgspec

from ...runtime.artifact.contract import Precision, Provider
from ...runtime.errors import SiglipOnnxError
from ...runtime.files import write_file
from ..data.samples import Samples
from ..open_model import open_model
from ..open_reference import open_context
from ..report.report import DataRecord
from ..request import KnownHashes, ValidationRequest
from ..validate_variant import record_data, validate_cell

REPORT: Final = "report.json"
PLOT_DATA: Final = "plot_data.npz"
REFERENCE: Final = "reference.json"
ERROR: Final = "error.json"


class WorkerTask(msgspec.Struct, frozen=True):
    """The task of a process.

    Attributes:
        request: The request.
        precision: Precision of the cell.
        provider: Provider of the cell.
        hashes: Hashes that the reference's process has computed; None for that process itself, which runs the
            reference and no cell.
    """

    request: ValidationRequest
    precision: Precision
    provider: Provider
    hashes: KnownHashes | None = None


class ReferenceRecord(msgspec.Struct, frozen=True):
    """What the reference's process reports to the cells.

    Attributes:
        data: The data.
        reference_sha256: Hash of the reference.
    """

    data: DataRecord
    reference_sha256: str

    @property
    def hashes(self) -> KnownHashes:
        """The hashes that cells need not compute again."""
        return KnownHashes(self.data.sha256, self.reference_sha256)


class WorkerError(msgspec.Struct, frozen=True):
    """A `SiglipOnnxError` of another process."""

    kind: str
    message: str
    next_step: str


def encode(task: WorkerTask) -> bytes:
    """Encode a task as MessagePack, with paths as strings."""
    return msgspec.msgpack.encode(task, enc_hook=str)


def decode(data: bytes) -> WorkerTask:
    """Decode the output of `encode`."""
    return msgspec.msgpack.decode(data, type=WorkerTask, dec_hook=lambda kind, value: kind(value))


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
