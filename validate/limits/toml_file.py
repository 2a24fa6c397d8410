"""Limits file: a TOML file that overrides default limits.

[default]                  # all precisions and providers
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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final, Self

from ...runtime.artifact.contract import Precision, Provider
from ...runtime.errors import InputError
from .defaults import DEFAULT_LIMITS, Limits

DEFAULT: Final = "default"
_NAMES: Final = tuple(f.name for f in fields(Limits))
_INTEGERS: Final = frozenset({"samples"})  # at least 1
_PROBABILITIES: Final = frozenset({"threshold", "confidence"})  # between 0 and 1, both excluded
_FRACTIONS: Final = frozenset({"cosine", "centered_cosine", "top1", "top5", "order"})  # between 0 and 1
_MAX: Final = 1e9  # larger than any sensible limit; excludes infinities and, by comparison, NaN

_CELL_TABLES: Final = tuple(f"{precision}.{provider}" for precision in Precision for provider in Provider)

Overrides = Mapping[str, float]


@dataclass(frozen=True)
class LimitTable:
    """Limits of all precisions and providers.

    Attributes:
        overrides: Limits that differ from the defaults, by path of their TOML table, such as ("int8", "openvino").
        source: Description for the report: "defaults", or name and SHA-256 of the limits file.
    """

    overrides: Mapping[tuple[str, ...], Overrides] = field(default_factory=dict)
    source: str = "defaults"

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a limits file.

        Raises:
            InputError: The file cannot be read or is not valid TOML, or it contains an unknown table or limit or a
                value out of range.
        """
        try:
            data = path.read_bytes()
            tables = tomllib.loads(data.decode())
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            raise InputError(
                f"The limits file {path} cannot be read ({error}).", "See docs/parity.md for its format."
            ) from error
        return cls(dict(_flatten(path, tables)), f"{path.name}, SHA-256 {hashlib.sha256(data).hexdigest()}")

    def limits_for(self, precision: Precision, provider: Provider) -> Limits:
        """Limits of one cell; [PRECISION.PROVIDER] overrides [PRECISION], which overrides [default]."""
        limits = DEFAULT_LIMITS[precision]
        for table in ((DEFAULT,), (precision,), (precision, provider)):
            limits = replace(limits, **dict(self.overrides.get(tuple(map(str, table)), {})))  # type: ignore[arg-type]
        return limits


def _flatten(path: Path, tables: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], Overrides]]:
    """Yield all tables of a file with their path in it."""
    for name, table in tables.items():
        if not isinstance(table, dict):
            if name in _NAMES:
                raise InputError(f'{path}: the limit "{name}" is outside of any table.', f"Put it below [{DEFAULT}].")
            _check_name(path, "table", name, [DEFAULT, *Precision])
            raise InputError(f"{path}: {name} must be a table, got {table!r}.", f"Write [{name}] and its limits below.")
        _check_name(path, "table", name, [DEFAULT, *Precision])
        providers = {key: value for key, value in table.items() if isinstance(value, dict)}
        for provider, values in providers.items():
            _check_name(path, "table", f"{name}.{provider}", _CELL_TABLES)
            yield (name, provider), _checked(path, f"{name}.{provider}", values)
        yield (name,), _checked(path, name, {key: value for key, value in table.items() if key not in providers})


def _checked(path: Path, table: str, values: Mapping[str, Any]) -> Overrides:
    for name, value in values.items():
        _check_name(path, "limit", name, _NAMES, f" in [{table}]")
        if not _in_range(name, value):
            raise InputError(
                f"{path}: {name} in [{table}] must be {_range(name)}, got {value!r}.", "Correct the value."
            )
    return values


def _check_name(path: Path, kind: str, name: str, known: Sequence[str], place: str = "") -> None:
    if name not in known:
        matches = difflib.get_close_matches(name, known, 1)
        advice = f'Did you mean "{matches[0]}"?' if matches else f"Choose one of {', '.join(known)}."
        raise InputError(f'{path}: unknown {kind} "{name}"{place}.', advice)


def _in_range(name: str, value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _MAX:
        return False
    if name in _INTEGERS:
        return isinstance(value, int) and value >= 1
    if name in _PROBABILITIES:
        return 0 < value < 1
    return 0 <= value <= 1 if name in _FRACTIONS else value >= 0


def _range(name: str) -> str:
    if name in _INTEGERS:
        return "an integer of at least 1"
    if name in _PROBABILITIES:
        return "a number above 0 and below 1"
    return "a number between 0 and 1" if name in _FRACTIONS else "a number of at least 0"
