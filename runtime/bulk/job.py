"""A job of `embed`: the inputs, the output, and how the work is done."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from ..errors import InputError
from .embeddings_file import VectorDtype
from .inputs import Inputs


class Backend(StrEnum):
    """Where the work is done: in this process, or by workers of Ray Data."""

    LOCAL = "local"
    RAY = "ray"


@dataclass(frozen=True)
class Cluster:
    """How Ray is used.

    Attributes:
        address: Address of a running cluster; None starts one on this machine.
        workers: Processes that each load the model.
        gpus: GPUs of each worker; workers share a GPU if this is a fraction.
        cores: CPU cores of each worker.
    """

    address: str | None = None
    workers: int = 1
    gpus: float = 0.0
    cores: int = 1


@dataclass(frozen=True)
class EmbedJob:
    """A collection to embed, and the file to write.

    Attributes:
        inputs: The images or texts.
        output: The parquet file.
        dtype: Type of the numbers in the output.
        template: The prompt for a text; `{}` stands for the text.
        batch_size: Rows that go through the tower at once; None takes the fastest number for the provider.
        backend: Where the work is done.
        cluster: How Ray is used.
        checkpoint_interval: Seconds between checkpoints; a killed process loses at most the work of one interval.
        overwrite: Replace an existing output, which stays as it is until the new one is complete.
        resume: Continue the unfinished run for this output, if there is one; False starts again.

    Raises:
        InputError: The template has no `{}`.
    """

    inputs: Inputs
    output: Path
    dtype: VectorDtype = VectorDtype.FLOAT32
    template: str = "{}"
    batch_size: int | None = None
    backend: Backend = Backend.LOCAL
    cluster: Cluster = field(default_factory=Cluster)
    checkpoint_interval: float = 30.0
    overwrite: bool = False
    resume: bool = True

    def __post_init__(self) -> None:
        if "{}" not in self.template:
            raise InputError(
                f"template must contain {{}}, got {self.template!r}.", "Write {} in the place of the text."
            )
