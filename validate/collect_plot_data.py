"""The evidence of a cell, from what its ladder measured."""

from __future__ import annotations

import io

import numpy as np

from ..runtime.artifact.contract import Role
from ..runtime.preprocessing.image import ImageOptions, load_image
from .checks.context import Ladder
from .reference.pytorch import Picture
from .report.plot_data import WORST, Array, Evidence, Worst
from .stats import metrics

_BEST = 5
_PLACES = 200_000  # logits that are kept; a page shows fewer
_SIDE = 128


def collect(ladder: Ladder) -> Evidence:
    """What a page is drawn from; raises whatever kept the ladder from measuring it."""
    ours, theirs = (np.asarray(x, np.float32) for x in ladder.label_logits)
    rows = max(1, _PLACES // ours.shape[1])
    some = np.sort(np.random.default_rng(0).permutation(len(ours))[:rows])
    names = {Role.VISION: tuple(ladder.names), Role.TEXT: ladder.samples.texts}
    cosines = {role: ladder.tower(role).centred for role in ladder.towers}
    return Evidence(ours[some], theirs[some], cosines, {role: names[role] for role in cosines}, _worst(ladder))


def _worst(ladder: Ladder) -> tuple[Worst, ...]:
    """The pictures whose logits moved most; those with a NaN first."""
    ours, theirs = ladder.label_logits
    moved = np.nan_to_num(np.abs(ours - theirs), nan=np.inf).max(1)
    chosen = np.argsort(-moved, kind="stable")[:WORST]
    return tuple(
        Worst(ladder.names[i], _thumbnail(ladder.files[int(i)]), _best(ladder, ours[i]), _best(ladder, theirs[i]))
        for i in chosen
    )


def _best(ladder: Ladder, logits: Array) -> tuple[tuple[str, float], ...]:
    probabilities = metrics.sigmoid(logits)
    best = np.argsort(-logits, kind="stable")[:_BEST]
    return tuple((ladder.label_names[i], float(probabilities[i])) for i in best)


def _thumbnail(image: Picture) -> bytes:
    picture = load_image(image, ImageOptions()).copy()
    picture.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=80)
    return buffer.getvalue()
