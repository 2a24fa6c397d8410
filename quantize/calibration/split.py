"""Split of the data into pairs to calibrate with, pairs to search on, and pairs to validate on; they never overlap."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ...runtime.errors import InputError
from ...runtime.preprocessing.image import ImageOptions, load_image
from ...validate.data.samples import Samples

VALIDATION_PAIRS: Final = 8  # the fewest that a verdict needs; see validate/limits/defaults.py
_BUNDLED_PAIRS: Final = 5  # calibration pairs of the photos that come with siglip-onnx


@dataclass(frozen=True)
class CalibrationSplit:
    """Pairs of images and captions by purpose.

    Attributes:
        calibration: Pairs to calibrate with.
        search: Pairs on which a search measures towers.
        validation: Pairs to validate the variant on.
        skipped: Names of the images that could not be read.
    """

    calibration: Samples
    search: Samples
    validation: Samples
    skipped: tuple[str, ...] = ()


def split_pairs(
    folder: Path | None, default_count: int, count: int | None, search_count: int = 0, *, skip_unreadable: bool
) -> CalibrationSplit:
    """Take evenly spaced pairs for calibration and for a search, and leave the others for validation.

    Args:
        folder: Images with captions, in a form of docs/data.md; None for the bundled photos.
        default_count: Calibration pairs that the recipe asks for; fewer are taken if data is short.
        count: Calibration pairs that the user asks for; None for the recipe's number.
        search_count: Pairs that a search asks for; it gets a quarter of all at most.
        skip_unreadable: Leave out images that cannot be read, instead of refusing them.

    Raises:
        InputError: An image cannot be read, or there are too few pairs.
    """
    samples, skipped = _readable(Samples.read(folder), skip_unreadable)
    total = len(samples.pairs)
    search_count = min(search_count, total // 4)
    available = total - VALIDATION_PAIRS - search_count
    if folder is None:
        default_count = min(default_count, _BUNDLED_PAIRS)
    if count is None:
        count = min(default_count, available, total // (4 if search_count else 2))
    if count > available or (default_count and count < 1):
        raise _too_few(samples, max(count, 1) + search_count, available)
    calibration, search = _spread(total, count, search_count)
    rows = (calibration, search, set(range(total)) - calibration - search)
    return CalibrationSplit(*(samples.subset(sorted(part)) for part in rows), skipped=skipped)


def _spread(total: int, calibration_count: int, search_count: int) -> tuple[set[int], set[int]]:
    """Evenly spaced rows for calibration and for a search."""
    taken = calibration_count + search_count
    rows = [i * total // taken for i in range(taken)]
    search = set(rows[:: taken // search_count][:search_count]) if search_count else set()
    return set(rows) - search, search


def _too_few(samples: Samples, needed: int, available: int) -> InputError:
    return InputError(
        f"{samples.name} has {len(samples.pairs)} pairs of an image and a caption, but {needed} to calibrate with and "
        f"{VALIDATION_PAIRS} others to validate on are needed.",
        f"Give more data, or ask for at most {available} calibration pairs." if available > 0 else "Give more data.",
    )


def _readable(samples: Samples, skip: bool) -> tuple[Samples, tuple[str, ...]]:
    """The pairs whose images can be read, and the names of the other images."""
    errors: dict[str, InputError] = {}
    for name in samples.images:
        try:
            with contextlib.closing(load_image(samples.images[name], ImageOptions())):
                pass
        except InputError as error:
            errors[name] = error
    if errors and not skip:
        first, error = next(iter(errors.items()))
        raise InputError(
            f"{len(errors)} of {len(samples.images)} images cannot be read, first {first}: {error.message}",
            "Replace them, or skip unreadable images.",
        )
    return samples.subset(i for i, name in enumerate(samples.images) if name not in errors), tuple(errors)
