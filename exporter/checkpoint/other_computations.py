"""Files and entries with which transformers computes something else than the weights alone say."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from ...runtime.errors import CheckpointError
from .config import read_json

# Files that transformers reads beside the weights, and that this exporter does not apply: what they are and what to do.
_FILES: Final[Mapping[str, tuple[str, str]]] = {
    "adapter_config.json": (
        "an adapter of peft, such as LoRA, which transformers adds to the weights",
        "Merge it first: load the model with peft, call merge_and_unload(), and export what save_pretrained writes.",
    ),
}
# Entries of config.json with the same effect.
_CONFIG_ENTRIES: Final[Mapping[str, tuple[str, str]]] = {
    "quantization_config": (
        "weights that another library has quantized",
        "Export the original checkpoint, and derive a smaller variant with `siglip-onnx quantize`.",
    ),
    "auto_map": (
        "a model whose code is part of the checkpoint, which is never run",
        "Remove the entry if the model is an unchanged SigLIP.",
    ),
}


def refuse_other_computations(folder: Path) -> None:
    """Check that a checkpoint's folder has no file and no entry that changes what transformers computes.

    Raises:
        CheckpointError: It has one, or config.json is damaged.
    """
    for name, (kind, next_step) in _FILES.items():
        if (folder / name).exists():
            raise CheckpointError(f"{folder / name} describes {kind}.", next_step)
    path = folder / "config.json"
    if not path.exists():
        return
    present = read_json(path, dict[str, msgspec.Raw])
    for name, (kind, next_step) in _CONFIG_ENTRIES.items():
        if bytes(present.get(name, b"null")) not in (b"null", b"{}"):
            raise CheckpointError(f"{path} has the entry {name}: {kind}.", next_step)
