"""Pure measurements on arrays, in float64. None of them hides a NaN: it comes out as NaN."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Array = NDArray[Any]


def unit_rows(rows: Array) -> Floats:
    """Rows scaled to length 1, float64; a row of zeros becomes NaN."""
    rows = rows.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def row_cosines(ours: Array, reference: Array) -> Floats:
    """Cosine of each row of [n, d] with the same row of the reference, [n]."""
    return np.asarray((unit_rows(ours) * unit_rows(reference)).sum(1))


def centered_cosines(ours: Array, reference: Array, mean: Array | None = None) -> Floats:
    """Row cosines of the unit rows after a mean, that of the reference's unit rows, is taken off both.

    Embeddings of a tower share a large common part, which makes raw cosines flatter every error.
    """
    mean = unit_rows(reference).mean(0) if mean is None else mean
    return row_cosines(unit_rows(ours) - mean, unit_rows(reference) - mean)


def relative_error(ours: Array, reference: Array) -> float:
    """Largest difference of an element, relative to the reference's largest element."""
    reference = reference.astype(np.float64)
    return float(np.abs(ours - reference).max() / np.abs(reference).max())


def lower_quantile(values: Floats, share: float) -> float:
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
    """Scale * cosine + bias of every image and text, [images, texts]."""
    return np.asarray(unit_rows(images) @ unit_rows(texts).T * scale + bias)


def sigmoid(logits: Array) -> Floats:
    """1 / (1 + exp(-x)) without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -logits.astype(np.float64))))


BUCKETS: Final = (0.0, 0.01, 0.1, 0.5, 0.9, 1.0)  # of the reference's probability, the last one with its end
_BINS: Final = 15  # of the expected calibration error, as in Guo et al. 2017, https://arxiv.org/abs/1706.04599


def drift_by_bucket(ours: Array, reference: Array) -> dict[str, tuple[float, int]]:
    """Largest difference of probabilities and how many there are, by bucket of the reference's; none for empty ones."""
    drift, found = np.abs(ours - reference), {}
    bucket = np.searchsorted(BUCKETS[1:-1], reference, side="right")
    for i, (low, high) in enumerate(itertools.pairwise(BUCKETS)):
        inside = drift[bucket == i]
        if inside.size:
            found[f"{low:g} to {high:g}"] = (float(inside.max()), inside.size)
    return found


@dataclass(frozen=True)
class Flips:
    """Places where two arrays of logits decide otherwise.

    Attributes:
        share: Of the places where one of them says yes.
        margins: How far the reference was from the threshold in each of them, largest first.
    """

    share: float
    margins: tuple[float, ...]


def flips(ours: Array, reference: Array, threshold: float, tie: float = 0.0) -> Flips:
    """Decisions at a threshold (a logit) that come out otherwise; a NaN is always one.

    Places where the reference is within a tie of the threshold do not count. The share is of those where one of both
    says yes: nearly all pairs are a no, and would make every share small.
    """
    changed = (ours >= threshold) != (reference >= threshold)
    margin = np.abs(reference - threshold)
    wrong = (changed & (margin > tie)) | ~np.isfinite(ours)
    yes = (reference >= threshold) | (ours >= threshold) | wrong
    return Flips(float(wrong.sum() / max(yes.sum(), 1)), tuple(-np.sort(-margin[wrong]).astype(float)))


def calibration_error(probabilities: Array, truth: NDArray[np.bool_], reference: Array) -> float:
    """Expected calibration error of [rows] probabilities: how far they are from the share that is true, in 15 bins.

    The bins are of the reference's probabilities, so that a row that crosses an edge by a hair changes nothing.
    """
    place = np.minimum((reference * _BINS).astype(int), _BINS - 1)
    gap = np.bincount(place, probabilities - truth, _BINS)
    return float(np.abs(gap).sum() / truth.size)


@dataclass(frozen=True)
class Agreement:
    """How far two rankings agree.

    Attributes:
        top1: Share of rows whose best column is the reference's.
        topk: Mean share of the reference's k best columns among our k best.
        order: Share of pairs among the reference's ten best that stand in its order, ties left out.
        worst: The first row whose best column differs, or None.
        margins: How much better the reference scores its best column than ours, of each such row, largest first.
    """

    top1: float
    topk: float
    order: float
    worst: int | None
    margins: tuple[float, ...]


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
    margins = tuple(-np.sort(scores[wrong, 0] - wanted[wrong, 0]).astype(float))
    first = int(wrong[0]) if len(wrong) else None
    return Agreement(float(same.mean()), float(shared.mean()), _order(ours, reference, tie), first, margins)


def _order(ours: Array, reference: Array, tie: float, k: int = 10) -> float:
    """Share of the reference's pairs of best columns that differ by more than a tie and that we order as it does."""
    best = np.argsort(-reference, axis=1, kind="stable")[:, :k]
    theirs, found = (np.take_along_axis(x, best, axis=1) for x in (reference, ours))
    counted = theirs[:, :, None] - theirs[:, None, :] > tie
    kept = counted & (found[:, :, None] > found[:, None, :])
    return float(kept.sum() / counted.sum()) if counted.any() else 1.0


def nontrivial_rows(truth: NDArray[np.bool_], k: int) -> NDArray[np.bool_]:
    """Rows of [rows, columns] that can miss a true column among their k best: they have one, and k false ones."""
    return np.asarray(truth.any(1) & ((~truth).sum(1) >= k))


def recall(scores: Array, truth: NDArray[np.bool_], k: int) -> float:
    """Share of rows of [rows, columns] with a true column among the k best; a row with a NaN has none.

    A false column with the score of the best true one counts as better than it.
    """
    return float(hits(scores, truth, k, 0.0).mean())


def recall_lost(ours: Array, reference: Array, truth: NDArray[np.bool_], k: int, tie: float = 0.0) -> float:
    """Share of rows that were found and are not, less those that are found and were not.

    A row counts where the one finds it by more than `tie` and the other misses it.
    """
    lost = hits(reference, truth, k, tie) & ~hits(ours, truth, k, 0.0)
    gained = hits(ours, truth, k, tie) & ~hits(reference, truth, k, 0.0)
    return float(lost.mean() - gained.mean())


def poisson_binomial_tail(hits: int, chances: Floats) -> float:
    """The probability of as many hits or more, when each is hit by its own chance (Poisson binomial)."""
    counts = np.zeros(len(chances) + 1)
    counts[0] = 1.0
    for chance in chances:
        counts[1:] = counts[1:] * (1 - chance) + counts[:-1] * chance
        counts[0] *= 1 - chance
    return float(counts[hits:].sum())


def hits(scores: Array, truth: NDArray[np.bool_], k: int, tie: float) -> NDArray[np.bool_]:
    """Rows with a true column among the k best even if every false one had `tie` more."""
    best_true = np.where(truth, scores, -np.inf).max(1)
    rivals = ((scores >= best_true[:, None] - tie) & ~truth).sum(1)
    return np.asarray((rivals < k) & truth.any(1) & np.isfinite(scores).all(1))
