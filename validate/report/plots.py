"""Plots as inline SVG: axes with ticks, marks with tooltips, colors from the page's style sheet.

Every plot function takes arrays of any float dtype and returns None if they contain no finite number. Marks without a
tooltip share one SVG path, which takes about ten bytes per dot.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from ...runtime.arrays import AnyArray, Float64Array

_LEFT, _TOP, _WIDTH, _HEIGHT = 52, 12, 296, 224  # the frame, in units of the 360 by 272 view box
_DOTS: Final = 800  # per kind in a scatter plot: largest differences, largest logits, random ones
_ROWS: Final = 400  # worst rows to plot, and evenly spaced ones among all
_NAMED: Final = 3  # worst rows with a tooltip
_BINS: Final = 41
_TICKS: Final = 6
_MIN_ERROR: Final = 1e-9  # smaller errors are plotted here
_SUPERSCRIPT: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_LETTER, _LINE = 5.6, 11.0  # approximate width and height of a letter


@dataclass(frozen=True)
class Axis:
    """One axis, linear or logarithmic, from `low` to `high`, with low < high."""

    low: float
    high: float
    title: str
    log: bool = False

    def position(self, values: AnyArray | float) -> Float64Array:
        """Relative positions on the axis, from 0 at `low` to 1 at `high`; values outside are clipped."""
        scale = np.log10 if self.log else np.asarray
        low, high, scaled = (scale(np.clip(v, self.low, self.high)) for v in (self.low, self.high, np.asarray(values)))
        return np.asarray((scaled - low) / (high - low), np.float64)

    def ticks(self) -> tuple[float, ...]:
        """A few round numbers between `low` and `high`; powers of ten on a logarithmic axis."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            return tuple(10.0**power for power in range(first, last + 1, math.ceil((last - first + 1) / _TICKS)))
        rough = (self.high - self.low) / _TICKS
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return tuple(step * i for i in range(first, last + 1))


def linear_axis(values: Iterable[AnyArray | float], title: str) -> Axis:
    """Linear axis over finite values, with a margin, also if all values are equal."""
    flat = np.concatenate([np.ravel(v).astype(np.float64) for v in values])
    low, high = float(flat.min()), float(flat.max())
    margin = (high - low) * 0.02 or abs(high) * 0.1 or 1.0
    return Axis(low - margin, high + margin, title)


def log_axis(values: Iterable[AnyArray | float], title: str) -> Axis:
    """Logarithmic axis over finite values above 0, between two powers of ten."""
    flat = np.concatenate([np.ravel(v).astype(np.float64) for v in values])
    low, high = math.floor(math.log10(flat.min())), math.ceil(math.log10(flat.max()))
    return Axis(10.0**low, 10.0 ** max(high, low + 1), title, log=True)


def scatter(candidate: AnyArray, reference: AnyArray, limit: float | None) -> Markup | None:
    """Plot candidate logits over reference logits, both [images, labels], with lines of equality and of the limit."""
    finite = np.isfinite(candidate) & np.isfinite(reference)
    y, x = candidate[finite].astype(np.float64), reference[finite].astype(np.float64)
    if not x.size:
        return None
    chosen = _shown(x, y)
    both = linear_axis((x, y), "")
    across, up = Axis(both.low, both.high, "reference"), Axis(both.low, both.high, "candidate")
    band = [_diagonal(across, up, side, "limit") for side in _sides(limit) if abs(side) < both.high - both.low]
    equal = _diagonal(across, up, 0.0, "equal")
    marks = _dots(across, up, x[chosen], y[chosen])
    label = f"{len(chosen)} logits, candidate over reference"
    return _frame(across, up, Markup("").join([*band, equal]), marks, label)


def _shown(x: Float64Array, y: Float64Array) -> NDArray[np.intp]:
    """Indices of the logits to plot: largest differences, largest reference logits, and random ones."""
    random = np.random.default_rng(0).permutation(x.size)[:_DOTS]
    return np.unique(np.concatenate([random, np.argsort(-np.abs(y - x))[:_DOTS], np.argsort(-x)[:_DOTS]]))


def _sides(limit: float | None) -> tuple[float, ...]:
    return () if limit is None else (-limit, limit)


def histogram(differences: AnyArray, limit: float | None) -> Markup | None:
    """Plot a histogram of logit differences with logarithmic counts; the limit is shown if it is near the values."""
    finite = differences[np.isfinite(differences)].astype(np.float64)
    if not finite.size:
        return None
    largest = float(np.abs(finite).max())
    near = tuple(side for side in _sides(limit) if abs(side) <= 2 * largest)
    across = linear_axis((finite, *near), "candidate − reference")
    counts, edges = np.histogram(finite, _BINS, (across.low, across.high))
    up = Axis(0.5, float(counts.max()) * 1.3, "logits", log=True)
    bars = [
        _bar(across, up, edges[i], edges[i + 1], count, f"{count} from {edges[i]:.3g} to {edges[i + 1]:.3g}")
        for i, count in enumerate(counts)
        if count
    ]
    lines = [_line(across, up, side, up.low, side, up.high, "limit") for side in near]
    label = f"{finite.size} logit differences, {finite.min():.3g} to {finite.max():.3g}"
    return _frame(across, up, Markup("").join(lines), Markup("").join(bars), label)


def samples(cosines: AnyArray, names: Sequence[str], limit: float | None) -> Markup | None:
    """Plot 1 - centered cosine of all rows, [rows], worst first, with the limit and with names of the worst rows."""
    order, errors = _ranked(cosines)
    if not order.size:
        return None
    limits = (1 - limit,) if limit is not None and limit < 1 else ()
    up = log_axis((errors, *limits), "1 − centered cosine")
    across = Axis(0, len(order) + 1, "rows, worst first")
    shown = np.unique(np.append(np.arange(len(order))[:_ROWS], np.linspace(0, len(order) - 1, _ROWS).astype(int)))
    titles = [f"{names[i]:.80}: {cosines[i]:.6f}" for i in order[:_NAMED]]
    worst = [_circle(across, up, i + 1, errors[i], title, "worst") for i, title in enumerate(titles)]
    marks = _dots(across, up, shown + 1, errors[shown]) + Markup("").join(worst)
    lines = [_line(across, up, across.low, end, across.high, end, "limit") for end in limits]
    return _frame(across, up, Markup("").join(lines), marks, f"centered cosine of {len(order)} rows, worst first")


def _ranked(cosines: AnyArray) -> tuple[NDArray[np.intp], Float64Array]:
    """Indices of the finite cosines, lowest first, and their 1 - cosine, at least half the dtype's epsilon."""
    errors = np.maximum(1 - cosines.astype(np.float64), float(np.finfo(cosines.dtype).eps) / 2)
    finite = np.flatnonzero(np.isfinite(cosines))
    order = finite[np.argsort(-errors[finite], kind="stable")]
    return order, errors[order]


@dataclass(frozen=True)
class Point:
    """Dot in a tradeoff plot.

    Attributes:
        cost: Size or time, above 0.
        error: 1 - centered cosine; values below 1e-9 are plotted at 1e-9.
        labels: Alternative labels in order of preference; the first that fits is drawn.
        title: Tooltip.
        style: CSS classes of the dot.
    """

    cost: float
    error: float
    labels: tuple[str, ...]
    title: str
    style: str = ""


def tradeoff(points: Sequence[Point], title: str, label: str) -> Markup | None:
    """Plot error over cost, so that better points are lower and further left; earlier points cover later ones."""
    finite = [point for point in points if math.isfinite(point.cost) and math.isfinite(point.error)]
    if not finite:
        return None
    errors = [max(point.error, _MIN_ERROR) for point in finite]
    across = Axis(0, max(point.cost for point in finite) * 1.12 or 1.0, title)
    up = log_axis(errors, "1 − centered cosine")
    dots = [_circle(across, up, p.cost, e, p.title, p.style) for p, e in zip(finite, errors, strict=True)]
    spots = [_spot(across, up, p.cost, e) for p, e in zip(finite, errors, strict=True)]
    return _frame(across, up, _labels(spots, [p.labels for p in finite]), Markup("").join(reversed(dots)), label)


def _labels(spots: Sequence[tuple[float, float]], labels: Sequence[tuple[str, ...]]) -> Markup:
    """Draw a label next to each dot that overlaps no dot, label or frame; none if every alternative overlaps."""
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in spots]
    drawn = []
    for (x, y), texts in zip(spots, labels, strict=True):
        for text, (dx, dy) in itertools.product(texts, ((1, 0), (-1, 0), (0, -1), (0, 1))):
            width = _LETTER * len(text)
            left = x + 9 * dx - width * (1 - dx) / 2
            box = (left, y + 13 * dy - _LINE / 2, left + width, y + 13 * dy + _LINE / 2)
            if _inside(box) and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                drawn.append(_text(left, box[3] - 2.5, text))
                break
    return Markup("").join(drawn)


def _inside(box: tuple[float, ...]) -> bool:
    return box[0] > _LEFT and box[2] < _LEFT + _WIDTH and box[1] > _TOP and box[3] < _TOP + _HEIGHT


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _spot(across: Axis, up: Axis, x: float, y: float) -> tuple[float, float]:
    """Convert data coordinates to view box coordinates."""
    return _LEFT + _WIDTH * float(across.position(x)), _TOP + _HEIGHT * (1 - float(up.position(y)))


def _dots(across: Axis, up: Axis, x: AnyArray, y: AnyArray) -> Markup:
    """Draw round dots as one path of zero-length lines with round caps."""
    positions = zip(_LEFT + _WIDTH * across.position(x), _TOP + _HEIGHT * (1 - up.position(y)), strict=True)
    path = "".join(f"M{left:.1f} {top:.1f}h0" for left, top in positions)
    return Markup('<path class="dots" d="{}"/>').format(path)


def _circle(across: Axis, up: Axis, x: float, y: float, title: str, style: str) -> Markup:
    left, top = _spot(across, up, x, y)
    return Markup('<circle class="{}" cx="{:.1f}" cy="{:.1f}" r="4"><title>{}</title></circle>').format(
        style, left, top, title
    )


def _bar(across: Axis, up: Axis, low: float, high: float, count: int, title: str) -> Markup:
    (left, top), (right, bottom) = _spot(across, up, low, count), _spot(across, up, high, up.low)
    return Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>').format(
        left, top, max(right - left - 1, 1), bottom - top, title
    )


def _line(across: Axis, up: Axis, x1: float, y1: float, x2: float, y2: float, style: str) -> Markup:
    (left, top), (right, bottom) = _spot(across, up, x1, y1), _spot(across, up, x2, y2)
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(
        style, left, top, right, bottom
    )


def _diagonal(across: Axis, up: Axis, offset: float, style: str) -> Markup:
    """Draw the line y = x + offset; both axes must have the same range."""
    low, high = across.low + max(-offset, 0.0), across.high - max(offset, 0.0)
    return _line(across, up, low, low + offset, high, high + offset, style)


def _text(x: float, y: float, text: str, anchor: str = "start") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _frame(across: Axis, up: Axis, lines: Markup, marks: Markup, label: str) -> Markup:
    """Assemble a plot: axes, lines behind the marks, marks."""
    return Markup(
        '<svg viewBox="0 0 360 272" role="img" aria-label="{}"><title>{}</title><g class="axes">'
        '<rect x="{}" y="{}" width="{}" height="{}"/>{}</g>{}<g class="marks">{}</g></svg>'
    ).format(label, label, _LEFT, _TOP, _WIDTH, _HEIGHT, _axes(across, up), lines, marks)


def _axes(across: Axis, up: Axis) -> Markup:
    bottom = _TOP + _HEIGHT
    turned = Markup('<text transform="translate(11 {}) rotate(-90)" text-anchor="middle">{}</text>')
    parts = [_text(_LEFT + _WIDTH / 2, bottom + 30, across.title, "middle")]
    parts.append(turned.format(_TOP + _HEIGHT / 2, up.title))
    for tick in across.ticks():
        x, _ = _spot(across, up, tick, up.low)
        parts.append(_line(across, up, tick, up.low, tick, up.high, "grid"))
        parts.append(_text(x, bottom + 14, _tick(across, tick), "middle"))
    for tick in up.ticks():
        _, y = _spot(across, up, across.low, tick)
        parts.append(_line(across, up, across.low, tick, across.high, tick, "grid"))
        parts.append(_text(_LEFT - 5, y + 3.5, _tick(up, tick), "end"))
    return Markup("").join(parts)


def _tick(axis: Axis, value: float) -> str:
    """Format a tick; small powers of ten with an exponent."""
    if axis.log and value < 1e-3:
        return "10" + str(round(math.log10(value))).translate(_SUPERSCRIPT)
    return f"{value:.4g}"
