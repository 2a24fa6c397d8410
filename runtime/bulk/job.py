"""Embed a collection of any size, in one process or on a Ray cluster, into one parquet file."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..artifact.contract import Precision, Role
from ..data.images import FileSlice
from ..engines import host
from ..errors import InputError, SiglipOnnxError
from ..model import Siglip
from ..preprocessing.prefetch import batched, prefetch
from ..preprocessing.tokenizer import Truncation
from ..session import identity
from ..vectors import normalized, usable
from .embeddings_file import About, VectorDtype, table
from .inputs import Inputs, Item, Modality
from .part_files import CHUNK, Chunk, DoneChunk, Missing, Parts

Progress = Callable[[int, int], None]
_DECODE_AHEAD = 2  # batches that are decoded while one is in the tower


class Backend(StrEnum):
    """Where the work is done: in this process, or by Ray Data's workers."""

    LOCAL = "local"
    RAY = "ray"


@dataclass(frozen=True)
class Cluster:
    """How Ray is used.

    Attributes:
        address: Of a running cluster; None starts one on this machine.
        workers: Processes that each load the model.
        gpus: GPUs of each of them; a fraction shares one.
        cores: Cores of each of them.
    """

    address: str | None = None
    workers: int = 1
    gpus: float = 0.0
    cores: int = 1


@dataclass(frozen=True)
class EmbedJob:
    """What to embed, with what, and how it is kept.

    Attributes:
        inputs: The images or texts.
        output: The parquet file.
        vectors: How numbers are kept.
        template: What the model reads for a text; `{}` stands for it.
        batch_size: How many go through the tower at once; None takes what is fastest on the provider.
        engine: Where the work is done.
        cluster: How Ray is used.
        save_every: Seconds of work that a kill may cost.
        overwrite: Replace an output; it stays as it is until the new one is whole.
        restart: Forget what a run before has begun, instead of going on with it.
    """

    inputs: Inputs
    output: Path
    vectors: VectorDtype = VectorDtype.FLOAT32
    template: str = "{}"
    batch_size: int | None = None
    engine: Backend = Backend.LOCAL
    cluster: Cluster = field(default_factory=Cluster)
    save_every: float = 30.0
    overwrite: bool = False
    restart: bool = False


@dataclass(frozen=True)
class PreparedItem:
    """An item on its way into the tower.

    Attributes:
        item: What was listed, without its bytes.
        value: Pixels, uint8 [height, width, 3], or what the model reads; None where there is an error.
        error: Why there is neither.
        cut: Whether the end of the text is not read.
    """

    item: Item
    value: NDArray[np.uint8] | str | None = None
    error: str | None = None
    cut: bool = False


class Stages:
    """The two stages that every engine runs: decode an item, and embed the items of a chunk.

    Args:
        model: The model.
        job: What to do.
    """

    def __init__(self, model: Siglip, job: EmbedJob) -> None:
        if "{}" not in job.template:
            raise InputError(f"The template {job.template!r} has no place for a text.", "Write {} where it belongs.")
        self.model, self.job = model, job
        self.role = Role.VISION if job.inputs.modality is Modality.IMAGE else Role.TEXT
        self.batch = model.batch_size(self.role, job.batch_size)
        self.about = describe(model, job, self.role)

    def prepare(self, item: Item) -> PreparedItem:
        """Decode one item; whatever is wrong with it is noted, since one bad item must not stop the others."""
        kept = item if self.role is Role.TEXT else Item(item.id, None)
        if item.error is not None or item.content is None:
            return PreparedItem(kept, None, item.error or "There is nothing.")
        try:
            content = item.content.read() if isinstance(item.content, FileSlice) else item.content
            if self.role is Role.VISION:
                return PreparedItem(kept, self.model.images.bytes_of(content))
            text = self.job.template.replace("{}", str(content))
            cuts: list[Truncation] = []
            self.model.tokenizer([text], cuts.append)
            return PreparedItem(kept, text, cut=bool(cuts))
        except SiglipOnnxError as error:
            return PreparedItem(kept, None, error.what)
        except Exception as error:  # a defect of a decoder, which is no reason to lose the others
            return PreparedItem(kept, None, f"{type(error).__name__}: {error}")

    def inputs(self, values: Sequence[NDArray[np.uint8] | str]) -> NDArray[Any]:
        """What the tower takes for prepared values: pixel_values or input_ids."""
        if self.role is Role.VISION:
            return np.stack([self.model.images.row(value) for value in values if not isinstance(value, str)])
        return self.model.tokenizer([str(value) for value in values])

    def embed(self, inputs: Iterable[NDArray[Any]]) -> Iterator[NDArray[np.float32]]:
        """Embeddings of batches, float32 [rows, size], of length 1; those that have no direction are NaN."""
        for rows in self.model.encode_batches(self.role, inputs):
            fine = usable(rows)[:, None]
            yield np.where(fine, normalized(np.where(fine, rows, np.float32(1))), np.float32(np.nan))

    def rows(self, prepared: Sequence[PreparedItem], vectors: Sequence[NDArray[np.float32]]) -> Any:
        """The table of a chunk, with the vectors of those items that have no error so far."""
        stacked = np.stack(vectors) if vectors else np.empty((0, self.about.size), np.float32)
        items, errors = [one.item for one in prepared], [one.error for one in prepared]
        fine = usable(stacked)
        for place, row_is_fine in zip([i for i, error in enumerate(errors) if error is None], fine, strict=True):
            errors[place] = None if row_is_fine else "The model gives no finite embedding for it."
        stacked = stacked[fine]
        texts = [(one.item.content if isinstance(one.item.content, str) else None, one.cut) for one in prepared]
        return table(self.about, [item.id for item in items], texts, errors, stacked)

    def chunk(self, items: Sequence[PreparedItem]) -> Any:
        """The table of a chunk whose items are prepared."""
        good = [one.value for one in items if one.value is not None]
        batches = (self.inputs(batch) for batch in batched(good, self.batch))
        return self.rows(items, [row for batch in self.embed(batches) for row in batch])


def embed(artifact: str | Path | Siglip, job: EmbedJob, progress: Progress = lambda done, errors: None) -> About:
    """Embed every item of a job; a run that was stopped is taken up where it was.

    Args:
        artifact: A model, or an artifact's folder, which is run at fp32 on the CPU.
        job: What to do.
        progress: Told how many rows are done, and how many of them have an error.

    >>> about = embed(folder, EmbedJob(Inputs((image,)), output))
    >>> about.rows, about.errors
    (1, 0)

    Raises:
        InputError: The inputs, the output or a part of another job are not as they must be.
        ArtifactError: The artifact cannot be used.
        ProviderError: A package is missing, or running the model failed.
    """
    model = artifact if isinstance(artifact, Siglip) else Siglip.load(artifact)
    stages = Stages(model, job)
    _check_output(job)
    model.session(stages.role)  # what is wrong with the model is said before a folder is made
    size = max(CHUNK, stages.batch)
    with Parts(job.output, _key(stages), stages.about, job.save_every, restart=job.restart, size=size) as parts:
        done, errors = parts.rows, 0
        progress(done, errors)
        for number, digest, rows in _engine(job)(stages, parts.missing(job.inputs)):
            parts.add(number, digest, rows)
            done, errors = done + len(rows), errors + len(rows) - rows.column("error").null_count
            progress(done, errors)
        parts.flush()
        if not parts.rows:
            raise InputError(
                f"{' '.join(job.inputs.paths)} holds no {job.inputs.modality}.", "Name something that does."
            )
        return parts.finish()


def _engine(job: EmbedJob) -> Callable[[Stages, Missing], Iterator[DoneChunk]]:
    if job.engine is Backend.LOCAL:
        return run_local
    from .ray_backend import run_on_ray

    return run_on_ray


def run_local(stages: Stages, todo: Missing) -> Iterator[DoneChunk]:
    """Every chunk with its rows: items are decoded by threads while others are in the tower."""
    with ThreadPoolExecutor(host.cores(), "siglip-onnx-decode") as pool:
        flow = _Flow(stages)
        batches = flow.batches(pool, todo)
        while not flow.ended:
            for vectors in stages.embed(_until_gap(batches)):
                flow.vectors.extend(vectors)
                yield from flow.finished()
            yield from flow.finished()


def _until_gap(batches: Iterator[NDArray[Any] | None]) -> Iterator[NDArray[Any]]:
    for batch in batches:
        if batch is None:
            return
        yield batch


class _Flow:
    """Chunks between being listed and being embedded. A batch never crosses the end of a chunk, so that what shares a
    batch does not depend on where a run began.
    """  # noqa: D205

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self._whole: deque[tuple[Chunk, list[PreparedItem]]] = deque()  # every item is prepared
        self.vectors: deque[NDArray[np.float32]] = deque()
        self.ended = False

    def batches(self, pool: ThreadPoolExecutor, todo: Missing) -> Iterator[NDArray[Any] | None]:
        """What the tower takes, batch by batch; None behind a chunk of which nothing can be read, and at the end."""
        listed: deque[Chunk] = deque()

        def items() -> Iterator[Item]:
            for chunk in todo:
                listed.append(chunk)
                yield from chunk.items

        depth = max(_DECODE_AHEAD * self._stages.batch, 2 * host.cores())
        prepared: list[PreparedItem] = []
        good: list[NDArray[np.uint8] | str] = []
        for future in prefetch(pool, self._stages.prepare, items(), depth):
            prepared.append(one := future.result())
            good += [] if one.value is None else [one.value]
            whole = len(prepared) == len(listed[0].items)
            if whole:
                self._whole.append((listed.popleft(), prepared))
                prepared = []
            if good and (whole or len(good) == self._stages.batch):
                yield self._stages.inputs(good)
                good = []
            elif whole and not self._due(self._whole[-1][1]):
                yield None
        self.ended = True
        yield None

    def finished(self) -> Iterator[DoneChunk]:
        """Chunks whose vectors have all come."""
        while self._whole:
            chunk, prepared = self._whole[0]
            due = self._due(prepared)
            if due > len(self.vectors):
                return
            self._whole.popleft()
            yield chunk.number, chunk.digest, self._stages.rows(prepared, [self.vectors.popleft() for _ in range(due)])

    @staticmethod
    def _due(prepared: list[PreparedItem]) -> int:
        return sum(one.value is not None for one in prepared)


def describe(model: Siglip, job: EmbedJob, role: Role) -> About:
    """What the output says of itself."""
    contract = model.contract
    return About(
        kind=job.inputs.modality,
        model=contract.name,
        checkpoint=checkpoint_of(model),
        identity=model.identity(role),
        artifact=str(model.artifact.folder.resolve()),
        precision=model.precision,
        provider=model.options.provider,
        vectors=job.vectors,
        size=contract.embedding.size,
        scale=contract.logits.scale,
        bias=contract.logits.bias,
    )


def checkpoint_of(model: Siglip) -> str:
    """What tells the checkpoint of an artifact from every other: the hash of its fp32 towers, or of those it has."""
    contract = model.contract
    precision = Precision.FP32 if contract.variant(Precision.FP32) else contract.variants[0].precision
    towers = [model.artifact.graph(role, precision) for role in contract.towers]
    return "-".join(identity(model.artifact, graph)[:16] for graph in towers)


def _key(stages: Stages) -> dict[str, Any]:
    """All that decides what the rows are."""
    job, about, options = stages.job, stages.about, stages.model.images.options
    made: dict[str, Any] = {name: value for name, value in msgspec.to_builtins(about).items() if name != "artifact"}
    return made | {
        "inputs": msgspec.to_builtins(job.inputs),
        "stamps": job.inputs.mtimes(),
        "template": job.template,
        "batch": stages.batch,
        "image": msgspec.to_builtins(options),
    }


def _check_output(job: EmbedJob) -> None:
    if job.output.is_dir():
        raise InputError(f"{job.output} is a folder.", "Name a file.")
    if job.output.exists() and not job.overwrite:
        raise InputError(f"{job.output} is there already.", "Name another output, or replace it with --overwrite.")
