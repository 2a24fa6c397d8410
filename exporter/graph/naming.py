"""Names of an artifact's graphs: files, inputs, outputs and dimensions."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Final

import onnx_ir as ir

from ...runtime.artifact.contract import Graph, Precision, Provider, Role, TensorSpec

OPSET: Final = 20  # the first with Gelu(tanh) as one operator
BATCH: Final = "batch"
POOLED: Final = "pooler_output"
OUTPUTS: Final = ("last_hidden_state", POOLED)

_NAMES: Final = {Role.VISION: "vision_model", Role.TEXT: "text_model", Role.JOINT: "model"}
# transformers.js 4 (`DEFAULT_DTYPE_SUFFIX_MAPPING` in src/utils/dtypes.js) looks for fp16, int8 and q4 under these
# suffixes.
_SUFFIXES: Final = {
    Precision.FP32: "",
    Precision.FP16: "_fp16",
    Precision.BF16: "_bf16",
    Precision.INT8: "_int8",
    Precision.INT8_STATIC: "_int8_static",
    Precision.INT8_WEIGHTS: "_int8_weights",
    Precision.INT4: "_q4",
}


def graph_path(role: Role, precision: Precision = Precision.FP32, provider: Provider | None = None) -> str:
    """Path of a graph in an artifact, such as onnx/vision_model_fp16.cuda.onnx."""
    return f"onnx/{_NAMES[role]}{_SUFFIXES[precision]}{f'.{provider}' if provider else ''}.onnx"


def data_path(graph: str) -> str:
    """Path of a graph's weights."""
    return f"{graph}_data"


def describe(model: ir.Model, path: str, data: tuple[str, ...]) -> Graph:
    """Contract entry of a graph at `path`, whose weights are in the files `data`."""
    return Graph(
        path=path,
        data=data,
        opset=dict(model.graph.opset_imports),
        inputs=tuple(map(_tensor_spec, model.graph.inputs)),
        outputs=tuple(map(_tensor_spec, model.graph.outputs)),
    )


def base_name(path: str) -> str:
    """The last part of a path inside an artifact."""
    return PurePosixPath(path).name


def _tensor_spec(value: ir.Value) -> TensorSpec:
    assert value.shape is not None  # noqa: S101  inputs and outputs of our graphs have types and shapes
    assert value.dtype is not None  # noqa: S101
    shape = tuple(d if isinstance(d, int) else str(d.value) for d in value.shape)
    return TensorSpec(str(value.name), str(value.dtype.numpy()), shape)
