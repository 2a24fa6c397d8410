"""Runs Optimum's export validation on joint graphs; uses the environment `optimum`, without siglip-onnx."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import torch
from optimum.exporters.onnx.convert import validate_model_outputs
from optimum.exporters.onnx.model_configs import SiglipOnnxConfig
from transformers import SiglipModel

Json = dict[str, Any]


def main(job: Json) -> Json:
    """The tool's complaint about each case; empty if it has none."""
    model = SiglipModel.from_pretrained(job["checkpoint"], local_files_only=True).eval()
    config = SiglipOnnxConfig(model.config, task="zero-shot-image-classification")
    complaints = {case["name"]: complaint(config, model, Path(case["joint"])) for case in job["cases"]}
    return {"version": importlib.metadata.version("optimum-onnx"), "complaints": complaints}


def complaint(config: Any, model: Any, joint: Path) -> str:
    """The error that the validation raises; empty if it passes."""
    torch.manual_seed(0)
    shapes = {"sequence_length": model.config.text_config.max_position_embeddings}
    try:
        validate_model_outputs(config, model, joint, list(config.outputs), input_shapes=shapes, use_subprocess=False)
    except Exception as error:  # any error counts as a complaint
        return f"{type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    print("\n" + json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
