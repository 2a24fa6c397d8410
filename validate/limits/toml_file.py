"""The user's own limits: a TOML file that changes the defaults.

[default]                  # every precision and provider
threshold = 0.35
[int8]                     # one precision
centered_cosine = 0.985
[int8.openvino]            # one precision on one provider
logit_max = 2.0
"""

from __future__ import annotations

import difflib
import hashlib
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Self

from ...runtime.artifact.contract import Precision, Provider
from ...runtime.errors import InputError
from .defaults import DEFAULT_LIMITS, Limits

DEFAULT: Final = "default"
_KNOWN: Final = {f.name: f.type for f in fields(Limits)}
_WHOLE: Final = frozenset({"samples"})
_OPEN: Final = frozenset({"threshold", "confidence"})  # strictly between 0 and 1
_LARGE: Final = 1e9  # more than any limit makes sense for; an infinity or a NaN is no less
_SHARES: Final = frozenset({"cosine", "centered_cosine", "top1", "top5", "order"})  # between 0 and 1

Changes = Mapping[str, int | float]  # msgspec must not turn an int into a float


@dataclass(frozen=True)
class LimitTable:
    """The limits of every precision on every provider.

    Attributes:
        changes: What differs from the defaults, by the table of the file that says so.
        source: What the report calls them.
    """

    changes: Mapping[tuple[str, ...], Changes] = field(default_factory=dict)
    source: str = "defaults"

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a TOML file.

        Raises:
            InputError: The file is missing or no TOML, or a table or value in it is none that gates have.
        """
        try:
            data = path.read_bytes()
            tables = tomllib.loads(data.decode())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            raise InputError(
                f"The gates {path} cannot be read ({error}).", "See docs/parity.md for the form."
            ) from error
        changes = dict(_flat(path, tables))
        return cls(changes, f"{path.name}, SHA-256 {hashlib.sha256(data).hexdigest()}")

    def of(self, precision: Precision, provider: Provider) -> Limits:
        """The limits of one cell; the more special table wins."""
        gate = DEFAULT_LIMITS[precision]
        for table in ((DEFAULT,), (precision,), (precision, provider)):
            gate = replace(gate, **dict(self.changes.get(tuple(map(str, table)), {})))  # type: ignore[arg-type]
        return gate


def _flat(path: Path, tables: Mapping[str, Any]) -> Iterable[tuple[tuple[str, ...], Changes]]:
    for name, table in tables.items():
        _known(path, "table", name, [DEFAULT, *Precision])
        if not isinstance(table, dict):
            raise InputError(f"{path}: {name} is {table!r}, not a table.", f"Write [{name}] and its limits below it.")
        inner = {key: value for key, value in table.items() if isinstance(value, dict)}
        for provider, values in inner.items():
            _known(path, f"table in [{name}]", provider, list(Provider) if name != DEFAULT else [])
            yield (name, provider), _values(path, f"{name}.{provider}", values)
        yield (name,), _values(path, name, {key: value for key, value in table.items() if key not in inner})


def _values(path: Path, table: str, values: Mapping[str, Any]) -> Changes:
    for name, value in values.items():
        _known(path, f"limit in [{table}]", name, list(_KNOWN))
        if not _fits(name, value):
            raise InputError(f"{path}: {name} in [{table}] is {value!r}.", f"It is a number {_range(name)}.")
    return values


def _known(path: Path, kind: str, name: str, known: list[str]) -> None:
    if name not in known:
        close = difflib.get_close_matches(name, known, 1)
        advice = f"Did you mean {close[0]}?" if close else f"Known are: {', '.join(known) or 'none'}."
        raise InputError(f"{path} has a {kind} {name!r}, which there is not.", advice)


def _fits(name: str, value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGE:
        return False
    if name in _WHOLE:
        return isinstance(value, int) and value >= 1
    if name in _OPEN:
        return 0 < value < 1
    return 0 <= value <= 1 if name in _SHARES else value >= 0


def _range(name: str) -> str:
    if name in _WHOLE:
        return "of at least 1 without a fraction"
    if name in _OPEN:
        return "above 0 and below 1"
    return "from 0 to 1" if name in _SHARES else "of at least 0"
