"""The type of progress callbacks."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str], None]
"""Receives a short description of each step before it starts."""
