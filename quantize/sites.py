"""Sites, the places of a tower's graph that recipes rewrite, and the edits that recipes share.

A site is a product or a table lookup with constant weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from onnx_ir.tape import Tape

from ..runtime.arrays import AnyArray, FloatArray

CONTRIB: Final = "com.microsoft"  # ONNX Runtime's contributed operators

# Names of sites, or of what else a recipe offers as a candidate, to leave at higher precision.
Exclusions = frozenset[str]


@dataclass(frozen=True)
class Site:
    """A node with constant weights: a MatMul by [in, out], or a Gather from a table [rows, width].

    Attributes:
        name: Name of the weight without its last part, such as layers.0.mlp.fc1.
    """

    name: str
    node: ir.Node
    weight: ir.Value

    @property
    def is_table(self) -> bool:
        """Whether rows are looked up instead of multiplied."""
        return self.node.op_type == "Gather"

    @property
    def activation(self) -> ir.Value:
        """The input that is not constant: the left factor of a MatMul, the row numbers of a Gather."""
        value = self.node.inputs[1 if self.is_table else 0]
        assert value is not None  # noqa: S101  both operators require it
        return value

    @property
    def size(self) -> int:
        """Number of weights."""
        return tensor_of(self.weight).size


def sites(graph: ir.Graph) -> dict[str, Site]:
    """Every site by name, in graph order."""
    by_name = {}
    for node in graph:
        index = {"MatMul": 1, "Gather": 0}.get(node.op_type)
        weight = None if index is None else node.inputs[index]
        if weight is not None and weight.is_initializer() and weight.dtype == ir.DataType.FLOAT:
            assert isinstance(weight.shape, ir.Shape)  # noqa: S101  every initializer has a shape
            if len(weight.shape) == 2:
                name = str(weight.name).removesuffix(".weight")
                by_name[name] = Site(name, node, weight)
    return by_name


def score_nodes(graph: ir.Graph) -> dict[str, ir.Node]:
    """The products of queries and keys by node name, without the MAP head's, whose query is constant."""
    by_name = {}
    for softmax in graph:
        node = softmax.inputs[0].producer() if softmax.op_type == "Softmax" and softmax.inputs[0] else None
        if node is not None and all(value is not None and not value.is_initializer() for value in node.inputs):
            by_name[str(node.name)] = node
    return by_name


def tensor_of(initializer: ir.Value) -> ir.TensorProtocol:
    """Return the tensor of an initializer."""
    assert initializer.const_value is not None  # noqa: S101  graphs are loaded with their weights
    return initializer.const_value


def weight_array(initializer: ir.Value) -> FloatArray:
    """Return a copy of an initializer's content."""
    return read_array(tensor_of(initializer))


def read_array(tensor: ir.TensorProtocol) -> FloatArray:
    """Return a copy of a tensor's content, so that no data file stays mapped and counts as memory."""
    array: FloatArray = tensor.numpy()
    if isinstance(tensor, ir.ExternalTensor):
        array = array.copy()
        tensor.release()
    return array


def initializer(tensor: ir.TensorProtocol) -> ir.Value:
    """Return a value that holds the tensor under the tensor's name; it belongs to no graph yet."""
    return ir.val(tensor.name, const_value=tensor)


def lazy_tensor(
    name: str, source: ir.TensorProtocol, dtype: ir.DataType, compute: Callable[[FloatArray], AnyArray]
) -> ir.LazyTensor:
    """Return a tensor of the source's shape that is computed from it at each read and costs no memory."""

    def evaluate() -> ir.Tensor[Any]:
        return ir.Tensor(np.ascontiguousarray(compute(read_array(source))), dtype=dtype, name=name)

    return ir.LazyTensor(evaluate, dtype=dtype, shape=ir.Shape(source.shape.numpy()), name=name, cache=False)


def replace_node(graph: ir.Graph, node: ir.Node, tape: Tape, name: str) -> None:
    """Replace a node with one output by the nodes of a tape, the last of which computes that output.

    Args:
        graph: The graph of the node.
        node: The node to remove.
        tape: New nodes without names, and new initializers.
        name: Prefix of the names of the new nodes and their outputs.
    """
    for count, new in enumerate(tape.nodes, start=1):
        new.name = f"{name}/{new.op_type}_{count}"
        for i, value in enumerate(new.outputs):
            value.name = f"{new.name}.{i}"
        if new.domain:
            graph.opset_imports[new.domain] = 1
    for value in tape.initializers:
        graph.register_initializer(value)
    old, result = node.outputs[0], tape.nodes[-1].outputs[0]
    if not old.is_graph_output():
        old.name = result.name  # onnx_ir names the result after the old value, which only an output needs
    ir.convenience.replace_nodes_and_values(graph, node, [node], tape.nodes, [old], [result])


def remove_unused(model: ir.Model) -> ir.Model:
    """Remove the nodes and initializers that no output needs, in place."""
    RemoveUnusedNodesPass()(model)
    return model
