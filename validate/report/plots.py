"""Plots as SVG inside a page: axes with ticks, marks with titles, colors of the page's own style.

Every function takes arrays of any float type and returns None where nothing in them is a finite number, so that the
page can say so. Marks that need no title of their own are one path of dots, ten bytes each.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]

_LEFT, _TOP, _WIDTH, _HEIGHT = 52, 12, 296, 224  # of the frame, in the units of a view box of 360 by 272
_DOTS: Final = 800  # of each kind in a scatter plot: those that moved most, the largest ones, and at random
_ROWS: Final = 400
_NAMED: Final = 3
_BINS: Final = 41
_TICKS: Final = 6
_FLOOR: Final = 1e-9  # below which nobody asks how good a cell is
_RAISED: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_LETTER, _LINE = 5.6, 11.0  # width and height of a letter, about


@dataclass(frozen=True)
class Axis:
    """One axis: its ends, which are not equal, and whether it is logarithmic."""

    low: float
    high: float
    title: str
    log: bool = False

    def place(self, values: Array | float) -> Floats:
        """Where values are between the ends, 0 to 1; what is outside of them stands at the nearer end."""
        scale = np.log10 if self.log else np.asarray
        low, high, found = (scale(np.clip(v, self.low, self.high)) for v in (self.low, self.high, np.asarray(values)))
        return np.asarray((found - low) / (high - low), np.float64)

    def ticks(self) -> tuple[float, ...]:
        """A few round numbers between the ends; powers of ten where the axis is logarithmic."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            return tuple(10.0**power for power in range(first, last + 1, math.ceil((last - first + 1) / _TICKS)))
        rough = (self.high - self.low) / _TICKS
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return tuple(step * i for i in range(first, last + 1))


def straight(values: Iterable[Array | float], title: str) -> Axis:
    """A linear axis over finite values, with room where they are all equal."""
    every = np.concatenate([np.ravel(v).astype(np.float64) for v in values])
    low, high = float(every.min()), float(every.max())
    room = (high - low) * 0.02 or abs(high) * 0.1 or 1.0
    return Axis(low - room, high + room, title)


def powers(values: Iterable[Array | float], title: str) -> Axis:
    """A logarithmic axis over finite values above 0, from a power of ten to another."""
    every = np.concatenate([np.ravel(v).astype(np.float64) for v in values])
    low, high = math.floor(math.log10(every.min())), math.ceil(math.log10(every.max()))
    return Axis(10.0**low, 10.0 ** max(high, low + 1), title, log=True)


def scatter(ours: Array, reference: Array, limit: float | None) -> Markup | None:
    """Our logits over the reference's, both [images, labels]; on the line they are equal, in the band allowed."""
    sound = np.isfinite(ours) & np.isfinite(reference)
    y, x = ours[sound].astype(np.float64), reference[sound].astype(np.float64)
    if not x.size:
        return None
    chosen = _telling(x, y)
    both = straight((x, y), "")
    across, up = Axis(both.low, both.high, "reference"), Axis(both.low, both.high, "ours")
    band = [_diagonal(across, up, side, "limit") for side in _sides(limit) if abs(side) < both.high - both.low]
    equal = _diagonal(across, up, 0.0, "equal")
    marks = _dots(across, up, x[chosen], y[chosen])
    return _frame(
        across, up, Markup("").join([*band, equal]), marks, f"{len(chosen)} logits, ours over the reference's"
    )


def _telling(x: Floats, y: Floats) -> NDArray[np.intp]:
    """Which logits to draw: those that moved most, the reference's largest, and some at random."""
    some = np.random.default_rng(0).permutation(x.size)[:_DOTS]
    return np.unique(np.concatenate([some, np.argsort(-np.abs(y - x))[:_DOTS], np.argsort(-x)[:_DOTS]]))


def _sides(limit: float | None) -> tuple[float, ...]:
    return () if limit is None else (-limit, limit)


def histogram(differences: Array, limit: float | None) -> Markup | None:
    """How many logits moved by how much, on a logarithmic axis that shows single ones; the limit where it is near."""
    found = differences[np.isfinite(differences)].astype(np.float64)
    if not found.size:
        return None
    most = float(np.abs(found).max())
    near = tuple(side for side in _sides(limit) if abs(side) <= 2 * most)
    across = straight((found, *near), "ours − reference")
    counts, edges = np.histogram(found, _BINS, (across.low, across.high))
    up = Axis(0.5, float(counts.max()) * 1.3, "logits", log=True)
    bars = [
        _bar(across, up, edges[i], edges[i + 1], count, f"{count} from {edges[i]:.3g} to {edges[i + 1]:.3g}")
        for i, count in enumerate(counts)
        if count
    ]
    lines = [_line(across, up, side, up.low, side, up.high, "limit") for side in near]
    label = f"{found.size} differences of logits, {found.min():.3g} to {found.max():.3g}"
    return _frame(across, up, Markup("").join(lines), Markup("").join(bars), label)


def samples(cosines: Array, names: Sequence[str], limit: float | None) -> Markup | None:
    """1 - centered cosine of every row, [rows], the worst first and with its name; what is allowed as a line."""
    order, errors = _ranked(cosines)
    if not order.size:
        return None
    allowed = (1 - limit,) if limit is not None and limit < 1 else ()
    up = powers((errors, *allowed), "1 − centered cosine")
    across = Axis(0, len(order) + 1, "rows, the worst first")
    shown = np.unique(np.append(np.arange(len(order))[:_ROWS], np.linspace(0, len(order) - 1, _ROWS).astype(int)))
    titles = [f"{names[i]:.80}: {cosines[i]:.6f}" for i in order[:_NAMED]]
    worst = [_circle(across, up, i + 1, errors[i], title, "worst") for i, title in enumerate(titles)]
    marks = _dots(across, up, shown + 1, errors[shown]) + Markup("").join(worst)
    lines = [_line(across, up, across.low, end, across.high, end, "limit") for end in allowed]
    return _frame(across, up, Markup("").join(lines), marks, f"centered cosine of {len(order)} rows, the worst first")


def _ranked(cosines: Array) -> tuple[NDArray[np.intp], Floats]:
    """Places of the finite cosines, the lowest first, and 1 - these, where 0 is the last digit of the array's type."""
    errors = np.maximum(1 - cosines.astype(np.float64), float(np.finfo(cosines.dtype).eps) / 2)
    sound = np.flatnonzero(np.isfinite(cosines))
    order = sound[np.argsort(-errors[sound], kind="stable")]
    return order, errors[order]


@dataclass(frozen=True)
class Point:
    """Something to choose: what it costs, how far off it is, and how it is shown.

    Attributes:
        cost: Size or time, above 0.
        error: 1 - centered cosine; what is below 1e-9 is drawn there.
        names: What may stand beside it, the best first; the first that finds room does.
        style: CSS classes of its dot.
    """

    cost: float
    error: float
    names: tuple[str, ...]
    title: str
    style: str = ""


def trade(points: Sequence[Point], title: str, label: str) -> Markup | None:
    """Error upwards and cost to the right: what is better lies below and to the left; the first points on top."""
    sound = [point for point in points if math.isfinite(point.cost) and math.isfinite(point.error)]
    if not sound:
        return None
    errors = [max(point.error, _FLOOR) for point in sound]
    across = Axis(0, max(point.cost for point in sound) * 1.12 or 1.0, title)
    up = powers(errors, "1 − centered cosine")
    dots = [_circle(across, up, p.cost, e, p.title, p.style) for p, e in zip(sound, errors, strict=True)]
    spots = [_spot(across, up, p.cost, e) for p, e in zip(sound, errors, strict=True)]
    return _frame(across, up, _beside(spots, [p.names for p in sound]), Markup("").join(reversed(dots)), label)


def _beside(spots: Sequence[tuple[float, float]], names: Sequence[tuple[str, ...]]) -> Markup:
    """A name beside each spot that hits neither another spot, nor another name, nor the frame; none where all would."""
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in spots]
    drawn = []
    for (x, y), texts in zip(spots, names, strict=True):
        for text, (dx, dy) in itertools.product(texts, ((1, 0), (-1, 0), (0, -1), (0, 1))):
            wide = _LETTER * len(text)
            left = x + 9 * dx - wide * (1 - dx) / 2
            box = (left, y + 13 * dy - _LINE / 2, left + wide, y + 13 * dy + _LINE / 2)
            if _inside(box) and not any(_overlap(box, other) for other in taken):
                taken.append(box)
                drawn.append(_words(left, box[3] - 2.5, text))
                break
    return Markup("").join(drawn)


def _inside(box: tuple[float, ...]) -> bool:
    return box[0] > _LEFT and box[2] < _LEFT + _WIDTH and box[1] > _TOP and box[3] < _TOP + _HEIGHT


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _spot(across: Axis, up: Axis, x: float, y: float) -> tuple[float, float]:
    """A place in the view box."""
    return _LEFT + _WIDTH * float(across.place(x)), _TOP + _HEIGHT * (1 - float(up.place(y)))


def _dots(across: Axis, up: Axis, x: Array, y: Array) -> Markup:
    """Many round dots, which are lines without length."""
    places = zip(_LEFT + _WIDTH * across.place(x), _TOP + _HEIGHT * (1 - up.place(y)), strict=True)
    path = "".join(f"M{left:.1f} {top:.1f}h0" for left, top in places)
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
    """Where up is across and an offset, on axes with the same ends."""
    low, high = across.low + max(-offset, 0.0), across.high - max(offset, 0.0)
    return _line(across, up, low, low + offset, high, high + offset, style)


def _words(x: float, y: float, text: str, anchor: str = "start") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _frame(across: Axis, up: Axis, behind: Markup, marks: Markup, label: str) -> Markup:
    """A whole plot."""
    return Markup(
        '<svg viewBox="0 0 360 272" role="img" aria-label="{}"><title>{}</title><g class="axes">'
        '<rect x="{}" y="{}" width="{}" height="{}"/>{}</g>{}<g class="marks">{}</g></svg>'
    ).format(label, label, _LEFT, _TOP, _WIDTH, _HEIGHT, _axes(across, up), behind, marks)


def _axes(across: Axis, up: Axis) -> Markup:
    bottom = _TOP + _HEIGHT
    turned = Markup('<text transform="translate(11 {}) rotate(-90)" text-anchor="middle">{}</text>')
    parts = [_words(_LEFT + _WIDTH / 2, bottom + 30, across.title, "middle")]
    parts.append(turned.format(_TOP + _HEIGHT / 2, up.title))
    for tick in across.ticks():
        x, _ = _spot(across, up, tick, up.low)
        parts.append(_line(across, up, tick, up.low, tick, up.high, "grid"))
        parts.append(_words(x, bottom + 14, _tick(across, tick), "middle"))
    for tick in up.ticks():
        _, y = _spot(across, up, across.low, tick)
        parts.append(_line(across, up, across.low, tick, across.high, tick, "grid"))
        parts.append(_words(_LEFT - 5, y + 3.5, _tick(up, tick), "end"))
    return Markup("").join(parts)


def _tick(axis: Axis, value: float) -> str:
    """A tick's number; small powers of ten as people write them."""
    if axis.log and value < 1e-3:
        return "10" + str(round(math.log10(value))).translate(_RAISED)
    return f"{value:.4g}"
