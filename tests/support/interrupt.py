"""Interrupts a job from its progress callback, as a crash in the middle would."""

from __future__ import annotations

from collections.abc import Callable


class StoppedError(Exception):
    """Raised by `stop_after`."""


def stop_after(rows: int) -> Callable[[int, int], None]:
    """A progress callback of `embed` that raises StoppedError once so many rows are done."""

    def progress(done: int, errors: int) -> None:
        if done >= rows:
            raise StoppedError

    return progress
