"""What the process of a matrix and its workers exchange, as files in one folder per worker."""

from __future__ import annotations

from typing import Final

import msgspec

from ...runtime.artifact.contract import Precision, Provider
from ..report.report import DataRecord
from ..request import KnownHashes, ValidationRequest

TASK: Final = "task.msgpack"
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
