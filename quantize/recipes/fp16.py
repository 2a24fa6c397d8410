"""Sixteen-bit graphs: nodes lowered one by one, with casts wherever one kind of float meets the other."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

import ml_dtypes
import numpy as np
import onnx_ir as ir

from ...exporter.graph.builder import initializer
from ..sites import content, deferred, drop_unused, sites

FP16_LARGEST: Final = 65504.0  # IEEE 754-2008 binary16

_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def touched(node: ir.Node) -> list[str]:
    """Names of the activations that a node reads or computes."""
    values = [
        v for v in (*node.inputs, *node.outputs) if v is not None and v.dtype == _FLOAT and not v.is_initializer()
    ]
    return [str(v.name) for v in values]


def lower(graph: ir.Graph, stays: Callable[[ir.Node], bool]) -> None:
    """Turn a float32 graph into float16, but for the nodes that stay; inputs and outputs stay float32, too."""
    plan = [(node, not stays(node)) for node in graph]
    casts = _Casts(graph)
    floats = {node: [v is not None and v.dtype == _FLOAT for v in node.inputs] for node, _ in plan}
    for node, low in plan:
        for i, is_float in enumerate(floats[node]):
            value = node.inputs[i]
            if is_float and value is not None:
                node.replace_input_with(i, casts.get(value, _HALF if low else _FLOAT, node))
        for value in node.outputs:
            if low and value.dtype == _FLOAT:
                value.type = ir.TensorType(_HALF)
                if node.op_type == "Cast":  # from bytes
                    node.attributes["to"] = ir.AttrInt64("to", _HALF)
    for output in [value for value in graph.outputs if value.dtype == _HALF]:
        casts.restore(output)
    drop_unused(graph)


class _Casts:
    """Each value in the kind that a node needs, cast once."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph, self._made = graph, dict[tuple[ir.Value, ir.DataType], ir.Value]()

    def get(self, value: ir.Value, dtype: ir.DataType, before: ir.Node) -> ir.Value:
        if value.dtype == dtype and not (value.is_initializer() and dtype == _FLOAT):
            return value
        key = (value, dtype)
        if key not in self._made:
            make = self._constant if value.is_initializer() else self._cast
            self._made[key] = make(value, dtype, before)
        return self._made[key]

    def _constant(self, value: ir.Value, dtype: ir.DataType, before: ir.Node) -> ir.Value:
        """A copy of a weight; float16 copies keep the name, so that several graphs can share their data."""
        name = f"{value.name}{'' if dtype == _HALF else '.fp32'}"
        copy = initializer(name, deferred(name, content(value), dtype, lambda array: array.astype(dtype.numpy())))
        value.name = f"{value.name}.before"
        self.graph.initializers[name] = copy
        return copy

    def _cast(self, value: ir.Value, dtype: ir.DataType, before: ir.Node) -> ir.Value:
        node = ir.node("Cast", [value], {"to": dtype})
        node.name = f"{value.name}/to_{str(dtype).lower()}"
        node.outputs[0].name, node.outputs[0].shape = f"{value.name}.{str(dtype).lower()}", value.shape
        node.outputs[0].type = ir.TensorType(dtype)
        self.graph.insert_before(before, [node])
        return node.outputs[0]

    def restore(self, output: ir.Value) -> None:
        """Give an output of the graph back its float32; nodes inside go on with float16."""
        node = ir.node("Cast", [output], {"to": _FLOAT})
        name = str(output.name)
        node.name, node.outputs[0].shape = f"{name}/to_float", output.shape
        node.outputs[0].type = ir.TensorType(_FLOAT)
        self.graph.append(node)
        output.name, node.outputs[0].name = f"{name}.float16", name
        self.graph.outputs[list(self.graph.outputs).index(output)] = node.outputs[0]


def bfloat16_weights(graph: ir.Graph, keep: Collection[str]) -> None:
    """Store matrices and tables in bfloat16, each behind a Cast; a provider with bfloat16 arithmetic takes it up."""
    for site in (site for name, site in sites(graph).items() if name not in keep):
        old, name = site.weight, str(site.weight.name)
        tensor = deferred(name, content(old), ir.DataType.BFLOAT16, lambda array: array.astype(ml_dtypes.bfloat16))
        stored = initializer(name, tensor)
        cast = ir.node("Cast", [stored], {"to": _FLOAT})
        cast.name, cast.outputs[0].name = f"{site.name}/Cast", f"{name}.float"
        cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(_FLOAT), old.shape
        ir.convenience.replace_all_uses_with(old, cast.outputs[0])
        old.name = f"{name}.before"
        graph.initializers[name] = stored
        graph.insert_before(site.node, [cast])
    drop_unused(graph)


def out_of_range(largest: float, headroom: float = 1.0) -> bool:
    """Whether an activation may leave float16, given the largest that calibration saw."""
    return not np.isfinite(largest) or largest * headroom > FP16_LARGEST
