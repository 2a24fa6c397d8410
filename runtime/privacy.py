"""Opting out of what libraries send to their makers, before they are imported.

Each library has one place that imports it, and that place calls `opt_out` first. A variable that the user has set, to
whatever value, stays as it is.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

# Each variable, the value that opts out, and what the library would send otherwise. docs/dependencies.md says the same.
OPT_OUTS: Final = (
    # Events to Microsoft, with the hash of a device id in ~/.cache/Microsoft (from 1.29 on). Read once, at the import;
    # `disable_telemetry_events` comes too late for the id and the first event.
    ("ORT_DISABLE_TELEMETRY", "1"),
    # Usage statistics of the cluster, to Ray's makers.
    ("RAY_USAGE_STATS_ENABLED", "0"),
    # Which libraries and versions ask, with each request to the hub. Read once, at the import of huggingface_hub.
    ("HF_HUB_DISABLE_TELEMETRY", "1"),
)
_TELEMETRY: Final = "openvino_telemetry"  # the package, and the file with the user's answer


def choices() -> dict[str, str]:
    """Each variable with the user's value, or else the one that opts out."""
    return {name: os.environ.get(name, value) for name, value in OPT_OUTS}


def opt_out() -> None:
    """Set the variables in this process, and so in those that it starts."""
    for name, value in OPT_OUTS:
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def openvino_unreported() -> Iterator[None]:
    """Hide openvino-telemetry while OpenVINO is imported, unless the user has opted in by `opt_in_out --opt_in`.

    OpenVINO sends an event to Google Analytics whenever it is imported, and no variable of its own turns that off.
    Without the package it takes a stub.
    """
    if _opted_in():
        yield
        return
    # No lock, which a fork could find taken: a thread that comes second waits for the first one's import of OpenVINO.
    before = sys.modules.get(_TELEMETRY)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # the import system refuses such a name
    try:
        yield
    finally:
        sys.modules.pop(_TELEMETRY, None)  # others in this process may use it
        if before is not None:
            sys.modules[_TELEMETRY] = before


def _opted_in() -> bool:
    """Whether the file in which `opt_in_out` keeps the user's answer says yes."""
    windows = os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else None
    folder = Path(windows) / "Intel Corporation" if windows else Path.home() / "intel"
    try:
        return (folder / _TELEMETRY).read_bytes().strip() == b"1"
    except OSError:
        return False
