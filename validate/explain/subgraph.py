"""Graphs made of nodes of the judged graph and of the trusted one, over weights that stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ...runtime.errors import ArtifactError
from .graph_view import FLOATS, GraphView, Segment, reads_of, renamed

Array = NDArray[Any]
_RAISED: Final = "trusted/"  # in a hybrid before the names of what comes from the trusted graph


def tapped(net: GraphView, names: Sequence[str]) -> onnx.ModelProto:
    """A graph that gives its embedding and some of its values."""
    return _whole(net, net.nodes, [net.embedding, *names], [])


def overridden(net: GraphView, name: str, value: Array) -> onnx.ModelProto:
    """A graph that takes one of its values as a further input, instead of computing it; it gives its embedding."""
    nodes = [renamed(node, lambda n: n, lambda n: f"{n}/computed" if n == name else n) for node in net.nodes]
    return _whole(net, nodes, [net.embedding], [described(name, value)])


@dataclass(frozen=True)
class Subgraph:
    """Some nodes of a graph as a graph of their own.

    Attributes:
        model: It; its weights are where the graph's are.
        given: What its outputs are called, by what they are called in the whole graph.
    """

    model: onnx.ModelProto
    given: dict[str, str]


def cut(net: GraphView, nodes: Collection[int], inputs: Mapping[str, Array], outputs: Sequence[str]) -> Subgraph:
    """Nodes that take the inputs as they are given and compute the outputs.

    Args:
        net: Whose nodes.
        nodes: Their numbers.
        inputs: Arrays of the dtypes and shapes of what is fed, by name.
        outputs: What is wanted; where it is fed as well, the graph gives it under another name.
    """
    given = {name: f"{name}/again" if name in inputs else name for name in outputs}
    chosen = [renamed(net.nodes[i], lambda n: n, lambda n: given.get(n, n)) for i in sorted(nodes)]
    feeds = [described(name, array) for name, array in inputs.items()]
    tensors = [stored(net, name) for name in _weights(net, nodes)]
    return Subgraph(_model(net, chosen, tensors, feeds, [_untyped(name) for name in given.values()]), given)


def hybrid(
    ours: GraphView, theirs: GraphView, chosen: Iterable[Segment], types: Mapping[str, np.dtype[Any]]
) -> onnx.ModelProto:
    """The judged graph with some segments taken from the trusted one, and casts where their floats differ.

    Between two segments that are taken, values pass as the trusted graph has them.

    Args:
        ours: The judged graph.
        theirs: The trusted one.
        chosen: What to take.
        types: What the judged graph computes, by name.

    Raises:
        ArtifactError: These segments cannot be taken together, since they would need each other.
    """
    raised = {name for segment in chosen for name in segment.outputs}
    gone = {i for segment in chosen for i in segment.ours if ours.reads[i]}
    nodes = [node for i, node in enumerate(ours.nodes) if i not in gone]
    casts: dict[str, onnx.NodeProto] = {}
    for segment in chosen:
        outside = set(segment.inputs) - raised - set(theirs.inputs)

        def read(name: str, outside: Collection[str] = outside) -> str:
            if name in theirs.inputs:
                return name
            if name in outside:
                casts[name] = _cast(name, _RAISED + name, TensorProto.FLOAT if _is_float(types[name]) else None)
            return _RAISED + name

        nodes += [_raised(theirs.nodes[i], read) for i in segment.theirs]
    back = [_cast(_RAISED + name, name, helper.np_dtype_to_tensor_dtype(types[name])) for name in raised]
    tensors = [stored(ours, name) for name in ours.weights]
    taken = {i for segment in chosen for i in segment.theirs}
    tensors += [stored(theirs, name, _RAISED + name) for name in _weights(theirs, taken)]
    nodes = _sorted([*nodes, *casts.values(), *back], {*ours.inputs, *(tensor.name for tensor in tensors)})
    shapes = list(ours.model.graph.value_info)
    return _model(ours, nodes, tensors, list(ours.model.graph.input), [_untyped(ours.embedding)], shapes, theirs)


def stored(net: GraphView, name: str, new_name: str | None = None) -> TensorProto:
    """A weight, or the reference to it, as it is in a folder that has the weights of both graphs."""
    copy = TensorProto()
    copy.CopyFrom(net.weights[name])
    copy.name = new_name or name
    for entry in copy.external_data:
        if entry.key == "location":
            entry.value = linked_name(net, entry.value)
    return copy


def linked_name(net: GraphView, location: str) -> str:
    """What a data file of a graph is called in a folder that has the weights of both."""
    return f"{net.label}.{location.replace('/', '.')}"


def locations(net: GraphView) -> dict[str, Path]:
    """The data files of a graph, by `linked_name`."""
    found = {e.value for t in net.weights.values() for e in t.external_data if e.key == "location"}
    return {linked_name(net, location): net.path.parent / location for location in found}


def content(net: GraphView, name: str) -> TensorProto:
    """A weight with its content inside."""
    tensor = TensorProto()
    tensor.CopyFrom(net.weights[name])
    place = {entry.key: entry.value for entry in tensor.external_data}
    if place:
        path, start = net.path.parent / place["location"], int(place.get("offset", 0))
        with path.open("rb") as file:
            file.seek(start)
            tensor.raw_data = file.read(int(place.get("length", path.stat().st_size - start)))
        del tensor.external_data[:]
        tensor.data_location = TensorProto.DEFAULT
    return tensor


def inlined(net: GraphView, model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph of some of a net's nodes with its weights inside."""
    whole = onnx.ModelProto()
    whole.CopyFrom(model)
    names = [tensor.name for tensor in whole.graph.initializer]
    del whole.graph.initializer[:]
    whole.graph.initializer.extend(content(net, name) for name in names)
    return whole


def described(name: str, array: Array) -> onnx.ValueInfoProto:
    """A graph's input that takes such an array."""
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def _whole(
    net: GraphView, nodes: Sequence[onnx.NodeProto], outputs: Sequence[str], more: list[onnx.ValueInfoProto]
) -> onnx.ModelProto:
    own = {value.name: value for value in net.model.graph.output}
    given = [own.get(name) or _untyped(name) for name in dict.fromkeys([*outputs, *own])]
    tensors = [stored(net, name) for name in net.weights]
    shapes = list(net.model.graph.value_info)  # without them providers fuse less, and compute something else
    return _model(net, nodes, tensors, [*net.model.graph.input, *more], given, shapes)


def _model(
    net: GraphView,
    nodes: Sequence[onnx.NodeProto],
    tensors: Sequence[TensorProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    known: Sequence[onnx.ValueInfoProto] = (),
    other: GraphView | None = None,
) -> onnx.ModelProto:
    graph = helper.make_graph(nodes, "part", inputs, outputs, tensors, value_info=known)
    opsets = {entry.domain: entry.version for n in (other, net) if n for entry in n.model.opset_import}
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    functions = {(f.domain, f.name): f for n in (other, net) if n for f in n.model.functions}
    return helper.make_model(
        graph, opset_imports=imports, ir_version=net.model.ir_version, functions=list(functions.values())
    )


def _weights(net: GraphView, nodes: Iterable[int]) -> list[str]:
    return list(dict.fromkeys(name for i in sorted(nodes) for name in net.reads[i] if name in net.weights))


def _untyped(name: str) -> onnx.ValueInfoProto:
    """An output whose type is what the nodes make it."""
    return onnx.ValueInfoProto(name=name)


def _raised(node: onnx.NodeProto, read: Callable[[str], str]) -> onnx.NodeProto:
    copy = renamed(node, read, lambda name: _RAISED + name)
    copy.name = _RAISED + node.name
    return copy


def _cast(name: str, new_name: str, to: int | None) -> onnx.NodeProto:
    if to is None or to not in FLOATS:
        return helper.make_node("Identity", [name], [new_name], new_name)
    return helper.make_node("Cast", [name], [new_name], new_name, to=to)


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f"


def _sorted(nodes: list[onnx.NodeProto], known: set[str]) -> list[onnx.NodeProto]:
    """Nodes in an order in which each comes after those that it reads from."""
    waiting = [(node, set(reads_of(node)) - known) for node in nodes]
    done: list[onnx.NodeProto] = []
    while waiting:
        ready = [node for node, needs in waiting if not needs]
        if not ready:
            raise ArtifactError("Segments of two graphs need each other.", "Take more of them, or fewer.")
        made = {name for node in ready for name in node.output}
        done += ready
        waiting = [(node, needs - made) for node, needs in waiting if needs]
    return done
