"""Pure measurements on arrays, in float64. None of them hides a NaN: it comes out as NaN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Array = NDArray[Any]


def unit(rows: Array) -> Floats:
    """Rows scaled to length 1, float64; a row of zeros becomes NaN."""
    rows = rows.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def row_cosines(ours: Array, reference: Array) -> Floats:
    """Cosine of each row of [n, d] with the same row of the reference, [n]."""
    return np.asarray((unit(ours) * unit(reference)).sum(1))


def centred_cosines(ours: Array, reference: Array) -> Floats:
    """Row cosines of the unit rows after the reference's mean is taken off both.

    Embeddings of a tower share a large common part, which makes raw cosines flatter every error.
    """
    mean = unit(reference).mean(0)
    return row_cosines(unit(ours) - mean, unit(reference) - mean)


def relative_error(ours: Array, reference: Array) -> float:
    """Largest difference of an element, relative to the reference's largest element."""
    reference = reference.astype(np.float64)
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def lowest(values: Floats, share: float) -> float:
    """The value that a share of `values` lies below; the smallest for share 0, NaN if any is NaN."""
    return float(np.quantile(values, share, method="lower"))


def line_fit(ours: Array, reference: Array) -> tuple[float, float]:
    """Slope and mean offset of our values over the reference's (least squares); slope is NaN where these are equal."""
    x, y = reference.astype(np.float64).ravel(), ours.astype(np.float64).ravel()
    spread = x - x.mean()
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = np.float64((spread * (y - y.mean())).sum()) / (spread * spread).sum()
    return float(slope), float((y - x).mean())


def residual_sigma(ours: Array, reference: Array) -> float:
    """Standard deviation of what is left of the differences once offset and slope are taken off."""
    slope, _ = line_fit(ours, reference)
    x, y = reference.astype(np.float64), ours.astype(np.float64)
    return float((y - y.mean() - slope * (x - x.mean())).std())


def logits(images: Array, texts: Array, scale: float, bias: float) -> Floats:
    """Scale * cosine + bias of every picture and text, [images, texts]."""
    return np.asarray(unit(images) @ unit(texts).T * scale + bias)


def sigmoid(logits: Array) -> Floats:
    """1 / (1 + exp(-x)) without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -logits.astype(np.float64))))


@dataclass(frozen=True)
class Agreement:
    """How far two rankings agree.

    Attributes:
        top1: Share of rows whose best column is the reference's.
        topk: Mean share of the reference's k best columns among our k best.
        worst: The first row whose best column differs, or None.
    """

    top1: float
    topk: float
    worst: int | None


def agreement(ours: Array, reference: Array, k: int = 5, tie: float = 0.0) -> Agreement:
    """Agreement of the best columns of [rows, columns]; a row with a NaN agrees in nothing.

    Our best columns agree if the reference scores them no more than `tie` below its own.
    """
    k = min(k, reference.shape[1])
    best = np.argsort(-ours, axis=1, kind="stable")[:, :k]
    wanted = -np.sort(-reference, axis=1)[:, :k]
    scores = np.take_along_axis(reference, best, axis=1)
    sound = np.asarray(np.isfinite(ours).all(axis=1))
    same = (scores[:, 0] >= wanted[:, 0] - tie) & sound
    shared = (scores >= wanted[:, -1:] - tie) & sound[:, None]
    wrong = np.flatnonzero(~same)
    return Agreement(float(same.mean()), float(shared.mean()), int(wrong[0]) if len(wrong) else None)


def recall(scores: Array, truth: NDArray[np.bool_], k: int) -> float:
    """Share of rows of [rows, columns] with a true column among the k best; a row with a NaN has none.

    A false column with the score of the best true one counts as better than it.
    """
    return float(_found(scores, truth, k, 0.0).mean())


def recall_lost(ours: Array, reference: Array, truth: NDArray[np.bool_], k: int, tie: float = 0.0) -> float:
    """Share of rows that were found and are not, less those that are found and were not.

    A row counts where the one finds it by more than `tie` and the other misses it.
    """
    lost = _found(reference, truth, k, tie) & ~_found(ours, truth, k, 0.0)
    gained = _found(ours, truth, k, tie) & ~_found(reference, truth, k, 0.0)
    return float(lost.mean() - gained.mean())


def at_least_by_chance(hits: int, chances: Floats) -> float:
    """The probability of as many hits or more, when each is hit by its own chance (Poisson binomial)."""
    counts = np.zeros(len(chances) + 1)
    counts[0] = 1.0
    for chance in chances:
        counts[1:] = counts[1:] * (1 - chance) + counts[:-1] * chance
        counts[0] *= 1 - chance
    return float(counts[hits:].sum())


def _found(scores: Array, truth: NDArray[np.bool_], k: int, tie: float) -> NDArray[np.bool_]:
    """Rows with a true column among the k best even if every false one had `tie` more."""
    best_true = np.where(truth, scores, -np.inf).max(1)
    rivals = ((scores >= best_true[:, None] - tie) & ~truth).sum(1)
    return np.asarray((rivals < k) & truth.any(1) & np.isfinite(scores).all(1))
