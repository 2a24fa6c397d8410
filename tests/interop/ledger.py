"""Assertions that are recorded, so that the table in docs/compatibility.md says what was proved and nothing else."""

from __future__ import annotations

from typing import Protocol

from .table import Row


class Prove(Protocol):
    """Assert that a difference is within its limit, and record that it was."""

    def __call__(self, consumer: str, version: str, variant: str, what: str, limit: float, found: float) -> None: ...


class Cannot(Protocol):
    """Assert that a consumer refuses a variant, in these words, and record that it cannot."""

    def __call__(self, consumer: str, version: str, variant: str, what: str, reason: str, said: str) -> None: ...


def proving(rows: list[Row]) -> Prove:
    """Prove, into a list."""

    def prove(consumer: str, version: str, variant: str, what: str, limit: float, found: float) -> None:
        assert found <= limit, f"{consumer} {version}, {variant}: {what} differ by {found:.3g}, at most {limit:g}"
        rows.append(Row(consumer, version, variant, what, limit, found))

    return prove


def refusing(rows: list[Row]) -> Cannot:
    """Cannot, into a list."""

    def cannot(consumer: str, version: str, variant: str, what: str, reason: str, said: str) -> None:
        assert reason in said, f"{consumer} {version}, {variant}: expected {reason!r}, got {said!r}"
        rows.append(Row(consumer, version, variant, what, reason=reason))

    return cannot
