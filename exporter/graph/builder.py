"""Values of graphs that are built or changed by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray


def initializer(name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """A value of that name which holds the tensor; it is in no graph yet."""
    return ir.Value(
        name=name, shape=ir.Shape(tensor.shape.numpy()), type=ir.TensorType(tensor.dtype), const_value=tensor
    )


def constant(name: str, array: NDArray[Any]) -> ir.Value:
    """An initializer of that name which holds the array; it is in no graph yet."""
    return initializer(name, ir.Tensor(np.asarray(array, order="C"), name=name))


def append_unit(graph: ir.Graph, rows: ir.Value, name: str) -> ir.Value:
    """A value of that name with each row of [batch, size] scaled to length 1, as the joint graph does it."""
    free_names(graph, name, f"{name}_length", f"{name}_axis")
    axis = constant(f"{name}_axis", np.array([-1], np.int64))
    graph.register_initializer(axis)
    length = ir.Value(name=f"{name}_length", type=rows.type)
    unit = ir.Value(name=name, type=rows.type, shape=rows.shape)
    graph.append(ir.node("ReduceL2", [rows, axis], {"keepdims": 1}, outputs=[length], name=f"{name}_length"))
    graph.append(ir.node("Div", [rows, length], outputs=[unit], name=name))
    return unit


def free_names(graph: ir.Graph, *names: str) -> None:
    """Rename the nodes and inner values of a graph that have one of these names, so that others can have it."""
    values = [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    for named in (*values, *graph):
        if named.name in names:
            named.name = f"tower.{named.name}"
