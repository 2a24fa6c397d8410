"""One cell of a gate, or the reference's answers for all of them, in a process of its own.

    python -m siglip_onnx.validate.matrix.worker JOB FOLDER

A crash, a leak or a hang of one provider is then that cell's alone, and the memory of the reference is given back
before the first cell starts. What is being done goes to standard output, a line each; the result goes into FOLDER.
"""

from __future__ import annotations

import os
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from ...runtime.artifact.contract import Precision, Provider
from ...runtime.engines.options import SessionOptions
from ...runtime.errors import InconclusiveError, InputError, SiglipOnnxError
from ...runtime.files import write_file
from ..checks.regression import accepted
from ..data.samples import DataOptions, Samples
from ..limits.toml_file import LimitTable
from ..open_model import open_model
from ..report.report import CheckGroup
from ..validate_variant import Terms, prepared, record, validate

REPORT: Final = "report.json"
EVIDENCE: Final = "evidence.npz"
DATA: Final = "data.json"
ERROR: Final = "error.json"


@dataclass(frozen=True)
class Job:
    """What a gate judges, and by what.

    Attributes:
        artifact: Its folder, or somebody else's files.
        checkpoint: What it was made from; None compares with the fp32 variant.
        data: The user's images; None for the bundled ones.
        data_options: How they are read.
        gates: A TOML file that changes limits.
        baseline: The report of the last accepted release.
        dialect: Whose names the checkpoint's weights have.
        mapping: A TOML file that says which file is which tower, for bare files.
        answers: Where the reference's answers are kept.
        options: How graphs are loaded; the provider is the cell's.
    """

    artifact: Path
    checkpoint: str | None
    answers: Path
    data: Path | None = None
    data_options: DataOptions = field(default_factory=DataOptions)
    gates: Path | None = None
    baseline: Path | None = None
    dialect: str | None = None
    mapping: Path | None = None
    options: SessionOptions = field(default_factory=SessionOptions)

    @property
    def limits(self) -> LimitTable:
        """The defaults, or what the file of gates makes of them; raises InputError for one that cannot be read."""
        return LimitTable.read(self.gates) if self.gates else LimitTable()

    def check(self) -> None:
        """Read what all cells share; raises InputError for gates or a baseline that cannot be read."""
        _ = self.limits
        if self.baseline:
            accepted(self.baseline)

    def terms(self, precision: Precision, provider: Provider, without: frozenset[CheckGroup]) -> Terms:
        """What a cell's verdict depends on.

        Raises:
            InputError: The gates or the baseline cannot be read.
            InconclusiveError: The baseline has no such cell.
        """
        gates = self.limits
        before = accepted(self.baseline) if self.baseline else {}
        if self.baseline and (precision, provider) not in before:
            raise InconclusiveError(
                f"The baseline {self.baseline} has no {precision} on {provider}.",
                "Take the cell out of the gate, or accept a release that has it first.",
            )
        found = before.get((precision, provider))
        if found is None and gates.limits_for(precision, provider).latency is not None:
            raise InputError("A time can only be compared with that of a baseline.", "Name one with --baseline.")
        return Terms(gates, found, self.dialect, without=without, answers=self.answers)


class WorkerTask(msgspec.Struct, frozen=True):
    """What a process is to do: judge one cell, or without `judge` ask the reference alone."""

    job: Job
    precision: Precision
    provider: Provider
    judge: bool = True


def encode(task: WorkerTask) -> bytes:
    """A task as JSON, paths as strings."""
    return msgspec.json.encode(task, enc_hook=str)


def decode(data: bytes) -> WorkerTask:
    """Read what `encode` wrote."""
    return msgspec.json.decode(data, type=WorkerTask, dec_hook=lambda kind, value: kind(value))


class WorkerError(msgspec.Struct, frozen=True):
    """A `SiglipOnnxError` on its way to another process."""

    kind: str
    message: str
    next_step: str


def run(task: WorkerTask, folder: Path) -> None:
    """Judge a cell and write its report and evidence; or ask the reference and write what the data are."""
    job, step = task.job, _tell
    subject = open_model(job, task.precision, task.provider if task.judge else Provider.CPU)
    terms = (
        job.terms(task.precision, task.provider, subject.without)
        if task.judge
        else Terms(dialect=job.dialect, answers=job.answers)
    )
    samples = Samples.read(job.data, job.data_options)
    if not task.judge:
        prepared(subject.model, job.checkpoint, samples, terms, progress=step)
        write_file(
            folder / DATA, msgspec.json.encode(record(samples, frozen=subject.model.contract.labels is not None))
        )
        return
    judged = validate(subject.model, job.checkpoint, samples, terms, progress=step)
    write_file(folder / REPORT, judged.report.to_json())
    if judged.evidence is not None:
        judged.evidence.write(folder / EVIDENCE)


def _tell(step: str) -> None:
    print(step, flush=True)


def _end_with_parent() -> None:
    """Wait for the end of standard input, which comes when whoever started this is gone."""
    while os.read(0, 1):  # not by sys.stdin, whose lock a thread may not hold when Python ends
        pass
    os._exit(1)


def main(arguments: list[str]) -> int:
    """The process; its exit code is that of the error."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder = Path(arguments[1])
    task = decode(Path(arguments[0]).read_bytes())
    try:
        run(task, folder)
    except SiglipOnnxError as error:
        problem = WorkerError(type(error).__name__, error.message, error.next_step)
        write_file(folder / ERROR, msgspec.json.encode(problem))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
