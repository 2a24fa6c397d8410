"""The ONNX project's own checker and reference implementation, and OpenVINO, on the portable graphs."""

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

from .answers import Answers, array, sigmoid
from .compare import Comparison
from .consumers import Json, Samples
from .ledger import Cannot, Prove

CHECKER: Final = "onnx.checker"
EVALUATOR: Final = "onnx.reference"
OPENVINO: Final = "OpenVINO"

# ONNX Runtime's own operator, which the ONNX project's implementation has none for.
UNKNOWN_TO_IT: Final = {Precision.INT8_WEIGHTS, Precision.INT4}
REFUSAL: Final = "Node type 'MatMulNBits' from domain 'com.microsoft' is unknown"

# What runs a graph: from its path and its inputs by name to its outputs by name.
Run = Callable[[Path, dict[str, np.ndarray]], dict[str, Any]]


def evaluate(path: Path, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
    """Run by the ONNX project's reference implementation, in numpy."""
    evaluator = ReferenceEvaluator(str(path))
    given = {name: inputs[name] for name in evaluator.input_names}
    return dict(zip(evaluator.output_names, evaluator.run(None, given), strict=True))


def infer(path: Path, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
    """Run by OpenVINO on the CPU; without the hint it would compute in bfloat16 where the CPU can."""
    compiled = openvino().Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    result = compiled({port.any_name: inputs[port.any_name] for port in compiled.inputs})
    return {port.any_name: values for port, values in result.items()}


def answers(run: Run, artifact: Artifact, graphs: Json, samples: Samples) -> Answers:
    """What a runner gives for the three graphs of a variant."""
    inputs = {"pixel_values": samples.pixels, "input_ids": samples.ids}
    said = {role: run(artifact.folder / graph["path"], inputs) for role, graph in graphs.items()}
    return Answers(
        images=array(said["vision"]["pooler_output"]),
        texts=array(said["text"]["pooler_output"]),
        probabilities=sigmoid(array(said["joint"]["logits_per_image"])),
        joint_images=array(said["joint"]["image_embeds"]),
        joint_texts=array(said["joint"]["text_embeds"]),
    )


@pytest.mark.parametrize("precision", Precision)
def test_the_checker_finds_nothing(precision: Precision, artifact: Artifact, graphs: Json, prove: Prove) -> None:
    for graph in graphs[precision].values():
        onnx.checker.check_model(artifact.folder / graph["path"], full_check=True)
    prove(CHECKER, onnx.__version__, precision, "graphs, full check", 0, 0)


@pytest.mark.parametrize("precision", Precision)
def test_the_reference_implementation_gives_our_answers(
    precision: Precision, artifact: Artifact, graphs: Json, comparison: Comparison, cannot: Cannot
) -> None:
    if precision not in UNKNOWN_TO_IT:
        theirs = answers(evaluate, artifact, graphs[precision], comparison.samples)
        comparison.graphs(EVALUATOR, onnx.__version__, precision, theirs)
        return
    with pytest.raises(NotImplementedError) as refusal:
        answers(evaluate, artifact, graphs[precision], comparison.samples)
    for what in ("embeddings", "probabilities"):
        cannot(EVALUATOR, onnx.__version__, precision, what, REFUSAL, str(refusal.value))


@pytest.mark.parametrize("precision", Precision)
def test_openvino_gives_our_answers(
    precision: Precision, artifact: Artifact, graphs: Json, comparison: Comparison
) -> None:
    theirs = answers(infer, artifact, graphs[precision], comparison.samples)
    comparison.graphs(OPENVINO, openvino().__version__.split("-")[0], precision, theirs)
