"""What an ONNX file of anybody's says of itself: what it reads and gives, and which precision its weights have."""

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

# Operators that tell the precision, the most telling first. ONNX Runtime's quantize_dynamic makes DynamicQuantizeLinear
# and MatMulInteger, its quantize_static QuantizeLinear or QLinearMatMul; transformers.js's bnb4 is MatMulBnb4.
_OPERATORS: Final = (
    (Precision.INT4, {"MatMulBnb4"}),
    (Precision.INT8, {"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulInteger", "ConvInteger"}),
    (Precision.INT8_STATIC, {"QuantizeLinear", "QLinearMatMul", "QLinearConv", "QGemm"}),
    (Precision.INT8_WEIGHTS, {"MatMulNBits", "DequantizeLinear"}),
)
_FLOATS: Final = {ir.DataType.FLOAT16: Precision.FP16, ir.DataType.BFLOAT16: Precision.BF16}
_NARROW: Final = frozenset({ir.DataType.INT4, ir.DataType.UINT4})

# What may stand between the division by a length and the output, and between the length and the division.
_SAME_ROWS: Final = frozenset({"Cast", "Identity", "QuantizeLinear", "DequantizeLinear", "Reshape", "Squeeze"})
_OF_LENGTH: Final = _SAME_ROWS | {"Unsqueeze", "Expand", "Clip", "Max", "Add", "Sqrt", "Pow", "Reciprocal"}
_SQUARES: Final = frozenset({"Mul", "Pow", "Abs"})
_STEPS: Final = 12


@dataclass(frozen=True)
class ExternalGraph:
    """An ONNX file.

    Attributes:
        graph: Its place, weights and interface.
        precision: What its weights and operators say.
        units: Outputs whose rows the graph itself scales to length 1.
    """

    graph: Graph
    precision: Precision
    units: frozenset[str]

    @property
    def images(self) -> tuple[TensorSpec, ...]:
        """Inputs that may take pixel_values: floating point [batch, 3, height, width]."""
        return tuple(s for s in self.graph.inputs if s.dtype in _PIXELS and _fits(s, (None, 3, None, None)))

    @property
    def ids(self) -> tuple[TensorSpec, ...]:
        """Inputs that may take input_ids: integers [batch, length]."""
        return tuple(s for s in self.graph.inputs if s.dtype in _IDS and _fits(s, (None, None)) and not is_mask(s))

    @property
    def role(self) -> Role | None:
        """What it reads; None where it reads neither images nor texts."""
        reads = (bool(self.images), bool(self.ids))
        return {(True, True): Role.JOINT, (True, False): Role.VISION, (False, True): Role.TEXT}.get(reads)

    @property
    def complete(self) -> bool:
        """Whether it gives all that a joint graph gives."""
        return {spec.name for spec in self.graph.outputs}.issuperset(JOINT_OUTPUTS)


def is_mask(spec: TensorSpec) -> bool:
    """Whether an input says which ids or patches count; SigLIP's towers were trained without."""
    return "mask" in spec.name and len(spec.shape) == 2


def _fits(spec: TensorSpec, shape: tuple[int | None, ...]) -> bool:
    if len(spec.shape) != len(shape):
        return False
    return all(
        want is None or isinstance(have, str) or have == want for have, want in zip(spec.shape, shape, strict=True)
    )


def read_graph(folder: Path, inner: str) -> ExternalGraph:
    """Read an ONNX file without its external weights.

    Args:
        folder: What is judged.
        inner: Where in it the file lies, with forward slashes.

    Raises:
        ArtifactError: It is missing or no ONNX file, lies or reads weights outside of the folder, or has an input or
            output without a type and shape.
    """
    path = folder / inner
    if PurePosixPath(inner).is_absolute() or ".." in PurePosixPath(inner).parts:
        raise ArtifactError(f"{inner!r} does not lie in {folder}.", "Name a file below it.")
    try:
        data = _data(path, inner)
        model = ir.load(path)
    except ArtifactError:
        raise
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}).", "Name a file that is there.") from error
    except Exception as error:  # protobuf's, onnx's and onnx-ir's errors have no common base but this
        raise ArtifactError(f"{path} is no ONNX file ({error}).", _BROKEN) from error
    return ExternalGraph(_describe(path, model, inner, data), _precision(model), _units(model))


def _data(path: Path, inner: str) -> tuple[str, ...]:
    """The files that a graph reads weights from, which have to lie where ONNX Runtime would look for them."""
    allowed = {path.parent.resolve(), path.resolve().parent}
    found = []
    for location in sorted(external_locations(path.read_bytes())):
        place = path.parent / location
        if PurePosixPath(location).is_absolute() or ".." in PurePosixPath(location).parts or "\\" in location:
            raise ArtifactError(f"{path} wants to read weights from {location!r}, outside of its folder.", _BROKEN)
        if not place.is_file():
            raise ArtifactError(f"{path} reads weights from {place}, which is missing.", "Put that file beside it.")
        if not any(place.resolve().is_relative_to(folder) for folder in allowed):
            raise ArtifactError(
                f"{place}, the weights of {path.name}, is a link to a file elsewhere.",
                "Copy the folder with its links followed (cp -rL).",
            )
        found.append((PurePosixPath(inner).parent / location).as_posix())
    return tuple(found)


def _describe(path: Path, model: ir.Model, inner: str, data: tuple[str, ...]) -> Graph:
    weights = model.graph.initializers  # which old exporters list among the inputs, too
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
            f"{path} does not say which type and shape {value.name} has.",
            "Run onnx.shape_inference.infer_shapes_path on it first.",
        )
    shape = tuple(d if isinstance(d, int) else d.value or UNKNOWN for d in value.shape)
    return TensorSpec(str(value.name), str(value.dtype.numpy()), shape)


def _nodes(model: ir.Model) -> Iterator[ir.Node]:
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


def _precision(model: ir.Model) -> Precision:
    """By the operators, else by which floating-point type most of the weights have."""
    nodes = list(_nodes(model))
    bits = {node.attributes.get_int("bits", 4) for node in nodes if node.op_type == "MatMulNBits"}
    weights = [tensor for tensor in _weights(model, nodes) if tensor.size]
    if any(count < 8 for count in bits) or any(tensor.dtype in _NARROW for tensor in weights):
        return Precision.INT4
    operators = {node.op_type for node in nodes}
    for precision, telling in _OPERATORS:
        if operators & telling:
            return precision
    sizes: Counter[Precision] = Counter({Precision.FP32: 1})  # a graph without weights
    for tensor in weights:
        if tensor.dtype.is_floating_point():
            sizes[_FLOATS.get(tensor.dtype, Precision.FP32)] += tensor.size
    return sizes.most_common(1)[0][0]


def _weights(model: ir.Model, nodes: list[ir.Node]) -> Iterator[ir.TensorProtocol]:
    """Initializers, and the constants that other exporters write in their place; none is read."""
    values = (value.const_value for value in model.graph.initializers.values())
    yield from (tensor for tensor in values if tensor is not None)
    for node in nodes:
        if node.op_type == "Constant" and "value" in node.attributes:
            yield node.attributes["value"].as_tensor()


def _units(model: ir.Model) -> frozenset[str]:
    return frozenset(str(value.name) for value in model.graph.outputs if _is_unit(value))


def _is_unit(value: ir.Value) -> bool:
    """Whether a value is something divided by its own length, whichever way that is written."""
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
    """The first node behind a value, upwards by first inputs, that `passes` does not let through."""
    node = value.producer()
    for _ in range(_STEPS):
        if node is None or not passes(node):
            return node
        node = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    return None
