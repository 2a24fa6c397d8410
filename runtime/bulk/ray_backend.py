"""The stages of `embed` as Ray Data operators: one task lists, tasks decode, actors embed, and this process writes.

A chunk travels as one row. If a worker dies, Ray runs its chunks again, and no others. The listing is a streaming task
under backpressure, so only a few chunks are in memory at once. If decoding and embedding need the same resources (a
core each), Ray runs both in the actor, which saves moving pixels.
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
from ..engines import host
from ..engines.options import SessionOptions
from ..errors import ProviderError, SiglipOnnxError
from ..model import Siglip
from ..preprocessing.image import ImageOptions
from .inputs import Item
from .job import Cluster, EmbedJob
from .part_files import DoneChunk, Missing
from .stages import PreparedItem, Stages

# A listed item as a message: id; path or text, or bytes, or file slice (path, offset, size), or error.
_ListedMessage = tuple[str, str | None, bytes | None, tuple[str, int, int] | None, str | None]
# A decoded item as a message: id; text; pixels (bytes, shape), or prompt, or error; whether the text is truncated.
_DecodedMessage = tuple[str, str | None, tuple[bytes, tuple[int, ...]] | None, str | None, str | None, bool]


def run_on_ray(stages: Stages, missing: Missing) -> Iterator[DoneChunk]:
    """Every missing chunk with its rows, in the order of completion.

    Raises:
        ProviderError: Ray is not installed or cannot be reached, or a worker failed for good.
    """
    ray = _ray(stages.job.cluster)
    recipe, arrow = _Recipe.of(stages), import_pyarrow()[0]
    try:
        for row in _dataset(ray, recipe, missing, stages.job.cluster).iter_rows():
            yield DoneChunk(row["chunk"], row["digest"], arrow.ipc.open_stream(row["rows"]).read_all())
    except ray.exceptions.RayError as error:
        raise _user_error(ray, error) from error


def _dataset(ray: Any, recipe: _Recipe, missing: Missing, cluster: Cluster) -> Any:
    context = ray.data.DataContext.get_current()
    context.target_max_block_size = 1  # bytes, so that each chunk is a block and a task of its own
    context.enable_progress_bars = False
    # The listing waits most of the time, so it does not reserve a core that decoding could use.
    listed = ray.data.read_datasource(_listing(ray, missing, recipe.folder), override_num_blocks=1, num_cpus=0)
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
    """Everything that a worker needs to build the stages."""

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
        options = replace(
            model.options, threads=model.options.threads or cores
        )  # each worker has this many cores to itself
        return cls(os.getcwd(), artifact, model.precision, options, model.images.options, stages.job)


@functools.cache
def _stages(recipe: _Recipe) -> Stages:
    os.chdir(recipe.folder)  # paths of inputs are relative to the folder of the command
    model = Siglip(Artifact.open(recipe.artifact), recipe.precision, recipe.options, recipe.image_options)
    return Stages(model, recipe.job)


def _listing(ray: Any, missing: Missing, folder: str) -> Any:
    """A Ray data source that lists the chunks in one streaming task."""

    def read() -> Iterator[Any]:
        os.chdir(folder)
        for chunk in missing:
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
    items = map(_item, msgspec.msgpack.decode(row["items"], type=list[_ListedMessage]))
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
        items = [self._prepared(item) for item in msgspec.msgpack.decode(row["items"], type=list[_DecodedMessage])]
        table, sink = self._stages.embed_chunk(items), arrow.BufferOutputStream()
        with arrow.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        return _row(chunk=row["chunk"], digest=row["digest"], rows=sink.getvalue().to_pybytes())

    def _prepared(self, message: _DecodedMessage) -> PreparedItem:
        name, text, pixels, prompt, error, truncated = message
        image = None if pixels is None else np.frombuffer(pixels[0], np.uint8).reshape(pixels[1])
        return PreparedItem(Item(name, text), prompt if image is None else image, error, truncated)


def _packed(item: Item) -> _ListedMessage:
    content = item.content
    return (
        item.id,
        content if isinstance(content, str) else None,
        content if isinstance(content, bytes) else None,
        (content.path, content.offset, content.size) if isinstance(content, FileSlice) else None,
        item.error,
    )


def _item(message: _ListedMessage) -> Item:
    name, text, data, place, error = message
    return Item(name, FileSlice(*place) if place is not None else text if data is None else data, error)


def _decoded(one: PreparedItem) -> _DecodedMessage:
    text = one.item.content if isinstance(one.item.content, str) else None
    pixels = (one.value.tobytes(), one.value.shape) if isinstance(one.value, np.ndarray) else None
    return one.item.id, text, pixels, one.value if isinstance(one.value, str) else None, one.error, one.truncated


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
        # A cluster started here gets one slot more than its workers take, or nothing would decode.
        cores = None if cluster.address else max(host.cores(), cluster.workers * cluster.cores + 1)
        try:
            ray.init(
                address=cluster.address,
                num_cpus=cores,
                logging_level=logging.ERROR,
                log_to_driver=False,
                include_dashboard=False,
                runtime_env=_workers_environment(),
            )
        except Exception as error:  # Ray raises errors of many types
            raise ProviderError(
                f"Ray cannot be started or reached at {cluster.address or 'this machine'} ({error}).",
                "Check the address, and that the cluster runs this version of Ray.",
            ) from error
    return ray


def _workers_environment() -> dict[str, dict[str, str]]:
    """Privacy settings of this process for the workers; empty in a submitted job, where Ray refuses to set them."""
    return {} if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ else {"env_vars": privacy.choices()}


def _require_listener(address: str) -> None:
    """Refuse an address that does not accept connections; Ray itself would retry for minutes."""
    hostname, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdecimal():
        return  # such as `auto`, which Ray resolves on this machine
    try:
        socket.create_connection((hostname.strip("[]"), int(port)), timeout=10).close()
    except OSError as error:
        raise ProviderError(
            f"Ray cannot be reached at {address} ({error.strerror or error}).", "Check the address with `ray status`."
        ) from error


def _user_error(ray: Any, error: Exception) -> SiglipOnnxError:
    """The error of a worker: a SiglipOnnxError as it is, any other as a ProviderError."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, SiglipOnnxError) and not isinstance(cause, ray.exceptions.RayError):
            return cause  # an error of both types is Ray's wrapper, without our message
        cause = getattr(cause, "cause", None) or cause.__cause__
    return ProviderError(
        f"Ray stopped: {str(error).strip().splitlines()[-1]}",
        "Fix the cause and run the same command again; finished rows are kept.",
    )
