"""The ONNX project's checker and reference implementation, and OpenVINO, on the portable graphs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from siglip_onnx.runtime import Artifact
from siglip_onnx.runtime.artifact.contract import Precision
from siglip_onnx.runtime.engines.openvino_direct import openvino

from .compare import Comparison
from .consumers import ConsumerSamples, Json
from .outputs import ConsumerOutputs, array, sigmoid
from .proofs import Prove, ProveUnsupported

CHECKER: Final = "onnx.checker"
EVALUATOR: Final = "onnx.reference"
OPENVINO: Final = "OpenVINO"

# Precisions with an operator of ONNX Runtime, which the ONNX project's implementation lacks.
UNSUPPORTED: Final = {Precision.INT8_WEIGHTS, Precision.INT4}
REFUSAL: Final = "Node type 'MatMulNBits' from domain 'com.microsoft' is unknown"

# Runs a graph: takes its path and inputs by name, returns outputs by name.
Run = Callable[[Path, dict[str, np.ndarray]], dict[str, Any]]


def evaluate(path: Path, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
    """Run a graph in the ONNX project's reference implementation."""
    evaluator = ReferenceEvaluator(str(path))
    feeds = {name: inputs[name] for name in evaluator.input_names}
    return dict(zip(evaluator.output_names, evaluator.run(None, feeds), strict=True))


def infer(path: Path, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
    """Run a graph in OpenVINO on the CPU; without the hint it computes in bfloat16 on CPUs that support it."""
    compiled = openvino().Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    result = compiled({port.any_name: inputs[port.any_name] for port in compiled.inputs})
    return {port.any_name: values for port, values in result.items()}


def outputs_of(run: Run, artifact: Artifact, graphs: Json, samples: ConsumerSamples) -> ConsumerOutputs:
    """Outputs of the three graphs of a variant."""
    inputs = {"pixel_values": samples.pixels, "input_ids": samples.ids}
    outputs = {role: run(artifact.folder / graph["path"], inputs) for role, graph in graphs.items()}
    return ConsumerOutputs(
        images=array(outputs["vision"]["pooler_output"]),
        texts=array(outputs["text"]["pooler_output"]),
        probabilities=sigmoid(array(outputs["joint"]["logits_per_image"])),
        joint_images=array(outputs["joint"]["image_embeds"]),
        joint_texts=array(outputs["joint"]["text_embeds"]),
    )


@pytest.mark.parametrize("precision", Precision)
def test_checker_reports_nothing(precision: Precision, artifact: Artifact, graphs: Json, prove: Prove) -> None:
    for graph in graphs[precision].values():
        onnx.checker.check_model(artifact.folder / graph["path"], full_check=True)
    prove(CHECKER, onnx.__version__, precision, "graphs, full check", 0, 0)


@pytest.mark.parametrize("precision", Precision)
def test_the_reference_implementation_gives_our_outputs_of(
    precision: Precision, artifact: Artifact, graphs: Json, comparison: Comparison, unsupported: ProveUnsupported
) -> None:
    if precision not in UNSUPPORTED:
        outputs = outputs_of(evaluate, artifact, graphs[precision], comparison.samples)
        comparison.graphs(EVALUATOR, onnx.__version__, precision, outputs)
        return
    with pytest.raises(NotImplementedError) as refusal:
        outputs_of(evaluate, artifact, graphs[precision], comparison.samples)
    for what in ("embeddings", "probabilities"):
        unsupported(EVALUATOR, onnx.__version__, precision, what, REFUSAL, str(refusal.value))


@pytest.mark.parametrize("precision", Precision)
def test_openvino_gives_our_outputs_of(
    precision: Precision, artifact: Artifact, graphs: Json, comparison: Comparison
) -> None:
    outputs = outputs_of(infer, artifact, graphs[precision], comparison.samples)
    comparison.graphs(OPENVINO, openvino().__version__.split("-")[0], precision, outputs)
