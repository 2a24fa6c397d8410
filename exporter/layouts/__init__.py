"""Layouts: an artifact's graphs in folders for other servers and libraries.

    write_layout(Path("siglip-large"), Path("immich/clip/…"), Layout.IMMICH)

Weights are linked, not copied, so a layout takes only a few megabytes. docs/layouts.md describes every layout.
"""

from __future__ import annotations

from ..options import Layout
from .common import LayoutSource, Progress
from .write import write_layout

__all__ = ["Layout", "LayoutSource", "Progress", "write_layout"]
