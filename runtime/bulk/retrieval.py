"""Exact search in an embeddings file, of any size, row group by row group."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..data.parquet import import_pyarrow
from ..engines.options import SessionOptions
from ..errors import InputError
from ..model import Siglip
from ..preprocessing.image import ImageInput
from ..vectors import sigmoid
from .embeddings_file import About, read_about, unpack
from .inputs import Modality
from .job import checkpoint_of

Floats = NDArray[np.float32]
Places = NDArray[np.int64]
_BATCH: Final = 8192  # rows compared at a time: 32 MB at 1024 numbers


@dataclass(frozen=True)
class Hit:
    """A row that was found.

    Attributes:
        id: Its name.
        cosine: Of its vector and the query's.
        probability: That image and text belong together; None where both are texts or both images, for which the
            model has none.
        text: Of a text.
    """

    id: str
    cosine: float
    probability: float | None
    text: str | None = None


def search(
    queries: Sequence[str] | Sequence[ImageInput],
    file: str | Path,
    *,
    kind: Modality = Modality.TEXT,
    top: int = 10,
    model: Siglip | None = None,
    options: SessionOptions | None = None,
) -> list[list[Hit]]:
    """The rows of a file that are most similar to each query, best first.

    Args:
        queries: Texts, or images as `Siglip.encode_image` takes them.
        file: What `embed` has written.
        kind: What the queries are.
        top: How many rows each.
        model: The model that embeds the queries; by default the artifact that the file names, at its precision.
        options: How that one is loaded.

    >>> best = search(["a bear"], output)[0][0]  # in what `embed` has written
    >>> best.id == image
    True

    Raises:
        InputError: The file cannot be used, or the model is of another checkpoint.
    """
    about = read_about(str(file))
    if top < 1:
        raise InputError(f"{top} hits cannot be shown.", "Use at least 1.")
    chosen = model or _load(about, options)
    if checkpoint_of(chosen) != about.checkpoint:
        raise InputError(
            f"{file} was made with another checkpoint than {chosen.artifact.folder} (its model was {about.model}).",
            "Name the artifact that it was made with.",
        )
    wanted: Floats = chosen.encode_text(queries) if kind is Modality.TEXT else chosen.encode_image(queries)  # type: ignore[arg-type]
    cosines, places = nearest(wanted, vectors(str(file), about), top)
    found = _rows(str(file), about, places)
    crossing = kind != about.kind
    return [[_hit(found[int(p)], float(c), about, crossing) for c, p in zip(*row, strict=True) if p >= 0]
            for row in zip(cosines, places, strict=True)]  # fmt: skip


def vectors(file: str, about: About) -> Iterator[tuple[Places, Floats]]:
    """The vectors of a file, float32 [rows, size], with the numbers of their rows; a batch at a time."""
    _, parquet = import_pyarrow()
    columns = ["embedding", "scale"] if about.vectors == "int8" else ["embedding"]
    with parquet.ParquetFile(file) as opened:
        start = 0
        for batch in opened.iter_batches(_BATCH, columns=columns):
            places, rows = unpack(batch, about)
            yield places.astype(np.int64) + start, rows
            start += batch.num_rows


def nearest(queries: Floats, batches: Iterator[tuple[Places, Floats]], top: int) -> tuple[Floats, Places]:
    """The largest cosines, float32 [queries, top], and their rows; -1 where there are fewer rows. Equal ones by row."""
    best, where = np.full((len(queries), top), -np.inf, np.float32), np.full((len(queries), top), -1, np.int64)
    largest = _largest()
    for places, rows in batches:
        cosines, found = largest(queries, rows, min(top, len(rows)))
        best, where = np.hstack([best, cosines]), np.hstack([where, places[found]])
        order = np.lexsort((where, -best), axis=1)[:, :top]
        best, where = np.take_along_axis(best, order, 1), np.take_along_axis(where, order, 1)
    return best, where


def _largest() -> Any:
    """FAISS's exact search where it is installed, which keeps no matrix of all cosines; else NumPy's."""
    try:
        import faiss
    except ImportError:
        return _largest_by_numpy
    return lambda queries, rows, top: faiss.knn(queries, rows, top, metric=faiss.METRIC_INNER_PRODUCT)


def _largest_by_numpy(queries: Floats, rows: Floats, top: int) -> tuple[Floats, Places]:
    cosines = queries @ rows.T
    found = np.argpartition(-cosines, top - 1, axis=1)[:, :top]
    return np.take_along_axis(cosines, found, 1), found


def _rows(file: str, about: About, places: Places) -> dict[int, dict[str, Any]]:
    """Names and texts of those rows, read from their row groups alone."""
    _, parquet = import_pyarrow()
    due, start = sorted({int(place) for place in places.ravel() if place >= 0}), 0
    found: dict[int, dict[str, Any]] = {}
    columns = ["id", "text"] if about.kind == Modality.TEXT else ["id"]
    with parquet.ParquetFile(file) as opened:
        for group in range(opened.num_row_groups):
            count = opened.metadata.row_group(group).num_rows
            here = [place for place in due if start <= place < start + count]
            if here:
                taken = opened.read_row_group(group, columns=columns).take([place - start for place in here])
                found |= dict(zip(here, taken.to_pylist(), strict=True))
            start += count
    return found


def _hit(row: dict[str, Any], cosine: float, about: About, crossing: bool) -> Hit:
    logit = np.float32(about.scale * cosine + about.bias)
    return Hit(row["id"], cosine, float(sigmoid(np.array(logit))) if crossing else None, row.get("text"))


def _load(about: About, options: SessionOptions | None) -> Siglip:
    if not Path(about.artifact).is_dir():
        raise InputError(f"The artifact {about.artifact} is not there any more.", "Name it with --artifact.")
    return Siglip.load(about.artifact, about.precision, about.provider, options=options)
