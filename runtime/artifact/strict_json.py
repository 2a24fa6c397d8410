"""Decode JSON into dataclasses and refuse unknown keys.

msgspec's forbid_unknown_fields only exists for its Structs. The contract's classes are dataclasses because all rooms
change them with `dataclasses.replace`, mixed with other dataclasses.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

_T = TypeVar("_T")


def decode_strict(data: bytes, kind: type[_T]) -> _T:
    """Decode JSON into `kind`.

    Raises:
        msgspec.DecodeError: The data is not JSON, does not fit `kind` or has an unknown key; the message names where.
    """
    value = msgspec.json.decode(data, type=kind)
    if unknown := _unknown_key(msgspec.json.decode(data), msgspec.json.decode(msgspec.json.encode(value)), "$"):
        raise msgspec.ValidationError(f"Object contains an unknown field at {unknown}")
    return value


def _unknown_key(data: object, known: object, place: str) -> str | None:
    """The place of a key in `data` that `known` lacks, so that a misspelled key does not become a default."""
    if isinstance(data, dict) and isinstance(known, dict):
        if extra := data.keys() - known.keys():
            return f"`{place}.{min(extra)}`"
        pairs = [(data[key], known[key], f"{place}.{key}") for key in data]
    elif isinstance(data, list) and isinstance(known, list):
        pairs = [(a, b, f"{place}[{i}]") for i, (a, b) in enumerate(zip(data, known, strict=True))]
    else:
        return None
    return next(filter(None, (_unknown_key(*pair) for pair in pairs)), None)
