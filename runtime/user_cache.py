"""The user's cache folder, for compiled models and other results that can be computed again.

They are not kept in the artifact, which may be read-only, and whose contract lists every file.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

VARIABLE: Final = "SIGLIP_ONNX_CACHE"


def folder(*parts: str) -> Path:
    """`$SIGLIP_ONNX_CACHE`, or siglip-onnx in the user's cache folder, joined with `parts`."""
    value = os.environ.get(VARIABLE)
    return (Path(value) if value else _user_folder() / "siglip-onnx").joinpath(*parts)


def _user_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
