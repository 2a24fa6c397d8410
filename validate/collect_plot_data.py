"""Collect the data of a report's plots from what the checks have measured."""

from __future__ import annotations

import io
from typing import Final

import numpy as np

from ..runtime.arrays import AnyArray
from ..runtime.artifact.contract import Role
from ..runtime.preprocessing.image import ImageOptions, load_image
from .checks.context import CheckContext
from .data.images import ImageSource
from .report.plot_data import WORST, PlotData, WorstImage
from .stats import metrics

_TOP: Final = 5
_LOGITS: Final = 200_000  # upper bound of the logits in a file; a page shows fewer
_THUMBNAIL: Final = 128  # pixels of the longer side


def collect(context: CheckContext) -> PlotData:
    """Collect the data of a page's plots.

    Raises:
        Exception: The error that kept the checks from measuring them.
    """
    actual, expected = (np.asarray(x, np.float32) for x in context.logits.by_label)
    count = max(1, _LOGITS // expected.shape[1])
    rows = np.sort(np.random.default_rng(0).permutation(len(actual))[:count])
    names = {Role.VISION: tuple(context.inputs.names), Role.TEXT: context.samples.texts}
    cosines = {role: context.tower(role).centered for role in context.roles}
    return PlotData(actual[rows], expected[rows], cosines, {role: names[role] for role in cosines}, _worst(context))


def _worst(context: CheckContext) -> tuple[WorstImage, ...]:
    """The images whose logits differ most; those with a NaN first."""
    actual, expected = context.logits.by_label
    difference = np.nan_to_num(np.abs(actual - expected), nan=np.inf).max(1)
    chosen = np.argsort(-difference, kind="stable")[:WORST].tolist()
    return tuple(
        WorstImage(
            context.inputs.names[i],
            _thumbnail(context.inputs.images[i]),
            _best_labels(context, actual[i]),
            _best_labels(context, expected[i]),
        )
        for i in chosen
    )


def _best_labels(context: CheckContext, logits: AnyArray) -> tuple[tuple[str, float], ...]:
    probabilities, names = metrics.sigmoid(logits), context.label_names
    best = np.argsort(-logits, kind="stable")[:_TOP]
    return tuple((names[i], float(probabilities[i])) for i in best)


def _thumbnail(source: ImageSource) -> bytes:
    image = load_image(source, ImageOptions()).copy()
    image.thumbnail((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=80)
    return buffer.getvalue()
