"""Measure the error of float16 with LayerNormalization and Softmax in float32 or float16, on the trained emoji model.

    python benchmarks/half_precision.py build/demo/emoji

onnx's reference evaluator computes, because its numpy rounds to float16 after every node; ONNX Runtime's CPU provider
computes some nodes in float32. The table has 1 - centered cosine of 16 images and captions, mean and largest.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from siglip_onnx.quantize import Fp16
from siglip_onnx.quantize.recipes.base import CalibrationTower
from siglip_onnx.quantize.sites import read_array
from siglip_onnx.runtime import Siglip
from siglip_onnx.runtime.artifact.contract import Role
from siglip_onnx.validate.data.samples import Samples
from siglip_onnx.validate.stats import metrics

EVAL = Path(__file__).parent.parent / "examples" / "emoji" / "eval"
CHOICES = {
    "everything float16": (),
    "LayerNormalization float32": ("LayerNormalization",),
    "Softmax float32": ("Softmax",),
    "both float32": ("LayerNormalization", "Softmax"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path)
    model = Siglip.load(parser.parse_args().artifact)
    samples = Samples.read(EVAL)
    images = model.images(list(samples.images.values())[::16])
    rows = {Role.VISION: ("pixel_values", images), Role.TEXT: ("input_ids", model.tokenizer(samples.pairs[::16]))}
    print("| | images, mean | largest | texts, mean | largest |\n| --- | --- | --- | --- | --- |")
    for name, operators in CHOICES.items():
        cells = []
        for role, (input_name, inputs) in rows.items():
            tower = CalibrationTower(model.artifact.path(model.artifact.graph(role, model.precision).path), inputs)
            converted = Fp16(keep_fp32=operators).prepare(tower).derive(frozenset())
            for weight, value in converted.graph.initializers.items():
                assert value.const_value is not None  # every weight is set
                value.const_value = ir.Tensor(read_array(value.const_value), name=weight)
            actual = ReferenceEvaluator(ir.to_proto(converted)).run(["pooler_output"], {input_name: inputs})[0]
            expected = np.concatenate([model.encode(role, inputs[i : i + 1]) for i in range(len(inputs))])
            loss = 1 - metrics.centered_cosines(actual, expected)
            cells += [f"{loss.mean():.1e}", f"{loss.max():.1e}"]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
