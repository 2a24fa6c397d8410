"""Which pairs calibrate a variant, which a search measures on, and which judge it: never the same."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...runtime.errors import InputError
from ...runtime.preprocessing.image import ImageOptions, load_image
from ...validate.data.samples import Samples

JUDGED: Final = 8  # as many as a verdict needs; see validate/limits/defaults.py
_BUNDLED: Final = 5  # of the photos that come with siglip-onnx


@dataclass(frozen=True)
class Data:
    """Pairs to calibrate with, pairs for a search to measure on, pairs to judge by, and unreadable images."""

    calibration: Samples
    searched: Samples
    judged: Samples
    skipped: tuple[str, ...] = ()


def read(folder: Path | None, due: int, asked: int | None, search: int = 0, *, skip_unreadable: bool) -> Data:
    """Take evenly spaced pairs out of all for calibration and for a search; the rest judges.

    Args:
        folder: Images with captions, in a form of docs/data.md; None for the bundled photos.
        due: How many pairs the recipe likes to calibrate with.
        asked: How many the user asked for, if so.
        search: How many pairs a search likes to measure on. It gets a quarter of all at most, as calibration does
            where nobody asked for more.
        skip_unreadable: Leave out images that cannot be read, instead of refusing them.

    Raises:
        InputError: An image cannot be read, or there are too few pairs.
    """
    samples, skipped = _readable(Samples.read(folder), skip_unreadable)
    there = len(samples.pairs)
    search = min(search, there // 4)
    spare = there - JUDGED - search
    due = min(due, _BUNDLED) if folder is None else due
    count = min(due, spare, there // (4 if search else 2)) if asked is None else asked
    if count > spare or (due and count < 1):
        raise InputError(
            f"{samples.name} has {there} pairs of image and caption, but {max(count, 1) + search} to calibrate with "
            f"and {JUDGED} others to judge by are needed.",
            f"Give more data, or ask for at most {spare} with --samples." if spare > 0 else "Give more data.",
        )
    taken = count + search
    spread = [i * there // taken for i in range(taken)]
    chosen = set(spread[:: taken // search][:search]) if search else set()
    calibrating = set(spread) - chosen
    judging = set(range(there)) - chosen - calibrating
    calibration, searched, judged = (samples.subset(sorted(rows)) for rows in (calibrating, chosen, judging))
    return Data(calibration, searched, judged, skipped)


def _readable(samples: Samples, skip: bool) -> tuple[Samples, tuple[str, ...]]:
    broken: dict[str, InputError] = {}
    for name in samples.images:
        try:
            with contextlib.closing(load_image(samples.images[name], ImageOptions())):
                pass
        except InputError as error:
            broken[name] = error
    if broken and not skip:
        first, problem = next(iter(broken.items()))
        raise InputError(
            f"{len(broken)} of {len(samples.images)} images cannot be read, first {first}: {problem.message}",
            "Replace them, or leave them out with --skip-unreadable.",
        )
    return samples.subset(i for i, name in enumerate(samples.images) if name not in broken), tuple(broken)
