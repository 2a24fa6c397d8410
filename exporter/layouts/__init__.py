"""Layouts: an artifact's graphs in the folders that other servers and libraries read.

    write_layout(Path("siglip-large"), Path("immich/clip/…"), Layout.IMMICH)

Weights are linked, not copied, so a layout takes a few megabytes. docs/layouts.md says who reads what, and how exactly.
"""

from __future__ import annotations

from ..options import Layout
from .common import LayoutSource, Progress
from .write import write_layout

__all__ = ["Layout", "LayoutSource", "Progress", "write_layout"]
