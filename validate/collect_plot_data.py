"""The evidence of a cell, from what its ladder measured."""

from __future__ import annotations

import io

import numpy as np

from ..runtime.arrays import AnyArray
from ..runtime.artifact.contract import Role
from ..runtime.preprocessing.image import ImageOptions, load_image
from .checks.context import CheckContext
from .reference.pytorch import ImageSource
from .report.plot_data import WORST, PlotData, WorstImage
from .stats import metrics

_BEST = 5
_PLACES = 200_000  # logits that are kept; a page shows fewer
_SIDE = 128


def collect(context: CheckContext) -> PlotData:
    """What a page is drawn from; raises whatever kept the ladder from measuring it."""
    ours, theirs = (np.asarray(x, np.float32) for x in context.label_logits)
    rows = max(1, _PLACES // ours.shape[1])
    some = np.sort(np.random.default_rng(0).permutation(len(ours))[:rows])
    names = {Role.VISION: tuple(context.names), Role.TEXT: context.samples.texts}
    cosines = {role: context.tower(role).centered for role in context.towers}
    return PlotData(ours[some], theirs[some], cosines, {role: names[role] for role in cosines}, _worst(context))


def _worst(context: CheckContext) -> tuple[WorstImage, ...]:
    """The images whose logits moved most; those with a NaN first."""
    ours, theirs = context.label_logits
    moved = np.nan_to_num(np.abs(ours - theirs), nan=np.inf).max(1)
    chosen = np.argsort(-moved, kind="stable")[:WORST]
    return tuple(
        WorstImage(
            context.names[i], _thumbnail(context.files[int(i)]), _best(context, ours[i]), _best(context, theirs[i])
        )
        for i in chosen
    )


def _best(context: CheckContext, logits: AnyArray) -> tuple[tuple[str, float], ...]:
    probabilities = metrics.sigmoid(logits)
    best = np.argsort(-logits, kind="stable")[:_BEST]
    return tuple((context.label_names[i], float(probabilities[i])) for i in best)


def _thumbnail(image: ImageSource) -> bytes:
    image = load_image(image, ImageOptions()).copy()
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=80)
    return buffer.getvalue()
