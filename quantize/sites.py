"""A tower's graph as the recipes see it: products with constant weights, and how nodes are put in a node's place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ..exporter.graph.builder import initializer

Array = NDArray[Any]
Floats = NDArray[np.float32]

CONTRIB: Final = "com.microsoft"


@dataclass(frozen=True)
class Site:
    """A place with constant weights: a MatMul by [in, out], or a Gather from a table [rows, width].

    Attributes:
        name: The weight's name without its last part, such as layers.0.mlp.fc1.
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
        """What is multiplied, or the numbers of the rows."""
        value = self.node.inputs[1 if self.is_table else 0]
        assert value is not None  # noqa: S101  both operators require it
        return value

    @property
    def size(self) -> int:
        """How many weights there are."""
        return content(self.weight).size


def sites(graph: ir.Graph) -> dict[str, Site]:
    """Every site by name, in the order of the graph."""
    found = {}
    for node in graph:
        place = {"MatMul": 1, "Gather": 0}.get(node.op_type)
        weight = None if place is None else node.inputs[place]
        if weight is not None and weight.is_initializer() and weight.dtype == ir.DataType.FLOAT:
            assert isinstance(weight.shape, ir.Shape)  # noqa: S101  an initializer is shaped
            if len(weight.shape) == 2:
                name = str(weight.name).removesuffix(".weight")
                found[name] = Site(name, node, weight)
    return found


def score_nodes(graph: ir.Graph) -> dict[str, ir.Node]:
    """The products of queries and keys, by the name of their node; the MAP head's query is a constant and left out."""
    found = {}
    for softmax in graph:
        node = softmax.inputs[0].producer() if softmax.op_type == "Softmax" and softmax.inputs[0] else None
        if node is not None and all(value is not None and not value.is_initializer() for value in node.inputs):
            found[str(node.name)] = node
    return found


def content(initializer: ir.Value) -> ir.TensorProtocol:
    """The tensor of an initializer."""
    assert initializer.const_value is not None  # noqa: S101  graphs are loaded with their weights
    return initializer.const_value


def weights(initializer: ir.Value) -> Floats:
    """The array of an initializer."""
    return read(content(initializer))


def read(tensor: ir.TensorProtocol) -> Floats:
    """A tensor as an array of its own, so that no data file stays mapped and counts as memory."""
    array: Floats = tensor.numpy()
    if isinstance(tensor, ir.ExternalTensor):
        array = array.copy()
        tensor.release()
    return array


def constant(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """An initializer of that name; the one that is there already if there is one."""
    if name not in graph.initializers:
        tensor = ir.Tensor(array, name=name)
        graph.initializers[name] = initializer(name, tensor)
    return graph.initializers[name]


def lazy(graph: ir.Graph, name: str, like: ir.Value, dtype: ir.DataType, make: Callable[[Floats], Array]) -> ir.Value:
    """An initializer that is made of another one's content when the graph is written, so that it costs no memory."""
    if name not in graph.initializers or graph.initializers[name] is like:
        tensor = deferred(name, content(like), dtype, make)
        graph.initializers[name] = initializer(name, tensor)
    return graph.initializers[name]


def deferred(
    name: str, source: ir.TensorProtocol, dtype: ir.DataType, make: Callable[[Floats], Array]
) -> ir.LazyTensor:
    """A tensor of the source's shape that is computed whenever it is read."""

    def make_it() -> ir.Tensor[Any]:
        return ir.Tensor(np.ascontiguousarray(make(read(source))), dtype=dtype, name=name)

    return ir.LazyTensor(make_it, dtype=dtype, shape=ir.Shape(source.shape.numpy()), name=name, cache=False)


class Patch:
    """New nodes that take a node's place.

    Args:
        graph: Where.
        node: What they replace; they are put before it.
        name: What the new nodes and values are called after.
    """

    def __init__(self, graph: ir.Graph, node: ir.Node, name: str) -> None:
        self.graph, self.node, self.name = graph, node, name
        self._count = 0

    def constant(self, name: str, array: Array) -> ir.Value:
        """A constant of this patch."""
        return constant(self.graph, f"{self.name}.{name}", array)

    def op(self, kind: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any) -> ir.Value:
        """One node; its first output."""
        return self.ops(kind, 1, *inputs, domain=domain, **attributes)[0]

    def ops(
        self, kind: str, outputs: int, *inputs: ir.Value | None, domain: str = "", **attributes: Any
    ) -> tuple[ir.Value, ...]:
        """One node with several outputs."""
        node = ir.node(kind, inputs, attributes, domain=domain, num_outputs=outputs)
        self._count += 1
        node.name = f"{self.name}/{kind}_{self._count}"
        for i, value in enumerate(node.outputs):
            value.name = f"{node.name}.{i}"
        self.graph.insert_before(self.node, [node])
        if domain:
            self.graph.opset_imports[domain] = 1
        return tuple(node.outputs)

    def replace(self, value: ir.Value) -> None:
        """Let `value` take the place of the node's output and remove the node."""
        old = self.node.outputs[0]
        value.shape, value.type = old.shape, old.type
        take_place(self.graph, old, value)
        self.graph.remove(self.node, safe=True)


def take_place(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Use `new` wherever `old` is used, as an output of the graph also under its name."""
    if old in graph.outputs:
        new.name, old.name = old.name, f"{old.name}.before"
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def drop_unused(graph: ir.Graph) -> None:
    """Remove the initializers that no node uses."""
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]
