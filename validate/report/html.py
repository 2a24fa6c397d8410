"""Self-contained HTML page of a report: no scripts, no network requests, for phones and dark mode too."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Protocol

import jinja2
import numpy as np
from markupsafe import Markup

from ...runtime.arrays import AnyArray
from ...runtime.artifact.contract import Role, Verdict
from . import formatting, plots
from .matrix import Cell, Matrix
from .plot_data import PlotData, WorstImage
from .report import OPTIONAL, CheckGroup, DataRecord, Report

_MEANING: Final = {
    Verdict.PASS: "All checks are within their limits.",
    Verdict.FAIL: "The variant differs from the reference by more than the limits allow: do not release it.",
    Verdict.INCONCLUSIVE: "The data did not suffice for a verdict. This is not a PASS.",
}


class VariantRecord(Protocol):
    """How a variant was derived: the part of `quantize.Record` that this page shows.

    A protocol, because validate must not import quantize.
    """

    @property
    def towers(self) -> Any:
        """Record of each tower, by role."""


@dataclass(frozen=True)
class _Head:
    """Top of a page."""

    verdict: Verdict
    title: str
    meaning: str
    subject: str
    limitation: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Figure:
    """A plot with its caption.

    Attributes:
        plot: SVG of the plot; None if there is no finite number to plot.
    """

    title: str
    text: str
    plot: Markup | None


@dataclass(frozen=True)
class _View:
    """Everything that a page shows of one cell.

    Attributes:
        number: Position of the cell in its matrix, from 1.
        figures: Plots of the cell; empty without plot data.
        worst: Images with the largest logit differences.
        record: How the variant was derived; None if unknown.
    """

    number: int
    cell: Cell
    figures: tuple[_Figure, ...] = ()
    worst: tuple[WorstImage, ...] = ()
    record: VariantRecord | None = None

    @property
    def anchor(self) -> str:
        """HTML id of the cell."""
        return f"{self.cell.precision}-{self.cell.provider}"

    @property
    def error(self) -> float | None:
        """1 - median centered cosine of the worse tower; None if a tower was not measured."""
        names = {f"{role} centered cosine median" for role in Role}
        checks = self.cell.report.checks if self.cell.report else ()
        medians = [c.measured for c in checks if c.group is CheckGroup.EMBEDDINGS and c.name in names]
        values = [value for value in medians if value is not None]
        return 1 - min(values) if values and len(values) == len(medians) else None

    @property
    def seconds(self) -> float | None:
        """Time of one row through all towers; None if unknown."""
        cost = self.cell.report.cost if self.cell.report else None
        return sum(cost.seconds.values()) if cost and cost.seconds else None

    @property
    def costs(self) -> tuple[float, float, float]:
        """Megabytes, milliseconds per row and error; 0 for unknown values."""
        cost = self.cell.report.cost if self.cell.report else None
        return (cost.bytes if cost else 0) / 1e6, (self.seconds or 0.0) * 1e3, self.error or 0.0


def cell_page(report: Report, data: PlotData | None, record: VariantRecord | None = None) -> str:
    """Render the page of one cell.

    Args:
        report: Report of the cell.
        data: Data of the plots and images; None if the artifact could not run that far.
        record: How the variant was derived; None if unknown.
    """
    cell = Cell(report.precision, report.provider, report.verdict, report=report, seconds=report.seconds)
    view = _view(1, cell, data, record)
    compared = f"Compared with {formatting.reference(report)} on {formatting.data(report.data)};"
    head = _Head(
        verdict=report.verdict,
        title=f"{report.artifact}, {cell.name}",
        meaning=_meaning(cell),
        subject=f"{compared} limits: {report.limits}.",
        limitation=report.data.scope,
        facts=tuple(_facts(report)),
    )
    return _render(head, (view,), None, (), _origin(report.created, report.seconds, report.data, report.environment))


def matrix_page(matrix: Matrix, data: Mapping[str, PlotData]) -> str:
    """Render the page of a gate.

    Args:
        matrix: Report of the gate.
        data: Data of the plots and images by cell name, for the cells that have some.
    """
    views = tuple(_view(i, cell, data.get(cell.name)) for i, cell in enumerate(matrix.cells, 1))
    head = _Head(
        verdict=matrix.verdict,
        title=matrix.artifact,
        meaning=f"{formatting.cell_counts(matrix)}.",
        subject=f"{len(views)} cells, compared with “{matrix.reference}” on {formatting.data(matrix.data)}.",
        limitation=matrix.data.scope,
        facts=(),
    )
    origin = _origin(matrix.created, matrix.seconds, matrix.data, matrix.environment)
    return _render(head, views, matrix, tuple(_tradeoffs(views)), origin)


def _render(
    head: _Head, views: tuple[_View, ...], matrix: Matrix | None, tradeoffs: tuple[_Figure, ...], origin: dict[str, str]
) -> str:
    """Render the template; lone surrogates, which file names can contain and UTF-8 cannot, become escapes."""
    content = {"head": head, "views": views, "matrix": matrix, "tradeoffs": tradeoffs, "origin": origin}
    html = _environment().get_template("report.html.jinja").render(content)
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
    functions = {"search_plot": _search_plot, "thumbnail": _thumbnail, "number": _number}
    environment.globals |= {"formatting": formatting, **functions}
    return environment


def _meaning(cell: Cell) -> str:
    missing = formatting.unmeasured(cell.report) if cell.report else ()
    return _MEANING[cell.verdict] + (f" Not measured: {', '.join(missing)}." if missing else "")


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    """Key figures, as label and value."""
    # Checks against a baseline are close to their limits by design.
    checks = [check for check in report.checks if check.group not in OPTIONAL]
    tightest = max(checks, key=lambda check: formatting.used_headroom(check) or 0.0, default=None)
    if tightest is not None and (used := formatting.used_headroom(tightest)):
        yield f"of the headroom used by the tightest check: {tightest.group}, {tightest.name}", f"{100 * used:.0f} %"
    if report.cost is not None:
        yield "size", formatting.size(report.cost.bytes)
        for role, seconds in report.cost.seconds.items():
            yield f"{role}, per row", formatting.duration(seconds)
        if report.cost.peak_bytes is not None:
            yield "peak memory", formatting.size(report.cost.peak_bytes)


def _origin(created: str, seconds: float, data: DataRecord, environment: Mapping[str, str]) -> dict[str, str]:
    validated = f"{created}, in {formatting.duration(seconds)}"
    return {"validated": validated, "data SHA-256": data.sha256} | dict(environment)


def _view(number: int, cell: Cell, data: PlotData | None, record: VariantRecord | None = None) -> _View:
    if data is None or cell.report is None:
        return _View(number, cell, record=record)
    return _View(number, cell, tuple(_figures(cell.report, data)), data.worst, record)


def _figures(report: Report, data: PlotData) -> Iterator[_Figure]:
    candidate, reference = data.candidate, data.reference
    limit = _limit(report, CheckGroup.LOGITS, "difference max")
    # inf - inf is NaN; _not_finite counts it, and no plot shows it.
    with np.errstate(invalid="ignore"):
        difference = candidate.astype(np.float64) - reference
    text = "One dot per image and label. On the solid line both logits are equal; the dashed lines are the limits."
    text += _not_finite(candidate, "logits")
    yield _Figure("Candidate logits over reference logits", text, plots.scatter(candidate, reference, limit))
    text = "Number of logits by difference; the axis is logarithmic to make single logits visible."
    text += _not_finite(difference, "differences")
    yield _Figure("Distribution of logit differences", text, plots.histogram(difference, limit))
    for role, cosines in data.cosines.items():
        names, limit = data.rows[role], _limit(report, CheckGroup.EMBEDDINGS, f"{role} centered cosine min")
        text = f"Distance of each row from the reference, worst first{_worst_row(cosines, names)}."
        plot = plots.samples(cosines, names, limit)
        yield _Figure(f"Centered cosine by row: {role}", text + _not_finite(cosines, "rows"), plot)


def _limit(report: Report, group: CheckGroup, name: str) -> float | None:
    return next((check.limit for check in report.checks if (check.group, check.name) == (group, name)), None)


def _not_finite(values: AnyArray, noun: str) -> str:
    """Note on NaN and infinite values, which the plots omit."""
    count = int(values.size - np.isfinite(values).sum())
    return f" {count} of {values.size} {noun} are NaN or infinite and not shown." if count else ""


def _worst_row(cosines: AnyArray, names: tuple[str, ...]) -> str:
    finite = np.flatnonzero(np.isfinite(cosines))
    if not finite.size:
        return ""
    worst = int(finite[np.argmin(cosines[finite])])
    return f": {names[worst]!r:.80} with {cosines[worst]:.6f}"


def _tradeoffs(views: tuple[_View, ...]) -> Iterator[_Figure]:
    """Plots of error over size and over time, with the Pareto front filled."""
    measured = [view for view in views if view.error is not None and view.seconds is not None]
    front = _pareto_front(measured)
    measured.sort(key=lambda view: view not in front)
    missing = [view.cell.name for view in views if view not in measured]
    text = "Lower and further left is better. Filled: the cell passes, and no passing cell is at least as good in size,"
    text += " time and error and better in one of them."
    text += f" Without numbers: {', '.join(missing)}." if missing else ""
    for title, axis, index in (("Error over size", "MB", 0), ("Error over time", "ms per row, all towers", 1)):
        points = [_point(view, view.costs[index], pareto=view in front) for view in measured]
        label = f"{title} of {len(points)} cells: " + "; ".join(point.title for point in points)
        yield _Figure(title, text, plots.tradeoff(points, axis, label))


def _pareto_front(views: list[_View]) -> list[_View]:
    """Passing cells that no other passing cell dominates in size, time and error."""
    costs = {view.number: view.costs for view in views if view.cell.verdict is Verdict.PASS}
    return [
        view
        for view in views
        if view.number in costs and not any(_dominates(other, view.costs) for other in costs.values())
    ]


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def _point(view: _View, cost: float, *, pareto: bool) -> plots.Point:
    megabytes, milliseconds, error = view.costs
    title = f"{view.cell.name}: {megabytes:.1f} MB, {milliseconds:.3g} ms, error {error:.2g}, {view.cell.verdict}"
    labels = view.cell.name, str(view.cell.precision), str(view.number)
    return plots.Point(cost, error, labels, title, f"{view.cell.verdict} {'pareto' if pareto else 'dominated'}")


def _search_plot(tower: Any) -> Markup | None:
    """Plot of the tower variants that a search timed; None for fewer than two."""
    steps = [step for step in tower.steps if step.measured.speed is not None]
    points = [
        plots.Point(
            step.measured.bytes / 1e6,
            1 - (step.measured.centered_cosine or 0.0),
            ("chosen",) if tuple(step.excluded) == tuple(tower.excluded) else (),
            f"{len(step.excluded)} kept, {step.measured.bytes / 1e6:.2f} MB, {step.measured.speed:.2f} times fp32",
            "pareto" if tuple(step.excluded) == tuple(tower.excluded) else "dominated",
        )
        for step in steps
    ]
    label = f"error over size of {len(points)} tower variants that the search measured"
    return plots.tradeoff(points, "MB", label) if len(points) > 1 else None


def _thumbnail(image: WorstImage) -> str:
    """Thumbnail as a data URI."""
    return f"data:image/webp;base64,{base64.b64encode(image.thumbnail).decode()}"


def _number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.6f}"
