"""Two processes that each work on a copy of their own."""

from __future__ import annotations

import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from . import EVERY
from .fault import Bench, Found, find

_PROCESSES: Final = 2
Item = TypeVar("Item")


def seek(bench: Bench, name: str) -> Found:
    """Put a fault into a copy of a bench, and see what finds it."""
    with tempfile.TemporaryDirectory(prefix="siglip-onnx-fault-") as folder:
        return find(bench.copy(Path(folder) / "bench"), EVERY[name])


def each(items: Sequence[Item], function: Callable[[Item], Found]) -> Iterator[tuple[Item, Found]]:
    """What a function makes of each item, in processes that start afresh: PyTorch's threads survive no fork."""
    with ProcessPoolExecutor(_PROCESSES, multiprocessing.get_context("spawn")) as pool:
        yield from zip(items, pool.map(function, items), strict=True)
