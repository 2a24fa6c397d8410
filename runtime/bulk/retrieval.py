"""Exact search in an embeddings file of any size, one batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from ..arrays import FloatArray, IntArray
from ..data.parquet import import_pyarrow
from ..engines.options import SessionOptions
from ..errors import InputError
from ..model import Siglip
from ..preprocessing.image import ImageInput
from ..vectors import sigmoid
from .embeddings_file import About, read_about, unpack
from .inputs import Modality
from .stages import checkpoint_of

_BATCH: Final = 8192  # rows compared at a time: 32 MB at 1024 numbers


@dataclass(frozen=True)
class Hit:
    """A row of an embeddings file that is similar to a query.

    Attributes:
        id: Name of the row.
        cosine: Cosine similarity of the row and the query.
        probability: Probability that image and text match; None if both are texts or both images, for which the model
            defines none.
        text: The row's text; None for an image.
    """

    id: str
    cosine: float
    probability: float | None
    text: str | None = None


def search(
    queries: Sequence[str] | Sequence[ImageInput],
    file: str | Path,
    *,
    modality: Modality = Modality.TEXT,
    top: int = 10,
    model: Siglip | None = None,
    options: SessionOptions | None = None,
) -> list[list[Hit]]:
    """The rows of a file that are most similar to each query, best first.

    Args:
        queries: Texts, or images as `Siglip.encode_image` takes them.
        file: A file that `embed` wrote.
        modality: Whether the queries are texts or images.
        top: Number of rows for each query.
        model: The model that embeds the queries; by default the artifact that the file names, at its precision.
        options: Session options of the default model.

    >>> best = search(["a bear"], output)[0][0]  # in a file that `embed` wrote
    >>> best.id == image
    True

    Raises:
        InputError: The file cannot be used, or the model has another checkpoint.
    """
    about = read_about(str(file))
    if top < 1:
        raise InputError(f"top must be at least 1, got {top}.", "Ask for at least one row.")
    chosen = model or _load(about, options)
    if checkpoint_of(chosen) != about.checkpoint:
        raise InputError(
            f"{file} was embedded with another checkpoint (model {about.model}) than {chosen.artifact.folder}.",
            "Name the artifact that embedded the file.",
        )
    embedded = _embed_queries(chosen, queries, modality)
    cosines, rows = nearest(embedded, vectors(str(file), about), top)
    cells, has_probability = _read_rows(str(file), about, rows), modality != about.modality
    return [
        [_hit(cells[int(r)], float(c), about, has_probability) for c, r in zip(*query, strict=True) if r >= 0]
        for query in zip(cosines, rows, strict=True)
    ]


def _embed_queries(model: Siglip, queries: Sequence[Any], modality: Modality) -> FloatArray:
    return model.encode_text(queries) if modality is Modality.TEXT else model.encode_image(queries)


def vectors(file: str, about: About) -> Iterator[tuple[IntArray, FloatArray]]:
    """The row numbers, int64 [rows], and embeddings, float32 [rows, size], of a file, one batch at a time."""
    _, parquet = import_pyarrow()
    columns = ["embedding", "scale"] if about.dtype == "int8" else ["embedding"]
    with parquet.ParquetFile(file) as opened:
        start = 0
        for batch in opened.iter_batches(_BATCH, columns=columns):
            rows, embeddings = unpack(batch, about)
            yield rows + start, embeddings
            start += batch.num_rows


def nearest(
    queries: FloatArray, batches: Iterator[tuple[IntArray, FloatArray]], top: int
) -> tuple[FloatArray, IntArray]:
    """The largest cosines, float32 [queries, top], and their row numbers, int64 [queries, top].

    Row numbers are -1 if there are fewer than `top` rows. Equal cosines are sorted by row number.
    """
    best = np.full((len(queries), top), -np.inf, np.float32)
    best_rows = np.full((len(queries), top), -1, np.int64)
    largest = _largest()
    for rows, embeddings in batches:
        cosines, indices = largest(queries, embeddings, min(top, len(rows)))
        best, best_rows = np.hstack([best, cosines]), np.hstack([best_rows, rows[indices]])
        order = np.lexsort((best_rows, -best), axis=1)[:, :top]
        best, best_rows = np.take_along_axis(best, order, 1), np.take_along_axis(best_rows, order, 1)
    return best, best_rows


def _largest() -> Any:
    """FAISS's exact search if it is installed, which needs no matrix of all cosines; else NumPy's."""
    try:
        import faiss
    except ImportError:
        return _largest_by_numpy
    return lambda queries, embeddings, top: faiss.knn(queries, embeddings, top, metric=faiss.METRIC_INNER_PRODUCT)


def _largest_by_numpy(queries: FloatArray, embeddings: FloatArray, top: int) -> tuple[FloatArray, IntArray]:
    cosines = queries @ embeddings.T
    indices = np.argpartition(-cosines, top - 1, axis=1)[:, :top]
    return np.take_along_axis(cosines, indices, 1), indices


def _read_rows(file: str, about: About, numbers: IntArray) -> dict[int, dict[str, Any]]:
    """Names and texts of some rows by row number; only their row groups are read."""
    _, parquet = import_pyarrow()
    rows, start = sorted({int(number) for number in numbers.ravel() if number >= 0}), 0
    cells: dict[int, dict[str, Any]] = {}
    columns = ["id", "text"] if about.modality == Modality.TEXT else ["id"]
    with parquet.ParquetFile(file) as opened:
        for group in range(opened.num_row_groups):
            count = opened.metadata.row_group(group).num_rows
            in_group = [row for row in rows if start <= row < start + count]
            if in_group:
                table = opened.read_row_group(group, columns=columns).take([row - start for row in in_group])
                cells |= dict(zip(in_group, table.to_pylist(), strict=True))
            start += count
    return cells


def _hit(row: dict[str, Any], cosine: float, about: About, has_probability: bool) -> Hit:
    logit = np.float32(about.scale * cosine + about.bias)
    return Hit(row["id"], cosine, float(sigmoid(np.array(logit))) if has_probability else None, row.get("text"))


def _load(about: About, options: SessionOptions | None) -> Siglip:
    if not Path(about.artifact).is_dir():
        raise InputError(f"The artifact {about.artifact} does not exist.", "Name the artifact that embedded the file.")
    return Siglip.load(about.artifact, about.precision, about.provider, options=options)
