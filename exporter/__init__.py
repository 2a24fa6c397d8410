"""Checkpoints to artifacts. This is where PyTorch lives; `siglip_onnx.runtime` does without.

PyTorch is imported when `Checkpoint` or `export` is first used, so that quantizing can share `joint` and `interface`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .checkpoint import Checkpoint
    from .dialects import Dialect
    from .freeze import freeze_labels
    from .options import ExportOptions, ImageInput
    from .run import export

__all__ = ["Checkpoint", "Dialect", "ExportOptions", "ImageInput", "export", "freeze_labels"]
_HOMES = {
    "Checkpoint": ".checkpoint",
    "Dialect": ".dialects",
    "ExportOptions": ".options",
    "ImageInput": ".options",
    "export": ".run",
    "freeze_labels": ".freeze",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)
