"""Compares towers with their exported programs in torch.onnx; needs torch and transformers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, cast

import onnx_ir as ir
import torch
from torch.onnx import ONNXProgram, testing
from transformers import SiglipModel

Json = dict[str, Any]


class WrappedTower(torch.nn.Module):
    """A tower of transformers with the outputs of our exported graph."""

    def __init__(self, tower: Any) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return last_hidden_state and pooler_output."""
        output = self.tower(rows)
        return output.last_hidden_state, output.pooler_output


def main(job: Json) -> Json:
    """The tool's complaint about each case; empty if it has none."""
    torch.manual_seed(0)
    model = cast("Any", SiglipModel).from_pretrained(job["checkpoint"], local_files_only=True).eval()
    vision, text = model.config.vision_config, model.config.text_config
    pixels = torch.randn(2, 3, vision.image_size, vision.image_size)
    ids = torch.randint(text.vocab_size, (2, text.max_position_embeddings))
    programs = {
        "vision": torch.export.export(WrappedTower(model.vision_model), (pixels,), strict=False),
        "text": torch.export.export(WrappedTower(model.text_model), (ids,), strict=False),
    }
    complaints = {case["name"]: complaint(programs[case["role"]], case["tower"]) for case in job["cases"]}
    return {"version": torch.__version__, "complaints": complaints}


def complaint(program: Any, tower: str) -> str:
    """The error that the assertion raises; empty if it passes."""
    try:
        graph = ir.external_data.load_to_model(ir.load(tower))  # a graph in memory must not refer to files
        testing.assert_onnx_program(ONNXProgram(graph, program), strategy=None)
    except Exception as error:  # any error counts as a complaint
        return f"{type(error).__name__}: {str(error)[:200]}"
    return ""


if __name__ == "__main__":
    print("\n" + json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
