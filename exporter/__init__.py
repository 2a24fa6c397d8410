"""Checkpoints to artifacts. This is where PyTorch lives; `siglip_onnx.runtime` does without.

PyTorch is imported when `Checkpoint` or `export` is first used, so that quantizing can share `joint` and `interface`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .checkpoint.checkpoint import Checkpoint
    from .checkpoint.dialects import Dialect
    from .classifier import freeze_labels
    from .export_artifact import export
    from .options import ExportOptions, GraphInput

__all__ = ["Checkpoint", "Dialect", "ExportOptions", "GraphInput", "export", "freeze_labels"]
_HOMES = {
    "Checkpoint": ".checkpoint.checkpoint",
    "Dialect": ".checkpoint.dialects",
    "ExportOptions": ".options",
    "GraphInput": ".options",
    "export": ".export_artifact",
    "freeze_labels": ".classifier",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)
