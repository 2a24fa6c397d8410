"""Triton's layout: a model repository with both towers, preprocessing, and an ensemble from image to embedding.

Facts: protobuf/model_config.proto of triton-inference-server/common; for ensembles of models with and without batches,
src/ensemble_scheduler/ensemble_utils.cc of triton-inference-server/core.
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
# An H100 runs fp16 at nine tenths of its best rate from batches of 8 on, and gains nothing beyond 32
# (docs/benchmarks.md). A request that comes alone waits for others no longer than a tenth of a text on a CPU takes.
_MAX_BATCH: Final = 32
_BATCHING: Final = """\
dynamic_batching {
  preferred_batch_size: [ 8, 32 ]
  max_queue_delay_microseconds: 2000
}
"""
# Images of any size do not batch; that gray levels agree with Pillow's was measured on the CPU.
_ON_CPU: Final = "instance_group [ { count: 1 kind: KIND_CPU } ]\n"
_PLACEHOLDER: Final = "An ensemble has no file of its own, but Triton wants a folder for its version.\n"


def write(source: LayoutSource, folder: Path) -> None:
    """Write the repository: siglip_vision, siglip_text, siglip_preprocess and siglip_image.

    Raises:
        ExportError: ONNX has no operator for the model's filter, or a tower's batch is fixed.
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
            f"The {role} graph of {source.artifact.folder} takes batches of one size only, and Triton forms its own.",
            "Export the checkpoint again with a free batch.",
        )
    embedding_only(model, source.contract.embedding)
    source.save(model, role, folder / VERSION)
    _configure(folder, model, batch=_MAX_BATCH, more=_BATCHING)


def _configure(folder: Path, model: ir.Model, *, batch: int, more: str) -> None:
    """Write config.pbtxt for a graph; its interface leaves out the batch where Triton forms batches."""
    graph = describe(model, MODEL, ())
    tensors = _tensors("input", graph.inputs, batch > 0) + _tensors("output", graph.outputs, batch > 0)
    _write_config(folder, "onnxruntime_onnx", batch, tensors + more)


def _write_ensemble(folder: Path, preprocess: ir.Model, size: int) -> None:
    """From image by way of pixel_values, [1, 3, S, S], to embedding, [1, size].

    Triton takes the leading 1 for the batch of siglip_vision, and fills batches from several requests.
    """
    embedding = TensorSpec("embedding", "float32", (1, size))
    inputs = describe(preprocess, MODEL, ()).inputs
    tensors = _tensors("input", inputs, batched=False) + _tensors("output", [embedding], batched=False)
    steps = ",\n".join((_step(PREPROCESS, "image", "pixel_values"), _step(VISION, "pixel_values", "embedding")))
    (folder / VERSION).mkdir(parents=True)
    (folder / VERSION / "README.txt").write_text(_PLACEHOLDER, "utf-8")
    _write_config(folder, "ensemble", 0, tensors + f"ensemble_scheduling {{\n  step [\n{steps}\n  ]\n}}\n")


def _step(model: str, taken: str, given: str) -> str:
    """A step of an ensemble, whose tensors have the models' own names."""
    lines = (
        f'model_name: "{model}"',
        "model_version: -1",
        f'input_map {{ key: "{taken}" value: "{taken}" }}',
        f'output_map {{ key: "{given}" value: "{given}" }}',
    )
    return "    {\n" + "".join(f"      {line}\n" for line in lines) + "    }"


def _tensors(field: str, tensors: Iterable[TensorSpec], batched: bool) -> str:
    return "".join(
        f'{field} [ {{ name: "{tensor.name}" data_type: {_TYPES[tensor.dtype]} dims: {_dims(tensor, batched)} }} ]\n'
        for tensor in tensors
    )


def _dims(tensor: TensorSpec, batched: bool) -> str:
    """Dimensions as Triton has them: -1 where one is free, and no batch where Triton forms batches."""
    dims = ", ".join(str(d) if isinstance(d, int) else "-1" for d in tensor.shape[batched:])
    return f"[ {dims} ]"


def _write_config(folder: Path, platform: str, batch: int, rest: str) -> None:
    head = f'name: "{folder.name}"\nplatform: "{platform}"\nmax_batch_size: {batch}\n'
    (folder / CONFIG).write_text(head + rest, "utf-8")
