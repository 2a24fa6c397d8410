"""Optimum's layout: one flat folder, which ORTModelForZeroShotImageClassification.from_pretrained opens."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from ...runtime.artifact.contract import Role
from .common import MODEL, LayoutSource

# `model.onnx` is what Optimum opens when it is told no name (`ONNX_WEIGHTS_NAME` in optimum/onnxruntime/utils).
_NAMES: Final = {Role.JOINT: MODEL, Role.VISION: "vision_model.onnx", Role.TEXT: "text_model.onnx"}


def files(source: LayoutSource) -> tuple[str, ...]:
    """Configuration and tokenizer: the artifact's files that lie in no folder."""
    return tuple(name for name in source.contract.files if "/" not in name)


def write(source: LayoutSource, folder: Path) -> None:
    """Write the joint graph, both towers and all configuration side by side; at each precision by the same names."""
    for role, name in _NAMES.items():
        source.place_data(role, folder)
        shutil.copyfile(source.artifact.path(source.graph(role).path), folder / name)
    for name in files(source):
        source.take(name, folder / name)
