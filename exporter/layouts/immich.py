"""Immich's layout: the folder of one model in its machine-learning cache, clip/<name of the model>.

Sources: immich-app/immich, machine-learning/immich_ml/models/clip/visual.py and textual.py, and open_clip's
`get_model_config` and `get_model_preprocess_cfg`, whose JSON Immich reads.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from ...runtime.artifact.contract import Contract, Role
from ...runtime.artifact.input_specs import ImageSpec
from ...runtime.errors import ExportError
from .common import LayoutSource, embedding_only, narrow_input, rename_input

FILES: Final = ("tokenizer.json", "tokenizer_config.json")
_BYTE: Final = 1 / 255  # Immich's factor for bytes


def write(source: LayoutSource, folder: Path) -> None:
    """Write both towers with the inputs `image` and `text` and the output `embedding`, and their configuration.

    Raises:
        ExportError: Immich cannot preprocess images for this model, or the graphs have a fixed batch of several.
    """
    if source.contract.batch not in (None, 1):
        raise ExportError(
            f"The graphs of {source.artifact.folder} have a fixed batch of {source.contract.batch}, but Immich sends "
            "one image or text at a time.",
            "Export the checkpoint again with a dynamic batch.",
        )
    preprocessing = _preprocessing(source.contract.image)
    embedding = source.contract.embedding
    vision, text = source.load(Role.VISION), source.load(Role.TEXT)
    rename_input(vision, "image")
    narrow_input(text, "text")
    for model, role, place in ((vision, Role.VISION, "visual"), (text, Role.TEXT, "textual")):
        embedding_only(model, embedding)
        source.save(model, role, folder / place)
    for name in FILES:
        source.copy_file(name, folder / "textual" / name)
    _write_json(folder / "visual" / "preprocess_cfg.json", preprocessing)
    _write_json(folder / "config.json", _config(source.contract))


def _config(contract: Contract) -> dict[str, Any]:
    """The entries of open_clip's model configuration that Immich reads.

    Unless `clean` is "canonicalize", Immich only collapses white space before it passes the text to tokenizer.json.
    tokenizer.json canonicalizes itself; doing so twice would lose a literal </s> and change a final capital sigma.
    """
    tokenizer = contract.tokenizer
    assert tokenizer is not None  # noqa: S101  every artifact with a text tower has a tokenizer
    return {
        "embed_dim": contract.embedding.size,
        "vision_cfg": {"image_size": contract.image.height},
        "text_cfg": {
            "context_length": tokenizer.length,
            "vocab_size": tokenizer.vocab_size,
            "tokenizer_kwargs": {"clean": "whitespace"},
        },
    }


def _preprocessing(spec: ImageSpec) -> dict[str, Any]:
    """The image section in open_clip's terms, in which "squash" means stretching to the exact size."""
    if spec.height != spec.width or spec.channel_order != "RGB":
        raise ExportError(
            f"Immich makes square RGB images, but the model takes {spec.height} x {spec.width} {spec.channel_order}.",
            "Run the artifact with siglip_onnx.runtime, or on Triton.",
        )
    scale = spec.rescale / _BYTE
    return {
        "size": [spec.height, spec.width],
        "mode": "RGB",
        "mean": [value / scale for value in spec.mean],
        "std": [value / scale for value in spec.std],
        "interpolation": spec.filter,
        "resize_mode": "squash",
        "fill_color": 0,
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")
