"""Checkpoints to artifacts. This is where PyTorch lives; `siglip_onnx.runtime` does without."""

from .checkpoint import Checkpoint
from .export import export

__all__ = ["Checkpoint", "export"]
