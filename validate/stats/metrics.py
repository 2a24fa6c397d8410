"""Error metrics on arrays, computed in float64.

A NaN in the candidate is never hidden: it makes a metric NaN, or counts as an error where decisions are counted.
Wherever scores are compared, `candidate` and `reference` have the same shape.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final

import numpy as np

from ...runtime.arrays import AnyArray, BoolArray, Float64Array


def unit_rows(rows: AnyArray) -> Float64Array:
    """Rows of [rows, width] divided by their L2 norm; a zero row becomes NaN."""
    rows = rows.astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def row_cosines(candidate: AnyArray, reference: AnyArray) -> Float64Array:
    """Cosine of each row of [rows, width] with the same row of the reference, [rows]."""
    return np.asarray((unit_rows(candidate) * unit_rows(reference)).sum(1))


def centered_cosines(candidate: AnyArray, reference: AnyArray, mean: AnyArray | None = None) -> Float64Array:
    """Cosines of normalized rows after `mean` is subtracted from both, [rows].

    The default mean is that of the reference's normalized rows. Embeddings of one tower share a large common component,
    next to which an error looks small in raw cosines.

        cos(u(candidate) - mean, u(reference) - mean), with u(x) = x / |x|
    """
    mean = unit_rows(reference).mean(0) if mean is None else mean
    return row_cosines(unit_rows(candidate) - mean, unit_rows(reference) - mean)


def relative_error(candidate: AnyArray, reference: AnyArray) -> float:
    """Max |candidate - reference| / max |reference|, over all elements."""
    reference = reference.astype(np.float64)
    return float(np.abs(candidate - reference).max() / np.abs(reference).max())


def lower_quantile(values: Float64Array, fraction: float) -> float:
    """Quantile of `values` at a fraction from 0 to 1, rounded down to one of the values; NaN if any value is NaN."""
    return float(np.quantile(values, fraction, method="lower"))


def line_fit(candidate: AnyArray, reference: AnyArray) -> tuple[float, float]:
    """Least-squares slope of candidate over reference, and mean of candidate - reference.

    The slope is cov(x, y) / var(x) with x the reference and y the candidate; NaN if all reference values are equal.
    """
    x, y = reference.astype(np.float64).ravel(), candidate.astype(np.float64).ravel()
    spread = x - x.mean()
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = np.float64((spread * (y - y.mean())).sum()) / (spread * spread).sum()
    return float(slope), float((y - x).mean())


def residual_sigma(candidate: AnyArray, reference: AnyArray) -> float:
    """Standard deviation of the residuals of the least-squares line of candidate over reference."""
    slope, _ = line_fit(candidate, reference)
    x, y = reference.astype(np.float64), candidate.astype(np.float64)
    return float((y - y.mean() - slope * (x - x.mean())).std())


def logits(images: AnyArray, texts: AnyArray, scale: float, bias: float) -> Float64Array:
    """SigLIP logits scale * cosine + bias of embeddings [images, width] and [texts, width], as [images, texts]."""
    return np.asarray(unit_rows(images) @ unit_rows(texts).T * scale + bias)


def sigmoid(logits: AnyArray) -> Float64Array:
    """1 / (1 + exp(-x)), without overflow."""
    return np.asarray(np.exp(-np.logaddexp(0.0, -logits.astype(np.float64))))


BUCKETS: Final = (0.0, 0.01, 0.1, 0.5, 0.9, 1.0)  # edges for the reference probability; the last bucket includes 1
_BINS: Final = 15  # of the expected calibration error, as in Guo et al. 2017, https://arxiv.org/abs/1706.04599


def drift_by_bucket(candidate: AnyArray, reference: AnyArray) -> dict[str, tuple[float, int]]:
    """Largest absolute difference of probabilities, and their number, by bucket of the reference's probability.

    Keys are such as "0.1 to 0.5"; empty buckets are left out.
    """
    drift, result = np.abs(candidate - reference), {}
    bucket = np.searchsorted(BUCKETS[1:-1], reference, side="right")
    for i, (low, high) in enumerate(itertools.pairwise(BUCKETS)):
        inside = drift[bucket == i]
        if inside.size:
            result[f"{low:g} to {high:g}"] = (float(inside.max()), inside.size)
    return result


@dataclass(frozen=True)
class Flips:
    """Decisions at a threshold that differ between two arrays of logits.

    Attributes:
        share: Fraction of the differing decisions, among those where either array says yes.
        margins: Distance of the reference from the threshold for each differing decision, largest first.
    """

    share: float
    margins: tuple[float, ...]


def flips(candidate: AnyArray, reference: AnyArray, threshold: float, tie: float = 0.0) -> Flips:
    """Compare the decisions "logit >= threshold" of candidate and reference.

    A differing decision counts only if the reference is further than `tie` from the threshold; a candidate that is not
    finite always counts. The share leaves out pairs for which both say no: nearly all pairs do, which would make every
    share small.
    """
    changed = (candidate >= threshold) != (reference >= threshold)
    margin = np.abs(reference - threshold)
    wrong = (changed & (margin > tie)) | ~np.isfinite(candidate)
    yes = (reference >= threshold) | (candidate >= threshold) | wrong
    return Flips(float(wrong.sum() / max(yes.sum(), 1)), tuple(-np.sort(-margin[wrong]).astype(float)))


def calibration_error(probabilities: AnyArray, truth: BoolArray, reference: AnyArray) -> float:
    """Expected calibration error of probabilities [rows] with the truth [rows], in 15 bins (Guo et al. 2017).

        sum over bins of |sum of (probability - truth) in the bin| / rows

    The bin of a row is that of its reference probability, so that rows close to an edge do not change their bin.
    """
    bins = np.minimum((reference * _BINS).astype(int), _BINS - 1)
    gap = np.bincount(bins, probabilities - truth, _BINS)
    return float(np.abs(gap).sum() / truth.size)


@dataclass(frozen=True)
class Agreement:
    """Agreement of two rankings.

    Attributes:
        top1: Fraction of rows whose best column is the reference's.
        topk: Mean fraction of the reference's k best columns among the candidate's k best.
        order: Fraction of pairs among the reference's ten best columns in the same order; ties are left out.
        worst: First row whose best column differs; None if there is none.
        margins: For each row whose best column differs, by how much the reference scores its own best column higher
            than the candidate's, largest first.
    """

    top1: float
    topk: float
    order: float
    worst: int | None
    margins: tuple[float, ...]


def agreement(candidate: AnyArray, reference: AnyArray, k: int = 5, tie: float = 0.0) -> Agreement:
    """Compare the rankings of the columns of [rows, columns]; a row that is not finite agrees in nothing.

    A candidate's best column agrees if the reference scores it at most `tie` below its own best column.
    """
    k = min(k, reference.shape[1])
    best = np.argsort(-candidate, axis=1, kind="stable")[:, :k]
    expected = -np.sort(-reference, axis=1)[:, :k]
    scores = np.take_along_axis(reference, best, axis=1)
    finite = np.asarray(np.isfinite(candidate).all(axis=1))
    same = (scores[:, 0] >= expected[:, 0] - tie) & finite
    shared = (scores >= expected[:, -1:] - tie) & finite[:, None]
    wrong = np.flatnonzero(~same)
    margins = tuple(-np.sort(scores[wrong, 0] - expected[wrong, 0]).astype(float))
    first = int(wrong[0]) if len(wrong) else None
    return Agreement(float(same.mean()), float(shared.mean()), _order(candidate, reference, tie), first, margins)


def _order(candidate: AnyArray, reference: AnyArray, tie: float, k: int = 10) -> float:
    """Fraction of pairs of the reference's k best columns in the same order in the candidate; ties are left out."""
    best = np.argsort(-reference, axis=1, kind="stable")[:, :k]
    expected, actual = (np.take_along_axis(x, best, axis=1) for x in (reference, candidate))
    counted = expected[:, :, None] - expected[:, None, :] > tie
    kept = counted & (actual[:, :, None] > actual[:, None, :])
    return float(kept.sum() / counted.sum()) if counted.any() else 1.0


def nontrivial_rows(truth: BoolArray, k: int) -> BoolArray:
    """Rows of [rows, columns] whose recall at k is not trivial: they have a true column and at least k false ones."""
    return np.asarray(truth.any(1) & ((~truth).sum(1) >= k))


def recall(scores: AnyArray, truth: BoolArray, k: int) -> float:
    """Fraction of rows of [rows, columns] with a true column among the k best (recall at k).

    A false column with the same score as the best true one ranks before it. A row that is not finite has no hit.
    """
    return float(hits(scores, truth, k, 0.0).mean())


def recall_lost(candidate: AnyArray, reference: AnyArray, truth: BoolArray, k: int, tie: float = 0.0) -> float:
    """Fraction of rows with a hit at k that only the reference has, minus the fraction that only the candidate has.

    A hit counts if it holds by more than `tie` and the other side has none.
    """
    lost = hits(reference, truth, k, tie) & ~hits(candidate, truth, k, 0.0)
    gained = hits(candidate, truth, k, tie) & ~hits(reference, truth, k, 0.0)
    return float(lost.mean() - gained.mean())


def poisson_binomial_tail(hits: int, chances: Float64Array) -> float:
    """P(X >= hits) of a Poisson binomial X: the number of successes of independent trials.

    Args:
        hits: Number of successes.
        chances: Probability of success of each trial, [trials].
    """
    counts = np.zeros(len(chances) + 1)
    counts[0] = 1.0
    for chance in chances:
        counts[1:] = counts[1:] * (1 - chance) + counts[:-1] * chance
        counts[0] *= 1 - chance
    return float(counts[hits:].sum())


def hits(scores: AnyArray, truth: BoolArray, k: int, tie: float) -> BoolArray:
    """Rows with a true column among the k best, even if all false columns scored `tie` more; scores [rows, columns]."""
    best_true = np.where(truth, scores, -np.inf).max(1)
    rivals = ((scores >= best_true[:, None] - tie) & ~truth).sum(1)
    return np.asarray((rivals < k) & truth.any(1) & np.isfinite(scores).all(1))
