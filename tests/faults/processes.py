"""Runs faults in two processes, each on a copy of the fixture."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from . import EVERY
from .fault import FaultFixture, FaultOutcome, run_fault

_PROCESSES: Final = 2
Item = TypeVar("Item")


def run_on_copy(fixture: FaultFixture, name: str) -> FaultOutcome:
    """Put a fault into a copy of a fixture, and validate it."""
    with tempfile.TemporaryDirectory(prefix="siglip-onnx-fault-") as folder:
        return run_fault(fixture.copy(Path(folder) / "fixture"), EVERY[name])


def map_in_processes(
    items: Sequence[Item], function: Callable[[Item], FaultOutcome]
) -> Iterator[tuple[Item, FaultOutcome]]:
    """Yield each item with the function's result, computed in spawned processes; PyTorch's threads survive no fork."""
    with ProcessPoolExecutor(_PROCESSES, multiprocessing.get_context("spawn")) as pool:
        yield from zip(items, pool.map(function, items), strict=True)
