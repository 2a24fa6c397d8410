"""Describe an external ONNX file: its inputs and outputs, its weights, and its precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

import onnx_ir as ir

from ...runtime.artifact.contract import Graph, Precision, Role, TensorSpec
from ...runtime.artifact.external_data import external_locations
from ...runtime.engines.base import UNKNOWN
from ...runtime.errors import ArtifactError

JOINT_OUTPUTS: Final = ("logits_per_image", "logits_per_text", "image_embeds", "text_embeds")
_BROKEN: Final = "Export or copy it again."
_PIXELS: Final = ("float32", "float16")
_IDS: Final = ("int64", "int32")

# Operators that show the precision, most specific first. ONNX Runtime's quantize_dynamic makes DynamicQuantizeLinear
# and MatMulInteger, its quantize_static QuantizeLinear or QLinearMatMul; transformers.js's bnb4 is MatMulBnb4.
_OPERATORS: Final = (
    (Precision.INT4, {"MatMulBnb4"}),
    (Precision.INT8, {"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulInteger", "ConvInteger"}),
    (Precision.INT8_STATIC, {"QuantizeLinear", "QLinearMatMul", "QLinearConv", "QGemm"}),
    (Precision.INT8_WEIGHTS, {"MatMulNBits", "DequantizeLinear"}),
)
_FLOATS: Final = {ir.DataType.FLOAT16: Precision.FP16, ir.DataType.BFLOAT16: Precision.BF16}
_NARROW: Final = frozenset({ir.DataType.INT4, ir.DataType.UINT4})

# Operators that may follow a division by a length, and operators that may lead from a sum of squares to it.
_SAME_ROWS: Final = frozenset({"Cast", "Identity", "QuantizeLinear", "DequantizeLinear", "Reshape", "Squeeze"})
_OF_LENGTH: Final = _SAME_ROWS | {"Unsqueeze", "Expand", "Clip", "Max", "Add", "Sqrt", "Pow", "Reciprocal"}
_SQUARES: Final = frozenset({"Mul", "Pow", "Abs"})
_STEPS: Final = 12


@dataclass(frozen=True)
class ExternalGraph:
    """An ONNX file.

    Attributes:
        graph: Its path, weights and interface.
        precision: Precision of its operators and weights.
        units: Outputs whose rows the graph scales to length 1.
    """

    graph: Graph
    precision: Precision
    units: frozenset[str]

    @property
    def images(self) -> tuple[TensorSpec, ...]:
        """Inputs that fit pixel_values: floating point [batch, 3, height, width]."""
        return tuple(s for s in self.graph.inputs if s.dtype in _PIXELS and _fits(s, (None, 3, None, None)))

    @property
    def ids(self) -> tuple[TensorSpec, ...]:
        """Inputs that fit input_ids: integers [batch, length]."""
        return tuple(s for s in self.graph.inputs if s.dtype in _IDS and _fits(s, (None, None)) and not is_mask(s))

    @property
    def role(self) -> Role | None:
        """The tower that its inputs fit; None if they fit neither."""
        reads = (bool(self.images), bool(self.ids))
        return {(True, True): Role.JOINT, (True, False): Role.VISION, (False, True): Role.TEXT}.get(reads)

    @property
    def complete(self) -> bool:
        """Whether it has every output of a joint graph."""
        return {spec.name for spec in self.graph.outputs}.issuperset(JOINT_OUTPUTS)


def is_mask(spec: TensorSpec) -> bool:
    """Whether an input masks ids or patches; SigLIP's towers were trained without a mask."""
    return "mask" in spec.name and len(spec.shape) == 2


def _fits(spec: TensorSpec, shape: tuple[int | None, ...]) -> bool:
    if len(spec.shape) != len(shape):
        return False
    return all(due is None or isinstance(size, str) or size == due for size, due in zip(spec.shape, shape, strict=True))


def read_graph(folder: Path, inner: str) -> ExternalGraph:
    """Read an ONNX file without its external weights.

    Args:
        folder: Folder of the model.
        inner: Path of the file in it, with forward slashes.

    Raises:
        ArtifactError: The file is missing or not ONNX, lies or reads weights outside the folder, or has an input or
            output without a type or shape.
    """
    path = folder / inner
    if PurePosixPath(inner).is_absolute() or ".." in PurePosixPath(inner).parts:
        raise ArtifactError(f"{inner!r} is not inside {folder}.", "Name a file inside it.")
    try:
        data = _data(path, inner)
        model = ir.load(path)
    except ArtifactError:
        raise
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}).", "Name a file that exists.") from error
    except Exception as error:  # protobuf's, onnx's and onnx-ir's errors have no common base but this
        raise ArtifactError(f"{path} is not an ONNX file ({error}).", _BROKEN) from error
    return ExternalGraph(_describe(path, model, inner, data), _precision(model), _units(model))


def _data(path: Path, inner: str) -> tuple[str, ...]:
    """The files that a graph reads weights from, which must be where ONNX Runtime looks for them."""
    allowed = {path.parent.resolve(), path.resolve().parent}
    files = []
    for location in sorted(external_locations(path.read_bytes())):
        place = path.parent / location
        if PurePosixPath(location).is_absolute() or ".." in PurePosixPath(location).parts or "\\" in location:
            raise ArtifactError(f"{path} reads weights from {location!r}, outside its folder.", _BROKEN)
        if not place.is_file():
            raise ArtifactError(f"{path} reads weights from {place}, which is missing.", "Put that file beside it.")
        if not any(place.resolve().is_relative_to(folder) for folder in allowed):
            raise ArtifactError(
                f"{place}, the weights of {path.name}, is a link to a file outside its folder.",
                "Copy the folder with its links followed (cp -rL).",
            )
        files.append((PurePosixPath(inner).parent / location).as_posix())
    return tuple(files)


def _describe(path: Path, model: ir.Model, inner: str, data: tuple[str, ...]) -> Graph:
    weights = model.graph.initializers  # old exporters also list them among the inputs
    inputs = [value for value in model.graph.inputs if value.name not in weights]
    return Graph(
        path=inner,
        data=data,
        opset=dict(model.graph.opset_imports),
        inputs=tuple(_tensor(path, value) for value in inputs),
        outputs=tuple(_tensor(path, value) for value in model.graph.outputs),
    )


def _tensor(path: Path, value: ir.Value) -> TensorSpec:
    if value.shape is None or value.dtype is None:
        raise ArtifactError(
            f"{path} has no type or shape for {value.name}.",
            "Run onnx.shape_inference.infer_shapes_path on it first.",
        )
    shape = tuple(d if isinstance(d, int) else d.value or UNKNOWN for d in value.shape)
    return TensorSpec(str(value.name), str(value.dtype.numpy()), shape)


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


def _precision(model: ir.Model) -> Precision:
    """The precision by the operators, else by the floating-point type of most weights."""
    nodes = list(_nodes(model))
    bits = {node.attributes.get_int("bits", 4) for node in nodes if node.op_type == "MatMulNBits"}
    weights = [tensor for tensor in _weights(model, nodes) if tensor.size]
    if any(count < 8 for count in bits) or any(tensor.dtype in _NARROW for tensor in weights):
        return Precision.INT4
    operators = {node.op_type for node in nodes}
    for precision, specific in _OPERATORS:
        if operators & specific:
            return precision
    sizes: Counter[Precision] = Counter({Precision.FP32: 1})  # a graph without weights
    for tensor in weights:
        if tensor.dtype.is_floating_point():
            sizes[_FLOATS.get(tensor.dtype, Precision.FP32)] += tensor.size
    return sizes.most_common(1)[0][0]


def _weights(model: ir.Model, nodes: list[ir.Node]) -> Iterator[ir.TensorProtocol]:
    """Initializers, and the constants that some exporters write instead; their data are not read."""
    values = (value.const_value for value in model.graph.initializers.values())
    yield from (tensor for tensor in values if tensor is not None)
    for node in nodes:
        if node.op_type == "Constant" and "value" in node.attributes:
            yield node.attributes["value"].as_tensor()


def _units(model: ir.Model) -> frozenset[str]:
    return frozenset(str(value.name) for value in model.graph.outputs if _is_unit(value))


def _is_unit(value: ir.Value) -> bool:
    """Whether a value is a vector divided by its own length, in any of the usual forms."""
    node = _passed(value, lambda node: node.op_type in _SAME_ROWS)
    if node is None or node.op_type == "LpNormalization":
        return node is not None
    factors = {"Div": node.inputs[1:], "Mul": node.inputs}.get(node.op_type, ())
    return any(factor is not None and _is_length(factor) for factor in factors)


def _is_length(value: ir.Value) -> bool:
    node = _passed(value, lambda node: node.op_type in _OF_LENGTH)
    if node is None:
        return False
    if node.op_type == "ReduceSum":  # of squares; softmax sums something else
        squares = node.inputs[0].producer() if node.inputs[0] is not None else None
        return squares is not None and squares.op_type in _SQUARES
    return node.op_type in ("ReduceL2", "ReduceSumSquare")


def _passed(value: ir.Value, passes: Callable[[ir.Node], bool]) -> ir.Node | None:
    """The first node upstream of a value, along first inputs, that `passes` rejects."""
    node = value.producer()
    for _ in range(_STEPS):
        if node is None or not passes(node):
            return node
        node = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    return None
