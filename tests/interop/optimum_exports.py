"""Exports the bundled checkpoint with other tools; uses the environment `optimum`, without siglip-onnx.

The first folder comes from Optimum's `main_export`, as in `optimum-cli export onnx`. The second follows
scripts/convert.py and scripts/quantize.py of transformers.js with --split_modalities and the modes q8 and fp16: Optimum
exports each tower to onnx/, and ONNX Runtime's tools derive the other precisions.
"""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import sys
from pathlib import Path
from typing import Any, Final

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16
from optimum.exporters.onnx import export, main_export
from optimum.exporters.onnx.model_configs import SiglipTextOnnxConfig, SiglipVisionModelOnnxConfig
from transformers import SiglipTextModel, SiglipVisionModel

_TASK: Final = "zero-shot-image-classification"


def main(job: dict[str, Any]) -> dict[str, Any]:
    """Write both folders."""
    checkpoint = job["checkpoint"]
    main_export(checkpoint, output=job["optimum"], task=_TASK, do_validation=False)
    graphs = Path(job["transformers_js"]) / "onnx"
    towers = {
        "text_model": (SiglipTextModel, SiglipTextOnnxConfig),
        "vision_model": (SiglipVisionModel, SiglipVisionModelOnnxConfig),
    }
    graphs.mkdir(parents=True)
    for name, (model, config) in towers.items():
        tower = model.from_pretrained(checkpoint)
        export(tower.eval(), config(tower.config), graphs / f"{name}.onnx")
        quantize(graphs, name)
    for path in Path(job["optimum"]).glob("*.json"):
        shutil.copy(path, graphs.parent)
    return {"version": importlib.metadata.version("optimum-onnx")}


def quantize(graphs: Path, name: str) -> None:
    """Write transformers.js's q8, with unsigned weights if there is a convolution, and its fp16."""
    source = graphs / f"{name}.onnx"
    convolved = any(node.op_type == "Conv" for node in onnx.load(source).graph.node)
    quantize_dynamic(
        source,
        graphs / f"{name}_quantized.onnx",
        weight_type=QuantType.QUInt8 if convolved else QuantType.QInt8,
        extra_options={"EnableSubgraph": True, "MatMulConstBOnly": True},
    )
    onnx.save(convert_float_to_float16(onnx.load(source), keep_io_types=True), graphs / f"{name}_fp16.onnx")


if __name__ == "__main__":
    print("\n" + json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
