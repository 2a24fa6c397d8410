"""Layouts: an artifact's graphs in folders for other servers and libraries.

    write_layout("siglip-large", "immich/clip/ViT-L-16-SigLIP-384__webli", Layout.IMMICH)

Weights are linked, not copied, so a layout takes only a few megabytes. docs/layouts.md describes every layout.
"""

from __future__ import annotations

from ..options import Layout
from .write import write_layout

__all__ = ["Layout", "write_layout"]
