"""Ranges of activations that eight bits cover, and how calibration finds them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from ...runtime.arrays import AnyArray


@dataclass(frozen=True)
class Range:
    """The values of an activation that eight bits cover; values outside it are clipped."""

    low: float
    high: float

    def widened(self, factor: float) -> Range:
        """Return the range with both ends multiplied by a factor."""
        return Range(self.low * factor, self.high * factor)

    @property
    def scale(self) -> np.float32:
        """Real size of one step."""
        return np.float32((max(self.high, 0.0) - min(self.low, 0.0)) / 255 or 1.0)

    @property
    def zero(self) -> np.uint8:
        """The integer that represents 0."""
        return np.uint8(np.clip(np.rint(-min(self.low, 0.0) / self.scale), 0, 255))


def min_max(x: AnyArray) -> Range:
    """Return the range of all values."""
    return Range(float(x.min()), float(x.max()))


def percentile(x: AnyArray, share: float = 1e-5) -> Range:
    """Return the range of all values but a share at either end."""
    low, high = np.quantile(x, (share, 1 - share))
    return Range(float(low), float(high))


def entropy(x: AnyArray, bins: int = 2048, levels: int = 255) -> Range:
    """Return the range whose levels lose least information (Migacz, 8-bit inference with TensorRT, GTC 2017)."""
    counts, edges = np.histogram(x, bins)
    smallest, best = np.inf, (0, bins)
    left, right, step = 0, bins, bins // 128
    while right - left > levels:
        loss = _divergence(counts, left, right, levels)
        if loss < smallest:
            smallest, best = loss, (left, right)
        # drop the emptier end, a 128th of the histogram at a time
        if counts[left : left + step].sum() <= counts[right - step : right].sum():
            left += step
        else:
            right -= step
    return Range(float(edges[best[0]]), float(edges[best[1]]))


def _divergence(counts: AnyArray, left: int, right: int, levels: int) -> float:
    """Kullback-Leibler divergence of the clipped histogram from the same histogram in `levels` steps."""
    inside = counts[left:right].astype(np.float64)
    clipped = inside.copy()
    clipped[0] += counts[:left].sum()
    clipped[-1] += counts[right:].sum()
    level = np.arange(len(inside)) * levels // len(inside)
    filled = inside > 0
    sums = np.bincount(level, inside, levels)
    cells = np.bincount(level, filled, levels)
    coarse = np.where(filled, sums[level] / np.maximum(cells[level], 1), 0)
    p, q = clipped / clipped.sum(), coarse / max(coarse.sum(), 1)
    both = (p > 0) & (q > 0)
    missed = p[(p > 0) & (q == 0)].sum()
    return float((p[both] * np.log(p[both] / q[both])).sum() + missed * 10)


RANGES: Final[dict[str, Callable[[AnyArray], Range]]] = {
    "min-max": min_max,
    "percentile": percentile,
    "entropy": entropy,
}
