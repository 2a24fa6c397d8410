"""Lets torchvision be imported where its compiled operators cannot be loaded; import this module first.

torchvision's wheel is built for CUDA. Beside a CPU build of torch its operators are missing, and its import fails when
it registers `nms` and `qnms` with torch's compiler. open_clip and timm call neither, so declaring them is enough.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Final

import torch

DECLARED: Final = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}


def _load() -> bool:
    """Whether torchvision's compiled operators can be loaded."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    try:
        torch.ops.load_library(Path(spec.origin).with_name("_C.so"))
    except OSError:
        return False
    return True


# Torch drops the declarations when the library object is deleted.
LIBRARY: Final = None if _load() else torch.library.Library("torchvision", "DEF")
if LIBRARY is not None:
    for name, schema in DECLARED.items():
        LIBRARY.define(name + schema)
