"""Import this before torchvision where its compiled operators cannot be loaded, as beside a CPU build of torch.

torchvision's wheel is built for CUDA. Without CUDA's libraries its operators are missing, and its import fails when it
describes `nms` and `qnms` to torch's compiler. open_clip and timm call neither, so that declaring them is enough.
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
    """Whether torchvision's own operators can be loaded, as torchvision itself will load them."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    try:
        torch.ops.load_library(Path(spec.origin).with_name("_C.so"))
    except OSError:
        return False
    return True


# Torch forgets what a library declares when the library is let go.
LIBRARY: Final = None if _load() else torch.library.Library("torchvision", "DEF")
if LIBRARY is not None:
    for name, schema in DECLARED.items():
        LIBRARY.define(name + schema)
