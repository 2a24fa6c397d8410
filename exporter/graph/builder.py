"""The node builder for graphs that are assembled or changed by hand, a thin layer over `onnx_ir.tape.Tape`.

    builder = NodeBuilder(prefix="preprocess.")
    length = builder.op("ReduceL2", "length", x, builder.constant("axis", np.array([-1])), keepdims=1)
    graph.insert_before(graph[0], builder.nodes)

The tape makes the nodes; this layer names nodes and values, because validation reports refer to nodes by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ...runtime.arrays import AnyArray

Dimensions = Sequence[int | str | None]


class NodeBuilder:
    """Makes nodes and initializers, in order.

    Args:
        graph: Graph to append them to; None only records them in `nodes` and `initializers`.
        prefix: Prefix for the names of all nodes and values.
    """

    def __init__(self, graph: ir.Graph | None = None, prefix: str = "") -> None:
        self._tape, self._prefix = ir.tape.Tape(graph), prefix

    @property
    def nodes(self) -> Sequence[ir.Node]:
        """All nodes made so far."""
        return self._tape.nodes

    @property
    def initializers(self) -> Sequence[ir.Value]:
        """All initializers made so far."""
        return self._tape.initializers

    def op(
        self,
        op_type: str,
        name: str,
        *inputs: ir.Value | None,
        dtype: ir.DataType = ir.DataType.FLOAT,
        shape: Dimensions | None = None,
        node_name: str | None = None,
        **attributes: Any,
    ) -> ir.Value:
        """Make a node with one output, and return the output.

        Args:
            op_type: Operator of ai.onnx.
            name: Name of the output, without the prefix.
            *inputs: None for an omitted optional input.
            dtype: Type of the output.
            shape: Dimensions of the output; None leaves the shape unknown.
            node_name: Name of the node; None for the name of the output.
            **attributes: Attributes of the node.
        """
        output = ir.Value(
            name=f"{self._prefix}{name}",
            shape=None if shape is None else ir.Shape(shape),
            type=ir.TensorType(dtype),
        )
        return self._tape.op(op_type, inputs, attributes, output=output, name=node_name or output.name)

    def constant(self, name: str, array: AnyArray) -> ir.Value:
        """Make an initializer with the array's values."""
        full_name = f"{self._prefix}{name}"
        return self._tape.initializer(ir.Tensor(np.asarray(array, order="C"), name=full_name), full_name)

    def unit_length(self, rows: ir.Value, name: str, axis: ir.Value, *, length_shape: Dimensions | None) -> ir.Value:
        """Scale each row of [batch, size] to length 1.

        Args:
            rows: The embeddings.
            name: Name of the output; the intermediate length is `name`_length.
            axis: Initializer with the int64 value [-1].
            length_shape: Shape of the intermediate length; None leaves it unknown.
        """
        dtype = rows.dtype or ir.DataType.FLOAT
        length = self.op("ReduceL2", f"{name}_length", rows, axis, dtype=dtype, shape=length_shape, keepdims=1)
        return self.op("Div", name, rows, length, dtype=dtype, shape=dimensions(rows))


def append_unit_length(graph: ir.Graph, rows: ir.Value, name: str) -> ir.Value:
    """Append the scaling of each row of [batch, size] to length 1; the new value is called `name`."""
    free_names(graph, name, f"{name}_length", f"{name}_axis")
    builder = NodeBuilder(graph)
    axis = builder.constant(f"{name}_axis", np.array([-1], np.int64))
    return builder.unit_length(rows, name, axis, length_shape=None)


def initializer(name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Make an initializer that belongs to no graph yet."""
    return ir.tape.Tape().initializer(tensor, name)


def dimensions(value: ir.Value) -> list[int | str | None]:
    """Dimensions of a value: a number, a name for a dynamic one, or None for an unknown one."""
    assert value.shape is not None  # noqa: S101  inputs and outputs of our graphs have shapes
    return [d if isinstance(d, int) else d.value for d in value.shape]


def free_names(graph: ir.Graph, *names: str) -> None:
    """Rename the nodes, initializers and inner values that have one of these names, so that new ones can use it."""
    values = [*graph.initializers.values(), *(value for node in graph for value in node.outputs)]
    for named in (*values, *graph):
        if named.name in names:
            named.name = f"tower.{named.name}"
