"""Compute a bounded number of results before they are needed."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

_In = TypeVar("_In")
_Out = TypeVar("_Out")


def prefetch(
    executor: Executor, function: Callable[[_In], _Out], items: Iterable[_In], depth: int
) -> Iterator[Future[_Out]]:
    """Futures of `function(item)`, in the order of the items; at most `depth` of them run or wait at a time.

    The caller's thread iterates over the items. If the caller stops early, calls that have not begun are cancelled.
    """
    source = iter(items)
    waiting = deque(executor.submit(function, item) for item in itertools.islice(source, depth))
    try:
        while waiting:
            future = waiting.popleft()
            waiting.extend(executor.submit(function, item) for item in itertools.islice(source, 1))
            yield future
    finally:
        for future in waiting:
            future.cancel()


def batched(items: Iterable[_In], size: int) -> Iterator[list[_In]]:
    """Lists of `size` items; the last list may be shorter."""
    source = iter(items)
    while batch := list(itertools.islice(source, size)):
        yield batch
