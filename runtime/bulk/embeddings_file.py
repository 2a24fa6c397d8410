"""Rows of embeddings as Arrow tables, and the schema of the files that hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from ..data.parquet import import_pyarrow
from ..errors import InputError

METADATA_KEY: Final = b"siglip_onnx"
ROW_GROUP: Final = 8192


class VectorDtype(StrEnum):
    """How a number of an embedding is kept; int8 comes with a scale for each row."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"


@dataclass(frozen=True)
class About:
    """What an embeddings file says of itself, as JSON under `siglip_onnx` in its metadata.

    Attributes:
        kind: `image` or `text`.
        model: The artifact's name.
        checkpoint: What tells the checkpoint from every other; the hash of the fp32 graphs.
        identity: What tells the graph that made the vectors from every other.
        artifact: Where the artifact was.
        size: Numbers in a vector, which has length 1.
        scale: With `bias`, logit = scale * cosine + bias.
        cut: How many texts the model did not read to their end.
    """

    kind: str
    model: str
    checkpoint: str
    identity: str
    artifact: str
    precision: str
    provider: str
    vectors: VectorDtype
    size: int
    scale: float
    bias: float
    schema_version: Literal[1] = 1
    rows: Annotated[int, msgspec.Meta(ge=0)] = 0
    errors: Annotated[int, msgspec.Meta(ge=0)] = 0
    cut: Annotated[int, msgspec.Meta(ge=0)] = 0


def schema(about: About) -> Any:
    """Columns: id; text, and whether its end was cut off (of texts); embedding; scale, float32 (of int8); error.

    Where there is an error there is no embedding, and the other way round.
    """
    arrow, _ = import_pyarrow()
    number = {"float32": arrow.float32(), "float16": arrow.float16(), "int8": arrow.int8()}[about.vectors]
    fields = [arrow.field("id", arrow.string(), nullable=False)]
    texts = [arrow.field("text", arrow.string()), arrow.field("cut", arrow.bool_())]
    fields += texts if about.kind == "text" else []
    fields += [arrow.field("embedding", arrow.list_(number, about.size))]
    fields += [arrow.field("scale", arrow.float32())] if about.vectors is VectorDtype.INT8 else []
    return arrow.schema([*fields, arrow.field("error", arrow.string())])


def table(
    about: About,
    ids: Sequence[str],
    texts: Sequence[tuple[str | None, bool]],
    errors: Sequence[str | None],
    vectors: NDArray[np.float32],
) -> Any:
    """Rows as a table.

    Args:
        about: What decides the columns.
        ids: Their names.
        texts: Of texts, and whether their end was cut off.
        errors: Why there is no vector, or None where there is one.
        vectors: float32 [rows without error, size], in order.
    """
    arrow, _ = import_pyarrow()
    bad = np.array([error is not None for error in errors])
    dense = np.zeros((len(ids), about.size), np.float32)
    dense[~bad] = vectors
    numbers, scales = pack(dense, about.vectors)
    columns: dict[str, Any] = {"id": arrow.array(map(_written, ids), arrow.string())}
    if about.kind == "text":
        columns["text"] = arrow.array((_written(text) for text, _ in texts), arrow.string())
        columns["cut"] = arrow.array([cut for _, cut in texts])
    mask = arrow.array(bad)
    columns["embedding"] = arrow.FixedSizeListArray.from_arrays(arrow.array(numbers.ravel()), about.size, mask=mask)
    if about.vectors is VectorDtype.INT8:
        columns["scale"] = arrow.array(scales, mask=bad)
    columns["error"] = arrow.array(map(_written, errors), arrow.string())
    return arrow.table(columns, schema=schema(about))


def _written(text: str | None) -> str | None:
    r"""A name or text as UTF-8 can hold it: a file's name, on Linux, may be any bytes, and is written with `\udcxx`."""
    return text if text is None else text.encode("utf-8", "backslashreplace").decode()


def pack(vectors: NDArray[np.float32], kind: VectorDtype) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Vectors [rows, size] in their type, and for int8 the scale of each row, by which its numbers are multiplied."""
    if kind is not VectorDtype.INT8:
        return vectors.astype(kind), np.ones(len(vectors), np.float32)
    scales = np.maximum(np.abs(vectors).max(axis=1), np.finfo(np.float32).tiny) / np.float32(127)
    return np.rint(vectors / scales[:, None]).astype(np.int8), scales.astype(np.float32)


def unpack(batch: Any, about: About) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """The places of the rows with a vector in a batch of a file, and the vectors, float32 [rows, size]."""
    column = batch.column("embedding")
    places = np.flatnonzero(np.asarray(column.is_valid()))
    numbers = np.asarray(column.flatten()).reshape(-1, about.size)
    if len(numbers) != len(places):  # depends on the version whether flatten leaves out what is null
        numbers = numbers[places]
    vectors = numbers.astype(np.float32)
    if about.vectors is VectorDtype.INT8:
        vectors *= np.asarray(batch.column("scale"))[places].astype(np.float32)[:, None]
    return places, vectors


def read_about(path: str) -> About:
    """What an embeddings file says of itself.

    Raises:
        InputError: It is not there, is no parquet file, or was not written by `siglip-onnx embed`.
    """
    arrow, parquet = import_pyarrow()
    try:
        metadata = parquet.read_metadata(path).metadata or {}
    except (OSError, arrow.ArrowException) as error:
        raise InputError(f"{path} cannot be read as parquet ({error}).", "Name what `embed` has written.") from error
    try:
        return msgspec.json.decode(metadata[METADATA_KEY], type=About)
    except (KeyError, msgspec.DecodeError) as error:
        raise InputError(
            f"{path} does not say how its vectors were made ({error}).", "Name what `embed` has written."
        ) from error
