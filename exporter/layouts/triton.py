"""Triton's layout: a model repository with both towers, preprocessing, and an ensemble from image to embedding.

Sources: protobuf/model_config.proto of triton-inference-server/common; for ensembles of models with and without
batches, src/ensemble_scheduler/ensemble_utils.cc of triton-inference-server/core.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import onnx_ir as ir

from ...runtime.artifact.contract import Role, TensorSpec
from ...runtime.errors import ExportError
from ..graph.naming import describe
from ..graph.preprocess import preprocess_model
from .common import MODEL, LayoutSource, embedding_only

VISION, TEXT, PREPROCESS, IMAGE = "siglip_vision", "siglip_text", "siglip_preprocess", "siglip_image"
VERSION: Final = "1"
CONFIG: Final = "config.pbtxt"

_TYPES: Final = {"float32": "TYPE_FP32", "int64": "TYPE_INT64", "uint8": "TYPE_UINT8"}
# From batches of 8, an H100 runs fp16 at 90 % of its best rate, and batches above 32 gain nothing (docs/benchmarks.md).
# A single request waits for others at most a tenth of the time that a text takes on a CPU.
_MAX_BATCH: Final = 32
_BATCHING: Final = """\
dynamic_batching {
  preferred_batch_size: [ 8, 32 ]
  max_queue_delay_microseconds: 2000
}
"""
# Images of any size cannot be batched, and agreement with Pillow was measured on the CPU.
_ON_CPU: Final = "instance_group [ { count: 1 kind: KIND_CPU } ]\n"
_PLACEHOLDER: Final = "An ensemble has no file of its own, but Triton wants a folder for its version.\n"


def write(source: LayoutSource, folder: Path) -> None:
    """Write the repository: siglip_vision, siglip_text, siglip_preprocess and siglip_image.

    Raises:
        ExportError: ONNX has no operator for the model's filter, or a tower has a fixed batch.
    """
    preprocess = preprocess_model(source.contract.image)
    for role, name in ((Role.VISION, VISION), (Role.TEXT, TEXT)):
        _write_tower(source, role, folder / name)
    (folder / PREPROCESS / VERSION).mkdir(parents=True)
    ir.save(preprocess, folder / PREPROCESS / VERSION / MODEL)
    _configure(folder / PREPROCESS, preprocess, batch=0, more=_ON_CPU)
    _write_ensemble(folder / IMAGE, preprocess, source.contract.embedding.size)


def _write_tower(source: LayoutSource, role: Role, folder: Path) -> None:
    model = source.load(role)
    shape = model.graph.inputs[0].shape
    if shape is None or isinstance(shape[0], int):
        raise ExportError(
            f"The {role} graph of {source.artifact.folder} has a fixed batch, but Triton's batches vary in size.",
            "Export the checkpoint again with a dynamic batch.",
        )
    embedding_only(model, source.contract.embedding)
    source.save(model, role, folder / VERSION)
    _configure(folder, model, batch=_MAX_BATCH, more=_BATCHING)


def _configure(folder: Path, model: ir.Model, *, batch: int, more: str) -> None:
    """Write config.pbtxt for a graph; its shapes omit the batch dimension if Triton forms batches."""
    graph = describe(model, MODEL, ())
    tensors = _tensors("input", graph.inputs, batch > 0) + _tensors("output", graph.outputs, batch > 0)
    _write_config(folder, "onnxruntime_onnx", batch, tensors + more)


def _write_ensemble(folder: Path, preprocess: ir.Model, size: int) -> None:
    """Write the ensemble: image -> pixel_values [1, 3, S, S] -> embedding [1, size].

    Triton treats the leading 1 as the batch of siglip_vision, and combines several requests into batches.
    """
    embedding = TensorSpec("embedding", "float32", (1, size))
    inputs = describe(preprocess, MODEL, ()).inputs
    tensors = _tensors("input", inputs, batched=False) + _tensors("output", [embedding], batched=False)
    steps = ",\n".join((_step(PREPROCESS, "image", "pixel_values"), _step(VISION, "pixel_values", "embedding")))
    (folder / VERSION).mkdir(parents=True)
    (folder / VERSION / "README.txt").write_text(_PLACEHOLDER, "utf-8")
    _write_config(folder, "ensemble", 0, tensors + f"ensemble_scheduling {{\n  step [\n{steps}\n  ]\n}}\n")


def _step(model: str, input_name: str, output_name: str) -> str:
    """A step of an ensemble; the ensemble's tensors have the same names as the model's."""
    lines = (
        f'model_name: "{model}"',
        "model_version: -1",
        f'input_map {{ key: "{input_name}" value: "{input_name}" }}',
        f'output_map {{ key: "{output_name}" value: "{output_name}" }}',
    )
    return "    {\n" + "".join(f"      {line}\n" for line in lines) + "    }"


def _tensors(field: str, tensors: Iterable[TensorSpec], batched: bool) -> str:
    return "".join(
        f'{field} [ {{ name: "{tensor.name}" data_type: {_TYPES[tensor.dtype]} dims: {_dims(tensor, batched)} }} ]\n'
        for tensor in tensors
    )


def _dims(tensor: TensorSpec, batched: bool) -> str:
    """Dimensions in Triton's form: -1 if dynamic, and without the batch if Triton forms batches."""
    dims = ", ".join(str(d) if isinstance(d, int) else "-1" for d in tensor.shape[batched:])
    return f"[ {dims} ]"


def _write_config(folder: Path, platform: str, batch: int, rest: str) -> None:
    head = f'name: "{folder.name}"\nplatform: "{platform}"\nmax_batch_size: {batch}\n'
    (folder / CONFIG).write_text(head + rest, "utf-8")
