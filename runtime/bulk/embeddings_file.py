"""The parquet file of embeddings: its schema, its metadata, and its rows as Arrow tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np

from ..arrays import AnyArray, FloatArray, IntArray
from ..data.parquet import import_pyarrow
from ..errors import InputError

METADATA_KEY: Final = b"siglip_onnx"
ROW_GROUP: Final = 8192


class VectorDtype(StrEnum):
    """Type of the numbers of an embedding in the file; int8 has a scale for each row."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"


@dataclass(frozen=True)
class About:
    """Metadata of an embeddings file, stored as JSON under the key `siglip_onnx`.

    Attributes:
        modality: `image` or `text`.
        model: The artifact's name.
        checkpoint: Identifier of the checkpoint: hashes of the fp32 graphs.
        identity: Identifier of the graph that computed the embeddings.
        artifact: The artifact's folder.
        precision: Precision of the graph.
        provider: Execution provider that ran the graph.
        dtype: Type of the numbers.
        size: Numbers in an embedding, which has length 1.
        scale: With `bias`: logit = scale * cosine + bias.
        bias: See `scale`.
        schema_version: Version of this metadata.
        rows: Number of rows.
        errors: Number of rows with an error instead of an embedding.
        truncated: Number of texts that are longer than the model reads.
    """

    modality: str
    model: str
    checkpoint: str
    identity: str
    artifact: str
    precision: str
    provider: str
    dtype: VectorDtype
    size: int
    scale: float
    bias: float
    schema_version: Literal[1] = 1
    rows: Annotated[int, msgspec.Meta(ge=0)] = 0
    errors: Annotated[int, msgspec.Meta(ge=0)] = 0
    truncated: Annotated[int, msgspec.Meta(ge=0)] = 0


def schema(about: About) -> Any:
    """The Arrow schema: id; text and truncated, for texts only; embedding; scale, for int8 only; error.

    Every row has either an embedding or an error.
    """
    arrow, _ = import_pyarrow()
    number = {"float32": arrow.float32(), "float16": arrow.float16(), "int8": arrow.int8()}[about.dtype]
    fields = [arrow.field("id", arrow.string(), nullable=False)]
    texts = [arrow.field("text", arrow.string()), arrow.field("truncated", arrow.bool_())]
    fields += texts if about.modality == "text" else []
    fields += [arrow.field("embedding", arrow.list_(number, about.size))]
    fields += [arrow.field("scale", arrow.float32())] if about.dtype is VectorDtype.INT8 else []
    return arrow.schema([*fields, arrow.field("error", arrow.string())])


def table(
    about: About,
    ids: Sequence[str],
    texts: Sequence[tuple[str | None, bool]],
    errors: Sequence[str | None],
    vectors: FloatArray,
) -> Any:
    """Rows as an Arrow table.

    Args:
        about: The file's metadata, which decides the columns.
        ids: Names of the rows.
        texts: For each row the text and whether it was truncated; ignored for images.
        errors: For each row its error; None for a row with an embedding.
        vectors: Embeddings of the rows without an error, float32 [rows without error, size], in order.
    """
    arrow, _ = import_pyarrow()
    bad = np.array([error is not None for error in errors])
    dense = np.zeros((len(ids), about.size), np.float32)
    dense[~bad] = vectors
    numbers, scales = pack(dense, about.dtype)
    columns: dict[str, Any] = {"id": arrow.array(map(_to_utf8, ids), arrow.string())}
    if about.modality == "text":
        columns["text"] = arrow.array((_to_utf8(text) for text, _ in texts), arrow.string())
        columns["truncated"] = arrow.array([truncated for _, truncated in texts])
    mask = arrow.array(bad)
    columns["embedding"] = arrow.FixedSizeListArray.from_arrays(arrow.array(numbers.ravel()), about.size, mask=mask)
    if about.dtype is VectorDtype.INT8:
        columns["scale"] = arrow.array(scales, mask=bad)
    columns["error"] = arrow.array(map(_to_utf8, errors), arrow.string())
    return arrow.table(columns, schema=schema(about))


def _to_utf8(text: str | None) -> str | None:
    r"""A text that UTF-8 can encode; invalid bytes, which a file name on Linux may have, are written as `\udcxx`."""
    return text if text is None else text.encode("utf-8", "backslashreplace").decode()


def pack(vectors: FloatArray, dtype: VectorDtype) -> tuple[AnyArray, FloatArray]:
    """Convert vectors, float32 [rows, size], to a type; returns them and the scale of each row, float32 [rows].

    The scale is 1 except for int8, where vector = numbers * scale.
    """
    if dtype is not VectorDtype.INT8:
        return vectors.astype(dtype), np.ones(len(vectors), np.float32)
    scales = np.maximum(np.abs(vectors).max(axis=1), np.finfo(np.float32).tiny) / np.float32(127)
    return np.rint(vectors / scales[:, None]).astype(np.int8), scales.astype(np.float32)


def unpack(batch: Any, about: About) -> tuple[IntArray, FloatArray]:
    """The rows with an embedding in a batch of a file, int64 [rows], and the embeddings, float32 [rows, size]."""
    column = batch.column("embedding")
    rows = np.flatnonzero(np.asarray(column.is_valid())).astype(np.int64)
    numbers = np.asarray(column.flatten()).reshape(-1, about.size)
    if len(numbers) != len(rows):  # some versions of pyarrow keep nulls in flatten()
        numbers = numbers[rows]
    vectors = numbers.astype(np.float32)
    if about.dtype is VectorDtype.INT8:
        vectors *= np.asarray(batch.column("scale"))[rows].astype(np.float32)[:, None]
    return rows, vectors


def read_about(path: str) -> About:
    """Read the metadata of an embeddings file.

    Raises:
        InputError: The file does not exist, is not parquet, or was not written by `siglip-onnx embed`.
        ProviderError: pyarrow is not installed.
    """
    arrow, parquet = import_pyarrow()
    try:
        metadata = parquet.read_metadata(path).metadata or {}
    except (OSError, arrow.ArrowException) as error:
        raise InputError(f"{path} cannot be read as parquet ({error}).", "Name a file that `embed` wrote.") from error
    try:
        return msgspec.json.decode(metadata[METADATA_KEY], type=About)
    except (KeyError, msgspec.DecodeError) as error:
        raise InputError(
            f"{path} has no metadata of siglip-onnx ({error}).", "Name a file that `embed` wrote."
        ) from error
