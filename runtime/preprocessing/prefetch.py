"""Work ahead of whoever needs it, by a bounded number of items."""

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
    """`function` of each item, in order, as futures; at most `depth` items are worked on or waiting to be taken.

    Items are taken from their iterable in the caller's thread. When the caller stops early, what was not begun is not.
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
    """Lists of `size` items; the last one may be shorter."""
    source = iter(items)
    while batch := list(itertools.islice(source, size)):
        yield batch
