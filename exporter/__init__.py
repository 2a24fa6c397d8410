"""Checkpoints to artifacts. This is where PyTorch lives; `siglip_onnx.runtime` does without.

PyTorch is imported when `Checkpoint` or `export` is first used, so that quantizing can share `joint` and `interface`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .checkpoint import Checkpoint
    from .export import export

__all__ = ["Checkpoint", "export"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f".{name.lower()}", __name__), name)
    globals()[name] = found  # the submodule of that name would hide the function from the next import
    return found
