"""Labels, prompt templates, the warning about truncated texts, and the cache of text embeddings."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from ..arrays import FloatArray, IntArray
from ..errors import InputError
from .tokenizer import Truncation

DEFAULT_ENTRIES: Final = 4096  # 16 MB at 1024 numbers each


@dataclass(frozen=True)
class Label:
    """A label and the probability that it fits an image; the probabilities of several labels do not sum to 1."""

    label: str
    probability: float


class TextTruncatedWarning(UserWarning):
    """A text is longer than the model reads, and its end is ignored."""


def warn_truncated(truncation: Truncation) -> None:
    """Warn about a truncated text, with the last words that the model reads."""
    warnings.warn(
        f"Text {truncation.index} ({truncation.text[:40]!r} …) has {truncation.tokens} tokens and the model reads "
        f"{truncation.max_tokens}; truncated after {truncation.last_words!r}.",
        TextTruncatedWarning,
        stacklevel=2,
    )


def read_labels(data: bytes, name: str) -> list[str]:
    """The lines of a UTF-8 file, without blank lines and surrounding white space.

    Args:
        data: Content of the file; a byte order mark is ignored.
        name: Name of the file in error messages.

    Raises:
        InputError: The file is not UTF-8, or has no label.
    """
    try:
        lines = data.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not UTF-8 ({error.reason} at byte {error.start}).", "Save it as UTF-8.") from error
    labels = [stripped for line in lines if (stripped := line.strip())]
    if not labels:
        raise InputError(f"{name} has no label.", "Write one label on each line.")
    return labels


def format_prompts(templates: str | Sequence[str], labels: Sequence[str]) -> list[list[str]]:
    """The prompts of each label: every template with `{}` replaced by the label.

    Raises:
        InputError: There is no template, a template has no `{}`, or a label is not a string.
    """
    chosen = [templates] if isinstance(templates, str) else list(templates)
    if not chosen:
        raise InputError("Expected a template, got none.", 'Pass "{}" for the bare label.')
    for template in chosen:
        if "{}" not in template:
            raise InputError(f"The template {template!r} has no {{}}.", "Write {} where the label belongs.")
    for label in labels:
        if not isinstance(label, str):
            raise InputError(f"A label must be a string, got {type(label).__name__}.", "Pass a list of str.")
    return [[template.replace("{}", label) for template in chosen] for label in labels]


class TextCache:
    """Cache of text embeddings, keyed by the variant's hash and the text's ids; the least recently used go first.

    Threads and models may share a cache. Embeddings are cached before they are normalized.

    Args:
        entries: Maximum number of embeddings; 0 turns the cache off.

    Raises:
        InputError: `entries` is negative.

    >>> cache = TextCache(100)
    >>> model = Siglip.load(folder, text_cache=cache)
    >>> _ = model.encode_text(["a bear", "pizza", "a bear"])
    >>> len(cache)
    2
    """

    def __init__(self, entries: int = DEFAULT_ENTRIES) -> None:
        if entries < 0:
            raise InputError(f"entries must be at least 0, got {entries}.", "Pass 0 to turn the cache off.")
        self.entries = entries
        self._rows: OrderedDict[tuple[str, bytes], FloatArray] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._rows)

    def encode(self, identity: str, ids: IntArray, encode: Callable[[IntArray], FloatArray]) -> FloatArray:
        """The embedding of each text, float32 [texts, size].

        Args:
            identity: Hash of the variant.
            ids: int64 [texts, length].
            encode: Computes embeddings; called once at most, with the distinct rows that are not cached.
        """
        keys = [(identity, row.tobytes()) for row in ids]
        first = {key: index for index, key in reversed(list(enumerate(keys)))}
        rows = self._get(first)
        missing = [key for key in first if key not in rows]
        if missing:
            encoded = dict(zip(missing, encode(ids[[first[key] for key in missing]]), strict=True))
            rows |= encoded
            self._put(encoded)
        return np.stack([rows[key] for key in keys])

    def _get(self, keys: Iterable[tuple[str, bytes]]) -> dict[tuple[str, bytes], FloatArray]:
        with self._lock:
            rows = {key: self._rows[key] for key in keys if key in self._rows}
            for key in rows:
                self._rows.move_to_end(key)
        return rows

    def _put(self, rows: dict[tuple[str, bytes], FloatArray]) -> None:
        with self._lock:
            for key, row in list(rows.items())[-self.entries :] if self.entries else ():
                self._rows[key] = row.copy()  # a view would keep its whole batch alive
            while len(self._rows) > self.entries:
                self._rows.popitem(last=False)
