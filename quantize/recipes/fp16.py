"""The fp16 recipe: nodes converted to float16 one by one, with a Cast wherever float16 meets float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np
import onnx_ir as ir

from ...runtime.arrays import AnyArray
from ...runtime.artifact.contract import Precision
from ...runtime.errors import InputError
from ..sites import Exclusions, initializer, lazy_tensor, remove_unused, tensor_of, weight_array
from .base import CalibrationTower, PreparedTower, Recipe, activations, require_at_least
from .cuda_fusion import fuse

FP16_MAX: Final = 65504.0  # IEEE 754-2008 binary16

_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16

KeepFp32 = Callable[[ir.Node], bool]


@dataclass(frozen=True)
class Fp16(Recipe):
    """Half precision with float32 inputs and outputs; a node whose activations come near 65,504 stays float32.

    Attributes:
        headroom: How many times larger an activation may become than the largest that calibration saw.
        keep_fp32: Operators that always stay float32, such as Softmax.

    Raises:
        InputError: `headroom` is negative or not finite.
    """

    precision: ClassVar = Precision.FP16

    headroom: float = 8.0
    keep_fp32: tuple[str, ...] = ()

    @property
    def samples(self) -> int:  # noqa: D102
        return 8

    def __post_init__(self) -> None:
        require_at_least("headroom", self.headroom, 0)

    def candidates(self, graph: ir.Graph) -> dict[str, int]:
        """Modules, such as layers.0.norm1; layers.0 itself is its attention and the two residual sums."""
        sizes: dict[str, int] = {}
        for node in graph:
            name = _module_name(node)
            sizes[name] = sizes.get(name, 1) + _parameter_count(node)
        return sizes

    def prepare(self, tower: CalibrationTower) -> PreparedTower:  # noqa: D102
        graph = tower.load().graph
        self._check_operators(graph)
        largest, unsafe = self._ranges(tower, graph)

        def reasons(node: ir.Node) -> set[str]:
            return unsafe & {
                *_float_activations(node),
                *(str(value.name) for value in node.inputs if value is not None),
            }

        def keep_fp32(node: ir.Node, exclude: Exclusions) -> bool:
            return _module_name(node) in exclude or node.op_type in self.keep_fp32 or bool(reasons(node))

        def derive(exclude: Exclusions, fuse_nodes: bool = False) -> ir.Model:
            model = tower.load()
            kept = {node for node in model.graph if keep_fp32(node, exclude)}
            if fuse_nodes:
                fuse(model.graph, kept.__contains__)
            to_fp16(model.graph, kept.__contains__)
            return remove_unused(model)

        worst = {str(node.name): max(reasons(node), key=largest.__getitem__) for node in graph if reasons(node)}
        notes = {name: f"float32: {value} reaches {largest[value]:.4g}" for name, value in worst.items()}
        return PreparedTower(derive, notes, derive_cuda=lambda exclude: derive(exclude, fuse_nodes=True))

    def _check_operators(self, graph: ir.Graph) -> None:
        if unknown := set(self.keep_fp32).difference(node.op_type for node in graph):
            raise InputError(
                f"keep_fp32 names the operator {min(unknown)}, which the tower does not have.",
                "Name operators of the tower, such as Softmax.",
            )

    def _ranges(self, tower: CalibrationTower, graph: ir.Graph) -> tuple[dict[str, float], set[str]]:
        """Largest magnitude of every value by name, and the names of the values that float16 may not hold."""
        names = {name for node in graph for name in _float_activations(node)}
        observed = {name: float(x.max()) for name, x in activations(tower, names, _largest)}
        constants = {
            name: float(np.abs(weight_array(value)).max())
            for name, value in graph.initializers.items()
            if value.dtype == _FLOAT
        }
        unsafe = {name for name, value in observed.items() if _may_overflow(value, self.headroom)}
        unsafe |= {name for name, value in constants.items() if _may_overflow(value)}
        return observed | constants, unsafe


def _module_name(node: ir.Node) -> str:
    """The module that a node belongs to, such as layers.0.mlp.fc1."""
    return str(node.name).rpartition("/")[0]


def _parameter_count(node: ir.Node) -> int:
    parameters = [value for value in node.inputs if value is not None and value.is_initializer()]
    return sum(int(np.prod(value.shape.numpy())) for value in parameters if isinstance(value.shape, ir.Shape))


def _float_activations(node: ir.Node) -> list[str]:
    """Names of the float32 activations that a node reads or computes."""
    values = [value for value in (*node.inputs, *node.outputs) if value is not None]
    return [str(value.name) for value in values if value.dtype == _FLOAT and not value.is_initializer()]


def _largest(array: AnyArray) -> AnyArray:
    """The largest magnitude of one sample, [1]; NaN if the sample has one."""
    return np.array([np.abs(array).max()])


def _may_overflow(largest: float, headroom: float = 1.0) -> bool:
    return not np.isfinite(largest) or largest * headroom > FP16_MAX


def to_fp16(graph: ir.Graph, keep_fp32: KeepFp32) -> None:
    """Convert a float32 graph to float16 in place; its inputs and outputs stay float32.

    Args:
        graph: A tower in float32; its old weights stay behind unused.
        keep_fp32: Whether a node stays float32.
    """
    casts = _Casts(graph)
    converted = [(node, _FLOAT if keep_fp32(node) else _HALF, _float_inputs(node)) for node in graph]
    for node, dtype, float_inputs in converted:
        for i in float_inputs:
            value = node.inputs[i]
            assert value is not None  # noqa: S101  see _float_inputs
            node.replace_input_with(i, casts.get(value, dtype, node))
        if dtype == _HALF:
            _set_output_types(node)
    for output in [value for value in graph.outputs if value.dtype == _HALF]:
        casts.restore(output)


def _float_inputs(node: ir.Node) -> list[int]:
    return [i for i, value in enumerate(node.inputs) if value is not None and value.dtype == _FLOAT]


def _set_output_types(node: ir.Node) -> None:
    for value in node.outputs:
        if value.dtype == _FLOAT:
            value.type = ir.TensorType(_HALF)
            if node.op_type == "Cast":  # from the bytes of an image
                node.attributes["to"] = ir.AttrInt64("to", _HALF)


class _Casts:
    """Converts values to the type that a node needs, each value once."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph, self._converted = graph, dict[tuple[ir.Value, ir.DataType], ir.Value]()

    def get(self, value: ir.Value, dtype: ir.DataType, before: ir.Node) -> ir.Value:
        """Return a value as `dtype`, with a Cast before the given node if it is a new one."""
        if value.dtype == dtype and not (value.is_initializer() and dtype == _FLOAT):
            return value
        key = (value, dtype)
        if key not in self._converted:
            convert = self._constant if value.is_initializer() else self._cast
            self._converted[key] = convert(value, dtype, before)
        return self._converted[key]

    def _constant(self, value: ir.Value, dtype: ir.DataType, before: ir.Node) -> ir.Value:
        """Copy a weight; a float16 copy keeps the name, so that several graphs can share their data."""
        name = f"{value.name}{'' if dtype == _HALF else '.fp32'}"
        copy = initializer(lazy_tensor(name, tensor_of(value), dtype, lambda array: array.astype(dtype.numpy())))
        value.name = f"{value.name}.before"
        self.graph.initializers[name] = copy
        return copy

    def _cast(self, value: ir.Value, dtype: ir.DataType, before: ir.Node) -> ir.Value:
        kind = str(dtype).lower()
        node = _cast_node(value, dtype, f"{value.name}/to_{kind}", f"{value.name}.{kind}")
        self.graph.insert_before(before, [node])
        return node.outputs[0]

    def restore(self, output: ir.Value) -> None:
        """Cast an output of the graph back to float32; the nodes inside go on with float16."""
        name = str(output.name)
        output.name = f"{name}.float16"
        node = _cast_node(output, _FLOAT, f"{name}/to_float", name)
        self.graph.append(node)
        self.graph.outputs[list(self.graph.outputs).index(output)] = node.outputs[0]


def _cast_node(value: ir.Value, dtype: ir.DataType, name: str, output_name: str) -> ir.Node:
    output = ir.val(output_name, dtype, value.shape)
    return ir.node("Cast", [value], {"to": dtype}, outputs=[output], name=name)
