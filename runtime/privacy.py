"""Turn off the telemetry of libraries before they are imported.

Each library is imported in one place, which calls `opt_out` first. Variables that the user has set are not changed.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

# Each variable with the value that opts out; the comments name the telemetry. docs/dependencies.md has the same list.
OPT_OUTS: Final = (
    # ONNX Runtime 1.29 and later: events to Microsoft, with the hash of a device id in ~/.cache/Microsoft. Read at
    # import; `disable_telemetry_events` is too late for the id and the first event.
    ("ORT_DISABLE_TELEMETRY", "1"),
    # Ray: usage statistics of the cluster, to Anyscale.
    ("RAY_USAGE_STATS_ENABLED", "0"),
    # huggingface_hub: names and versions of libraries, with each request to the hub. Read at import.
    ("HF_HUB_DISABLE_TELEMETRY", "1"),
)
_TELEMETRY: Final = "openvino_telemetry"  # name of the package, and of the file with the user's choice


def choices() -> dict[str, str]:
    """Each variable with the user's value, or with the value that opts out."""
    return {name: os.environ.get(name, value) for name, value in OPT_OUTS}


def opt_out() -> None:
    """Set the variables in this process, whose children inherit them."""
    for name, value in OPT_OUTS:
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def openvino_unreported() -> Iterator[None]:
    """Hide openvino-telemetry while OpenVINO is imported, unless the user opted in with `opt_in_out --opt_in`.

    OpenVINO sends an event to Google Analytics at every import, and has no variable that turns it off. Without the
    openvino-telemetry package, it uses a stub.
    """
    if _opted_in():
        yield
        return
    # No lock, which a fork could leave locked: a second thread waits for the first one's import of OpenVINO anyway.
    before = sys.modules.get(_TELEMETRY)
    sys.modules[_TELEMETRY] = None  # type: ignore[assignment]  # None makes imports fail
    try:
        yield
    finally:
        sys.modules.pop(_TELEMETRY, None)  # other code in this process may use it
        if before is not None:
            sys.modules[_TELEMETRY] = before


def _opted_in() -> bool:
    """Whether the file with the user's choice, which `opt_in_out` writes, says yes."""
    windows = os.environ.get("LOCALAPPDATA") if sys.platform == "win32" else None
    folder = Path(windows) / "Intel Corporation" if windows else Path.home() / "intel"
    try:
        return (folder / _TELEMETRY).read_bytes().strip() == b"1"
    except OSError:
        return False
