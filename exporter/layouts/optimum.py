"""Optimum's layout: one flat folder for ORTModelForZeroShotImageClassification.from_pretrained."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from ...runtime.artifact.contract import Role
from .common import MODEL, LayoutSource

# Optimum opens `model.onnx` by default (`ONNX_WEIGHTS_NAME` in optimum/onnxruntime/utils).
_NAMES: Final = {Role.JOINT: MODEL, Role.VISION: "vision_model.onnx", Role.TEXT: "text_model.onnx"}


def files(source: LayoutSource) -> tuple[str, ...]:
    """Configuration and tokenizer files: the artifact's files that are not in a subfolder."""
    return tuple(name for name in source.contract.files if "/" not in name)


def write(source: LayoutSource, folder: Path) -> None:
    """Write both towers, the joint graph and all configuration into one folder; each precision has the same names."""
    for role, name in _NAMES.items():
        source.place_data(role, folder)
        shutil.copyfile(source.artifact.path(source.graph(role).path), folder / name)
    for name in files(source):
        source.copy_file(name, folder / name)
