"""Assertions that are recorded, so that the table in docs/compatibility.md lists exactly what was proved."""

from __future__ import annotations

from typing import Protocol

from .table import CompatibilityRow


class Prove(Protocol):
    """Assert that a difference is within its limit, and record it."""

    def __call__(self, consumer: str, version: str, variant: str, what: str, limit: float, measured: float) -> None: ...


class ProveUnsupported(Protocol):
    """Assert that a consumer refuses a variant with a certain message, and record it."""

    def __call__(self, consumer: str, version: str, variant: str, what: str, reason: str, message: str) -> None: ...


def proving(rows: list[CompatibilityRow]) -> Prove:
    """A `Prove` that records into a list."""

    def prove(consumer: str, version: str, variant: str, what: str, limit: float, measured: float) -> None:
        assert measured <= limit, f"{consumer} {version}, {variant}: {what} differ by {measured:.3g}, limit {limit:g}"
        rows.append(CompatibilityRow(consumer, version, variant, what, limit, measured))

    return prove


def proving_unsupported(rows: list[CompatibilityRow]) -> ProveUnsupported:
    """A `ProveUnsupported` that records into a list."""

    def prove(consumer: str, version: str, variant: str, what: str, reason: str, message: str) -> None:
        assert reason in message, f"{consumer} {version}, {variant}: expected {reason!r}, got {message!r}"
        rows.append(CompatibilityRow(consumer, version, variant, what, reason=reason))

    return prove
