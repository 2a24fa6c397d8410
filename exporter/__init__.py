"""Export of SigLIP checkpoints to ONNX artifacts.

The public names are loaded on first use: reading options, config files or graph names does not import PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .checkpoint.checkpoint import Checkpoint
    from .classifier import freeze_labels
    from .export_artifact import export
    from .options import Dialect, ExportOptions, GraphInput

__all__ = ["Checkpoint", "Dialect", "ExportOptions", "GraphInput", "export", "freeze_labels"]
_MODULES: Final = {
    "Checkpoint": ".checkpoint.checkpoint",
    "Dialect": ".options",
    "ExportOptions": ".options",
    "GraphInput": ".options",
    "export": ".export_artifact",
    "freeze_labels": ".classifier",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name], __name__), name)
