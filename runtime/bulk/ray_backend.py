"""The stages of `embed` as Ray Data operators: one task lists, tasks decode, actors embed; this process writes.

A chunk travels whole, as one row, so that a worker that dies costs its chunks and nothing else: Ray runs them again.
The listing is a task that streams and is held back, so that only a few chunks are in memory at once. Where decoding and
embedding need the same resources (a core each), Ray runs both in the actor, which saves moving pixels.
"""

from __future__ import annotations

import functools
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from .. import privacy
from ..artifact.artifact import Artifact
from ..artifact.contract import Precision
from ..data.images import FileSlice
from ..data.parquet import import_pyarrow
from ..engines import host as machine
from ..engines.options import SessionOptions
from ..errors import ProviderError, SiglipOnnxError
from ..model import Siglip
from ..preprocessing.image import ImageOptions
from .inputs import Item
from .job import Cluster, EmbedJob, PreparedItem, Stages
from .part_files import DoneChunk, Missing

# An item as it is listed: its name; a path or text, bytes, or where they are (file, offset, size); or an error.
_Listed = tuple[str, str | None, bytes | None, tuple[str, int, int] | None, str | None]
# An item as it is decoded: its name; its text, if it is one; pixels, or what the model reads; or an error; and whether
# the end of the text is not read.
_Decoded = tuple[str, str | None, tuple[bytes, tuple[int, ...]] | None, str | None, str | None, bool]


def run_on_ray(stages: Stages, todo: Missing) -> Iterator[DoneChunk]:
    """Every chunk with its rows, in whatever order they are done.

    Raises:
        ProviderError: Ray is not installed or cannot be reached, or a worker failed in a way that trying again does
            not mend.
    """
    ray = _ray(stages.job.cluster)
    recipe, arrow = _Recipe.of(stages), import_pyarrow()[0]
    try:
        for row in _dataset(ray, recipe, todo, stages.job.cluster).iter_rows():
            yield row["chunk"], row["digest"], arrow.ipc.open_stream(row["rows"]).read_all()
    except ray.exceptions.RayError as error:
        raise _told(ray, error) from error


def _dataset(ray: Any, recipe: _Recipe, todo: Missing, cluster: Cluster) -> Any:
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = 1  # bytes: each chunk is a block of its own, and so a task of its own
    context.enable_progress_bars = False
    # The listing waits most of the time; with a core of its own it would keep it from those that work.
    listed = ray.data.read_datasource(_listing(ray, todo, recipe.folder), override_num_blocks=1, num_cpus=0)
    decoded = listed.map_batches(
        functools.partial(_decode, recipe),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=1,
        compute=ray.data.TaskPoolStrategy(),
    )
    return decoded.map_batches(
        _Embedder,
        fn_constructor_args=(recipe,),
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=cluster.cores,
        num_gpus=cluster.gpus or None,
        compute=ray.data.ActorPoolStrategy(size=cluster.workers),
    )


@dataclass(frozen=True)
class _Recipe:
    """All that a worker needs to make the stages anew."""

    folder: str
    artifact: Path
    precision: Precision
    options: SessionOptions
    image_options: ImageOptions
    job: EmbedJob

    @classmethod
    def of(cls, stages: Stages) -> _Recipe:
        model, cores = stages.model, stages.job.cluster.cores
        artifact = model.artifact.folder.resolve()
        options = replace(model.options, threads=model.options.threads or cores)  # a worker has that many to itself
        return cls(os.getcwd(), artifact, model.precision, options, model.images.options, stages.job)


@functools.cache
def _stages(recipe: _Recipe) -> Stages:
    os.chdir(recipe.folder)  # names of images are relative to where the command was given
    model = Siglip(Artifact.open(recipe.artifact), recipe.precision, recipe.options, recipe.image_options)
    return Stages(model, recipe.job)


def _listing(ray: Any, todo: Missing, folder: str) -> Any:
    """A source that lists chunks in one task, which streams them."""

    def read() -> Iterator[Any]:
        os.chdir(folder)
        for chunk in todo:
            yield _row(
                chunk=chunk.number,
                digest=chunk.digest,
                items=msgspec.msgpack.encode([_packed(item) for item in chunk.items]),
            )

    class Listing(ray.data.Datasource):  # type: ignore[misc]
        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *others: Any, **more: Any) -> list[Any]:
            unknown = ray.data.block.BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [ray.data.ReadTask(read, unknown)]

    return Listing()


def _decode(recipe: _Recipe, batch: Any) -> Any:
    stages, row = _stages(recipe), batch.to_pylist()[0]
    items = map(_item, msgspec.msgpack.decode(row["items"], type=list[_Listed]))
    return _row(
        chunk=row["chunk"],
        digest=row["digest"],
        items=msgspec.msgpack.encode([_decoded(stages.prepare(item)) for item in items]),
    )


class _Embedder:
    """An actor that holds a model."""

    def __init__(self, recipe: _Recipe) -> None:
        self._stages = _stages(recipe)

    def __call__(self, batch: Any) -> Any:
        row, arrow = batch.to_pylist()[0], import_pyarrow()[0]
        items = [self._prepared(item) for item in msgspec.msgpack.decode(row["items"], type=list[_Decoded])]
        table, sink = self._stages.chunk(items), arrow.BufferOutputStream()
        with arrow.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return _row(chunk=row["chunk"], digest=row["digest"], rows=sink.getvalue().to_pybytes())

    def _prepared(self, decoded: _Decoded) -> PreparedItem:
        name, text, pixels, prompt, error, cut = decoded
        shaped = None if pixels is None else np.frombuffer(pixels[0], np.uint8).reshape(pixels[1])
        return PreparedItem(Item(name, text), prompt if shaped is None else shaped, error, cut)


def _packed(item: Item) -> _Listed:
    content = item.content
    return (
        item.id,
        content if isinstance(content, str) else None,
        content if isinstance(content, bytes) else None,
        (content.path, content.offset, content.size) if isinstance(content, FileSlice) else None,
        item.error,
    )


def _item(listed: _Listed) -> Item:
    name, text, data, member, error = listed
    return Item(name, FileSlice(*member) if member is not None else text if data is None else data, error)


def _decoded(one: PreparedItem) -> _Decoded:
    text = one.item.content if isinstance(one.item.content, str) else None
    pixels = (one.value.tobytes(), one.value.shape) if isinstance(one.value, np.ndarray) else None
    return one.item.id, text, pixels, one.value if isinstance(one.value, str) else None, one.error, one.cut


def _row(**cells: Any) -> Any:
    return import_pyarrow()[0].table({name: [value] for name, value in cells.items()})


def _ray(cluster: Cluster) -> Any:
    privacy.opt_out()
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ProviderError(f"Ray cannot be imported ({error}).", "Run: pip install 'siglip-onnx[ray]'.") from error
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    if cluster.address:
        _require_listener(cluster.address)
    if not ray.is_initialized():
        # A machine of its own gets one slot more than it has cores to embed with, or nothing would decode.
        cores = None if cluster.address else max(machine.cores(), cluster.workers * cluster.cores + 1)
        try:
            ray.init(
                address=cluster.address,
                num_cpus=cores,
                logging_level=logging.ERROR,
                log_to_driver=False,
                include_dashboard=False,
                runtime_env=_workers_environment(),
            )
        except Exception as error:  # Ray raises all kinds
            raise ProviderError(
                f"Ray cannot be started or reached at {cluster.address or 'this machine'} ({error}).",
                "Check the address, and that the cluster has this version of Ray.",
            ) from error
    return ray


def _workers_environment() -> dict[str, dict[str, str]]:
    """What the user has chosen here, for workers on other machines; Ray refuses to set what a submitted job sets."""
    return {} if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else {"env_vars": privacy.choices()}


def _require_listener(address: str) -> None:
    """Refuse an address at which nobody listens; Ray itself would try for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():
        return  # such as `auto`, which Ray looks up on this machine
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise ProviderError(
            f"Ray cannot be reached at {address} ({error.strerror or error}).", "Check the address: `ray status`."
        ) from error


def _told(ray: Any, error: Exception) -> SiglipOnnxError:
    """The error that a worker met: ours as it was, others in a sentence."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SiglipOnnxError) and not isinstance(cause, ray.exceptions.RayError):
            return cause  # Ray's own error is of both kinds, without the words of ours
        cause = getattr(cause, "cause", None) or cause.__cause__
    return ProviderError(
        f"Ray gave up: {str(error).strip().splitlines()[-1]}",
        "What was done is kept: mend what is wrong and run the same command again.",
    )
