"""Log of a search, from which an interrupted search continues."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import msgspec

from ...runtime.files import write_file
from ..sites import Exclusions
from .goal import Measurement


@dataclass(frozen=True)
class SearchStep:
    """One trial of a search: the names that were left at higher precision, and the measurement."""

    excluded: tuple[str, ...]
    measured: Measurement


class SearchLog:
    """Every trial of a search, written to disk at once.

    Args:
        path: The JSON file; a missing or unreadable file is an empty log.
        key: Fingerprint of the search; the log of another search is ignored.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self.steps: dict[Exclusions, SearchStep] = {}
        if path.exists():
            self._read()

    def _read(self) -> None:
        try:
            key, steps = msgspec.json.decode(self.path.read_bytes(), type=tuple[str, list[SearchStep]])
        except (OSError, msgspec.DecodeError):
            return  # the log only saves time, so that an unreadable one is started anew
        if key == self.key:
            self.steps = {frozenset(step.excluded): step for step in steps}

    def add(self, step: SearchStep) -> None:
        """Add a trial; raises OSError if the file cannot be written."""
        self.steps[frozenset(step.excluded)] = step
        self.path.parent.mkdir(exist_ok=True)
        write_file(self.path, msgspec.json.encode((self.key, list(self.steps.values()))))

    def remove(self) -> None:
        """Remove the file."""
        self.path.unlink(missing_ok=True)


def fingerprint(**parts: object) -> str:
    """Return everything that the result of a search depends on as text."""
    return json.dumps(parts, sort_keys=True, default=str)
