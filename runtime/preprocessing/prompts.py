"""Texts on their way into the text tower: templates, what is cut off, and embeddings that are known already."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .tokenizer import Truncation

FloatArray = NDArray[np.float32]
DEFAULT_ENTRIES = 4096  # 16 MB at 1024 numbers each


class TextTruncatedWarning(UserWarning):
    """A text is longer than the model reads; the end of it counts for nothing."""


def warn_truncated(cut: Truncation) -> None:
    """Warn of a text that is too long, and say behind which words it is cut."""
    warnings.warn(
        f"Text {cut.place} ({cut.text[:40]!r} …) has {cut.pieces} pieces, of which the model reads {cut.read}: it is "
        f"cut behind {cut.last_words!r}.",
        TextTruncatedWarning,
        stacklevel=2,
    )


def format_prompts(templates: str | Sequence[str], labels: Sequence[str]) -> list[list[str]]:
    """For each label every template with the label in the place of `{}`.

    Raises:
        InputError: There is no template, one has no `{}`, or a label is no string.
    """
    chosen = [templates] if isinstance(templates, str) else list(templates)
    if not chosen:
        raise InputError("There is no template.", 'Pass "{}" for the bare label.')
    for template in chosen:
        if "{}" not in template:
            raise InputError(f"The template {template!r} has no place for a label.", "Write {} where it belongs.")
    if not all(isinstance(label, str) for label in labels):
        raise InputError("A label is no string.", "Pass a list of str.")
    return [[template.replace("{}", label) for template in chosen] for label in labels]


class TextCache:
    """Embeddings of texts, as the tower gives them, by the variant's hash and the text's ids; the oldest go first.

    Threads and models may share one.

    Args:
        entries: How many it holds at most; 0 holds none.

    >>> cache = TextCache(100)
    >>> model = Siglip.load(folder, text_cache=cache)
    >>> _ = model.encode_text(["a bear", "pizza", "a bear"])
    >>> len(cache)
    2
    """

    def __init__(self, entries: int = DEFAULT_ENTRIES) -> None:
        if entries < 0:
            raise InputError(f"A cache cannot hold {entries} entries.", "Use 0 for none.")
        self.entries = entries
        self._known: OrderedDict[tuple[str, bytes], FloatArray] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._known)

    def encode(
        self, identity: str, ids: NDArray[np.int64], encode: Callable[[NDArray[np.int64]], FloatArray]
    ) -> FloatArray:
        """The embedding of each row of ids, float32 [rows, size]; `encode` is asked once for each new row."""
        keys = [(identity, row.tobytes()) for row in ids]
        first = {key: place for place, key in reversed(list(enumerate(keys)))}
        found = self._get(first)
        new = [key for key in first if key not in found]
        if new:
            rows = encode(ids[[first[key] for key in new]])
            found |= dict(zip(new, rows, strict=True))
            self._put({key: found[key] for key in new})
        return np.stack([found[key] for key in keys])

    def _get(self, keys: Iterable[tuple[str, bytes]]) -> dict[tuple[str, bytes], FloatArray]:
        with self._lock:
            found = {key: self._known[key] for key in keys if key in self._known}
            for key in found:
                self._known.move_to_end(key)
        return found

    def _put(self, rows: dict[tuple[str, bytes], FloatArray]) -> None:
        with self._lock:
            for key, row in list(rows.items())[-self.entries :] if self.entries else ():
                self._known[key] = row.copy()  # a row of its own, or it would keep its whole batch alive
            while len(self._known) > self.entries:
                self._known.popitem(last=False)
