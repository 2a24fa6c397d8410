"""The report as one self-contained page: no script, no request, readable on a phone and in the dark."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import jinja2
import numpy as np

from ..runtime.image import ImageInput, ImageOptions, load_image
from . import metrics
from .report import Report, describe

if TYPE_CHECKING:
    from .ladder import Ladder

_POINTS: Final = 1500  # as many as a page of a few hundred kilobytes carries
_PICTURES: Final = 12
_LABELS: Final = 3


@dataclass(frozen=True)
class _Picture:
    name: str
    data: str
    ours: list[tuple[str, float]]
    reference: list[tuple[str, float]]


class Made(Protocol):
    """What the page tells of how a variant was made: `quantize.Record`, which lives beside this layer."""

    @property
    def towers(self) -> Any:
        """What was done to each tower."""


def _number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.6f}"


def _walked(tower: Any) -> dict[str, Any]:
    """Places on a square of 300 for the towers of a search that were timed, and the ends of its axes."""
    steps = [step for step in tower.walk if step.measured.speed is not None]
    sizes = np.array([step.measured.bytes / 1e6 for step in steps])
    errors = np.log10(np.maximum([1 - (step.measured.centred_cosine or 0.0) for step in steps], 1e-9))
    x, y = (300 * (v - v.min()) / ((v.max() - v.min()) or 1) for v in (sizes, errors))
    dots = [
        {
            "x": round(float(x[i]), 1),
            "y": round(300 - float(y[i]), 1),
            "chosen": tuple(step.keep) == tuple(tower.kept),
            "title": f"{len(step.keep)} kept, {sizes[i]:.2f} MB, {step.measured.speed:.2f} times fp32",
        }
        for i, step in enumerate(steps)
    ]
    ends = {"small": f"{sizes.min():.2f} MB", "large": f"{sizes.max():.2f} MB"}
    return {"dots": dots, "low": f"{10 ** errors.min():.1e}", "high": f"{10 ** errors.max():.1e}", **ends}


def page(report: Report, ladder: Ladder, made: Made | None = None) -> str:
    """The page; plots and pictures are left out where the artifact could not run that far."""
    try:
        evidence = _evidence(ladder)
    except Exception:  # a rung of the ladder has said so already
        evidence = {"points": [], "axis": [], "pictures": []}
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("siglip_onnx.validate", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("report.html.jinja").render(
        report=report, describe=describe, made=made, walked=_walked, number=_number, **evidence
    )


def _evidence(ladder: Ladder) -> dict[str, Any]:
    ours, theirs = ladder.label_logits
    rng = np.random.default_rng(0)
    chosen = rng.permutation(theirs.size)[:_POINTS]
    best = np.unique(np.concatenate([chosen, np.argsort(theirs, axis=None)[-_POINTS // 3 :]]))
    x, y = theirs.ravel()[best], ours.ravel()[best]
    sound = np.isfinite(y)
    low, high = float(min(x.min(), y[sound].min(initial=0))), float(max(x.max(), y[sound].max(initial=0)))

    def place(value: Any) -> Any:
        return np.round((value - low) / (high - low or 1) * 300, 1)

    points = list(zip(place(x[sound]).tolist(), (300 - place(y[sound])).tolist(), strict=True))
    return {"points": points, "axis": [round(low, 1), round(high, 1)], "pictures": _pictures(ladder, ours, theirs)}


def _pictures(ladder: Ladder, ours: Any, theirs: Any) -> list[_Picture]:
    """The pictures whose logits moved most, with the best labels before and after."""
    texts = ladder.label_names
    moved = np.argsort(-np.abs(ours - theirs).max(1))[:_PICTURES]
    names = list(ladder.samples.images)
    return [
        _Picture(names[i], _thumbnail(ladder.samples.images[names[i]]), _best(ours[i], texts), _best(theirs[i], texts))
        for i in moved
    ]


def _best(logits: Any, texts: list[str]) -> list[tuple[str, float]]:
    probabilities = metrics.sigmoid(logits)
    return [(texts[i], float(probabilities[i])) for i in np.argsort(-logits, kind="stable")[:_LABELS]]


def _thumbnail(image: ImageInput) -> str:
    picture = load_image(image, ImageOptions()).copy()
    picture.thumbnail((128, 128))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=80)
    return base64.b64encode(buffer.getvalue()).decode()
