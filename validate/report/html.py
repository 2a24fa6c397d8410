"""The report as one self-contained page: no script, no request, readable on a phone and in the dark."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Protocol

import jinja2
import numpy as np
from markupsafe import Markup

from ...runtime.artifact.contract import Role, Verdict
from . import formatting, plots
from .matrix import Cell, Matrix
from .plot_data import Array, PlotData, Worst
from .report import OPTIONAL, CheckGroup, DataRecord, Report

_MEANING: Final = {
    Verdict.PASS: "Every check is within its limits.",
    Verdict.FAIL: "It does not compute what the reference computes, within its limits: do not release it.",
    Verdict.INCONCLUSIVE: "There was too little to judge by. This is no PASS.",
}


class Made(Protocol):
    """What the page tells of how a variant was made: `quantize.Record`, which lives beside this layer."""

    @property
    def towers(self) -> Any:
        """What was done to each tower."""


@dataclass(frozen=True)
class _Head:
    """What a page says first."""

    verdict: Verdict
    title: str
    meaning: str
    judged: str
    scope: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Figure:
    """A plot and what it says; the plot is None where there was no number to draw."""

    title: str
    text: str
    plot: Markup | None


@dataclass(frozen=True)
class _View:
    """What a page shows of one cell.

    Attributes:
        number: Of the cell in its matrix, from 1.
        figures: Plots of its evidence; empty where there is none.
    """

    number: int
    cell: Cell
    figures: tuple[_Figure, ...] = ()
    worst: tuple[Worst, ...] = ()
    made: Made | None = None

    @property
    def anchor(self) -> str:
        """The cell's id on the page."""
        return f"{self.cell.precision}-{self.cell.provider}"

    @property
    def error(self) -> float | None:
        """1 - median centered cosine of the worse tower; None where it was not measured."""
        names = {f"{role} centered cosine median" for role in Role}
        checks = self.cell.report.checks if self.cell.report else ()
        found = [c.measured for c in checks if c.group is CheckGroup.EMBEDDINGS and c.name in names]
        numbers = [value for value in found if value is not None]
        return 1 - min(numbers) if numbers and len(numbers) == len(found) else None

    @property
    def seconds(self) -> float | None:
        """Time of a row through every tower; None where that is not known."""
        cost = self.cell.report.cost if self.cell.report else None
        return sum(cost.seconds.values()) if cost and cost.seconds else None


def page(report: Report, evidence: PlotData | None, made: Made | None = None) -> str:
    """The page of one cell.

    Args:
        report: The verdict and its checks.
        evidence: What its plots and images are drawn from; None where the artifact could not run that far.
        made: How the variant was made.
    """
    cell = Cell(report.precision, report.provider, report.verdict, report=report, seconds=report.seconds)
    view = _view(1, cell, evidence, made)
    judged = f"Compared with {formatting.reference(report)} on {formatting.data(report.data)}; limits: {report.limits}."
    title = f"{report.artifact}, {cell.name}"
    head = _Head(report.verdict, title, _meaning(cell), judged, report.data.scope, tuple(_facts(report)))
    return _render(head, (view,), None, (), _origin(report.created, report.seconds, report.data, report.environment))


def matrix_page(matrix: Matrix, evidence: Mapping[str, PlotData]) -> str:
    """The page of a gate.

    Args:
        matrix: Every cell and the verdict.
        evidence: What plots and images are drawn from, by the name of a cell; those without are not in it.
    """
    views = tuple(_view(i, cell, evidence.get(cell.name)) for i, cell in enumerate(matrix.cells, 1))
    judged = f"{len(views)} cells, compared with “{matrix.reference}” on {formatting.data(matrix.data)}."
    meaning = f"{formatting.ran(matrix)}."
    head = _Head(matrix.verdict, matrix.artifact, meaning, judged, matrix.data.scope, ())
    origin = _origin(matrix.created, matrix.seconds, matrix.data, matrix.environment)
    return _render(head, views, matrix, tuple(_trade(views)), origin)


def _render(
    head: _Head, views: tuple[_View, ...], matrix: Matrix | None, trade: tuple[_Figure, ...], origin: dict[str, str]
) -> str:
    """The page; halves of surrogate pairs, which a file's name may hold and UTF-8 cannot, are written as escapes."""
    shown = {"head": head, "views": views, "matrix": matrix, "trade": trade, "origin": origin}
    html = _environment().get_template("report.html.jinja").render(shown)
    return html.encode("utf-8", "backslashreplace").decode()


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("siglip_onnx.validate.report", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.globals |= {"wording": formatting, "walked": _walked, "thumbnail": _thumbnail, "number": _number}
    return environment


def _meaning(cell: Cell) -> str:
    missing = formatting.unmeasured(cell.report) if cell.report else ()
    return _MEANING[cell.verdict] + (f" Not measured: {', '.join(missing)}." if missing else "")


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    """What is worth knowing at a glance."""
    # What is compared with an earlier release is near its limit by nature.
    limits = [check for check in report.checks if check.group not in OPTIONAL]
    tight = max(limits, key=lambda check: formatting.used(check) or 0.0, default=None)
    if tight is not None and (share := formatting.used(tight)):
        yield f"of what is allowed is used, at most: {tight.group}, {tight.name}", f"{100 * share:.0f} %"
    if report.cost is not None:
        yield "size", formatting.size(report.cost.bytes)
        for role, seconds in report.cost.seconds.items():
            yield f"a row of {role}", formatting.duration(seconds)
        if report.cost.peak_bytes is not None:
            yield "memory at most", formatting.size(report.cost.peak_bytes)


def _origin(created: str, seconds: float, data: DataRecord, environment: Mapping[str, str]) -> dict[str, str]:
    return {"judged": f"{created}, in {formatting.duration(seconds)}", "data": data.sha256} | dict(environment)


def _view(number: int, cell: Cell, evidence: PlotData | None, made: Made | None = None) -> _View:
    if evidence is None or cell.report is None:
        return _View(number, cell, made=made)
    return _View(number, cell, tuple(_figures(cell.report, evidence)), evidence.worst, made)


def _figures(report: Report, evidence: PlotData) -> Iterator[_Figure]:
    ours, theirs = evidence.ours, evidence.reference
    limit = _limit(report, CheckGroup.LOGITS, "difference max")
    # Infinities of both sides have no difference; they are counted and drawn nowhere.
    with np.errstate(invalid="ignore"):
        moved = ours.astype(np.float64) - theirs
    text = "Each dot is an image and a label. On the line they are equal; the dashed lines are what is allowed."
    yield _Figure("Our logits over the reference's", text + _broken(ours, "logits"), plots.scatter(ours, theirs, limit))
    text = "How many logits moved by how much; the count is logarithmic, so that single ones show."
    yield _Figure("How far logits moved", text + _broken(moved, "differences"), plots.histogram(moved, limit))
    for role, cosines in evidence.cosines.items():
        names, limit = evidence.rows[role], _limit(report, CheckGroup.EMBEDDINGS, f"{role} centered cosine min")
        text = f"Distance of each row from the reference's, the worst first{_worst_row(cosines, names)}."
        plot = plots.samples(cosines, names, limit)
        yield _Figure(f"Centered cosine by row: {role}", text + _broken(cosines, "rows"), plot)


def _limit(report: Report, group: CheckGroup, name: str) -> float | None:
    return next((check.limit for check in report.checks if (check.group, check.name) == (group, name)), None)


def _broken(values: Array, what: str) -> str:
    """How many values are NaN or infinite, and so cannot be drawn."""
    count = int(values.size - np.isfinite(values).sum())
    return f" {count} of {values.size} {what} are NaN or infinite and not drawn." if count else ""


def _worst_row(cosines: Array, names: tuple[str, ...]) -> str:
    sound = np.flatnonzero(np.isfinite(cosines))
    if not sound.size:
        return ""
    worst = int(sound[np.argmin(cosines[sound])])
    return f": {names[worst]!r:.80} with {cosines[worst]:.6f}"


def _trade(views: tuple[_View, ...]) -> Iterator[_Figure]:
    """Error over size and over time; cells that another one beats in all three are hollow."""
    known = [view for view in views if view.error is not None and view.seconds is not None]
    best = _unbeaten(known)
    known.sort(key=lambda view: view not in best)
    left = [view.cell.name for view in views if view not in known]
    text = "Below and to the left is better. Filled: passes, and nothing that passes is better in size, time and error."
    text += f" Without numbers: {', '.join(left)}." if left else ""
    for title, axis, index in (("Error over size", "MB", 0), ("Error over time", "ms for a row of every tower", 1)):
        points = [_point(view, _costs(view)[index], view in best) for view in known]
        label = f"{title} of {len(points)} cells: " + "; ".join(point.title for point in points)
        yield _Figure(title, text, plots.trade(points, axis, label))


def _unbeaten(views: list[_View]) -> list[_View]:
    """Those that pass and that no other one of them is at least as good as in everything and better in something."""
    passing = {view.number: _costs(view) for view in views if view.cell.verdict is Verdict.PASS}
    return [
        view
        for view in views
        if (mine := passing.get(view.number))
        and not any(
            other != mine and all(a <= b for a, b in zip(other, mine, strict=True)) for other in passing.values()
        )
    ]


def _costs(view: _View) -> tuple[float, float, float]:
    """Megabytes, milliseconds and error of a cell that has them."""
    cost = view.cell.report.cost if view.cell.report else None
    return (cost.bytes if cost else 0) / 1e6, (view.seconds or 0.0) * 1e3, view.error or 0.0


def _point(view: _View, cost: float, best: bool) -> plots.Point:
    megabytes, milliseconds, error = _costs(view)
    title = f"{view.cell.name}: {megabytes:.1f} MB, {milliseconds:.3g} ms, error {error:.2g}, {view.cell.verdict}"
    names = view.cell.name, str(view.cell.precision), str(view.number)
    return plots.Point(cost, error, names, title, f"{view.cell.verdict} {'best' if best else 'beaten'}")


def _walked(tower: Any) -> Markup | None:
    """The towers of a search that were timed; None where there are fewer than two."""
    steps = [step for step in tower.steps if step.measured.speed is not None]
    points = [
        plots.Point(
            step.measured.bytes / 1e6,
            1 - (step.measured.centered_cosine or 0.0),
            ("chosen",) if tuple(step.excluded) == tuple(tower.excluded) else (),
            f"{len(step.excluded)} kept, {step.measured.bytes / 1e6:.2f} MB, {step.measured.speed:.2f} times fp32",
            "best" if tuple(step.excluded) == tuple(tower.excluded) else "beaten",
        )
        for step in steps
    ]
    label = f"error over size of {len(points)} towers that the search walked through"
    return plots.trade(points, "MB", label) if len(points) > 1 else None


def _thumbnail(worst: Worst) -> str:
    """A thumbnail as a data URI."""
    return f"data:image/webp;base64,{base64.b64encode(worst.thumbnail).decode()}"


def _number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.6f}"
