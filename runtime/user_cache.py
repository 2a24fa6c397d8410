"""Where compiled models are kept from one start to the next.

They are kept in the user's own cache folder and not in the artifact: an artifact may come from elsewhere or lie where
nothing can be written, and what is in it is what its contract lists.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

VARIABLE: Final = "SIGLIP_ONNX_CACHE"


def folder(*parts: str) -> Path:
    """`$SIGLIP_ONNX_CACHE`, or siglip-onnx in the user's cache folder, and below it `parts`."""
    chosen = os.environ.get(VARIABLE)
    return (Path(chosen) if chosen else _user_folder() / "siglip-onnx").joinpath(*parts)


def _user_folder() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
