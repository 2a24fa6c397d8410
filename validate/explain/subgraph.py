"""Builds graphs from nodes of the candidate and the reference graph; their weights stay where they are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper

from ...runtime.arrays import AnyArray
from ...runtime.errors import ArtifactError
from .graph_view import FLOATS, GraphView, Segment, reads_of, renamed

_PREFIX: Final = "reference/"  # of the names of nodes and values from the reference graph, in a hybrid


def with_outputs(graph: GraphView, names: Sequence[str]) -> onnx.ModelProto:
    """A copy of a graph that returns its embedding and the named values."""
    return _copy(graph, graph.nodes, [graph.embedding, *names], [])


def with_override(graph: GraphView, name: str, value: AnyArray) -> onnx.ModelProto:
    """A copy of a graph that takes one of its values as an additional input, and returns its embedding."""
    nodes = [renamed(node, lambda n: n, lambda n: f"{n}/computed" if n == name else n) for node in graph.nodes]
    return _copy(graph, nodes, [graph.embedding], [value_info(name, value)])


@dataclass(frozen=True)
class Subgraph:
    """Some nodes of a graph as a graph.

    Attributes:
        model: The graph.
        output_names: Names of its outputs, by their names in the original graph.
    """

    model: onnx.ModelProto
    output_names: dict[str, str]


def extract(
    graph: GraphView, nodes: Collection[int], inputs: Mapping[str, AnyArray], outputs: Sequence[str]
) -> Subgraph:
    """Extract nodes as a graph that computes outputs from inputs; its weights stay in their files.

    Args:
        graph: The original graph.
        nodes: Indices of the nodes.
        inputs: Arrays with the dtypes and shapes of the inputs, by name.
        outputs: Names of the values to return; a value that is an input, too, is returned under another name.
    """
    output_names = {name: f"{name}/again" if name in inputs else name for name in outputs}
    chosen = [renamed(graph.nodes[i], lambda n: n, lambda n: output_names.get(n, n)) for i in sorted(nodes)]
    feeds = [value_info(name, array) for name, array in inputs.items()]
    tensors = [linked_weight(graph, name) for name in _weights(graph, nodes)]
    return Subgraph(_model(graph, chosen, tensors, feeds, map(_untyped, output_names.values())), output_names)


def hybrid(
    candidate: GraphView, reference: GraphView, chosen: Iterable[Segment], types: Mapping[str, np.dtype[Any]]
) -> onnx.ModelProto:
    """The candidate graph with some segments from the reference graph, and casts where their float types differ.

    Values between two chosen segments keep the reference graph's type.

    Args:
        candidate: The candidate graph.
        reference: The reference graph.
        chosen: The segments to take from the reference graph.
        types: dtype of the candidate graph's values, by name.

    Raises:
        ArtifactError: These segments cannot be replaced together, because they depend on each other.
    """
    chosen = list(chosen)
    computed = {name for segment in chosen for name in segment.outputs}
    dropped = {i for segment in chosen for i in segment.candidate if candidate.reads[i]}
    nodes = [node for i, node in enumerate(candidate.nodes) if i not in dropped]
    casts: dict[str, onnx.NodeProto] = {}
    for segment in chosen:
        outside = set(segment.inputs) - computed - set(reference.inputs)

        def read(name: str, outside: Collection[str] = outside) -> str:
            if name in reference.inputs:
                return name
            if name in outside:
                casts[name] = _cast(name, _PREFIX + name, TensorProto.FLOAT if _is_float(types[name]) else None)
            return _PREFIX + name

        nodes += [_prefixed(reference.nodes[i], read) for i in segment.reference]
    back = [_cast(_PREFIX + name, name, helper.np_dtype_to_tensor_dtype(types[name])) for name in computed]
    tensors = [linked_weight(candidate, name) for name in candidate.weights]
    taken = {i for segment in chosen for i in segment.reference}
    tensors += [linked_weight(reference, name, _PREFIX + name) for name in _weights(reference, taken)]
    nodes = _sorted([*nodes, *casts.values(), *back], {*candidate.inputs, *(tensor.name for tensor in tensors)})
    inputs, shapes = list(candidate.model.graph.input), list(candidate.model.graph.value_info)
    return _model(candidate, nodes, tensors, inputs, [_untyped(candidate.embedding)], shapes, reference)


def linked_weight(graph: GraphView, name: str, new_name: str | None = None) -> TensorProto:
    """A weight whose external data are referenced by their `linked_name`."""
    copy = TensorProto()
    copy.CopyFrom(graph.weights[name])
    copy.name = new_name or name
    for entry in copy.external_data:
        if entry.key == "location":
            entry.value = linked_name(graph, entry.value)
    return copy


def linked_name(graph: GraphView, location: str) -> str:
    """Name of a graph's data file in a folder that holds the data files of both graphs."""
    return f"{graph.label}.{location.replace('/', '.')}"


def weight_files(graph: GraphView) -> dict[str, Path]:
    """The data files of a graph, by `linked_name`."""
    names = {e.value for t in graph.weights.values() for e in t.external_data if e.key == "location"}
    return {linked_name(graph, name): graph.path.parent / name for name in names}


def load_weight(graph: GraphView, name: str) -> TensorProto:
    """A weight with its content inside."""
    tensor = TensorProto()
    tensor.CopyFrom(graph.weights[name])
    external = {entry.key: entry.value for entry in tensor.external_data}
    if external:
        path, start = graph.path.parent / external["location"], int(external.get("offset", 0))
        with path.open("rb") as file:
            file.seek(start)
            tensor.raw_data = file.read(int(external.get("length", path.stat().st_size - start)))
        del tensor.external_data[:]
        tensor.data_location = TensorProto.DEFAULT
    return tensor


def inline_weights(graph: GraphView, model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a subgraph of a graph with its weights inside."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    names = [tensor.name for tensor in copy.graph.initializer]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(load_weight(graph, name) for name in names)
    return copy


def value_info(name: str, array: AnyArray) -> onnx.ValueInfoProto:
    """A graph input with an array's dtype and shape."""
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def _copy(
    graph: GraphView, nodes: Sequence[onnx.NodeProto], outputs: Sequence[str], more: list[onnx.ValueInfoProto]
) -> onnx.ModelProto:
    declared = {value.name: value for value in graph.model.graph.output}
    infos = [declared.get(name) or _untyped(name) for name in dict.fromkeys([*outputs, *declared])]
    tensors = [linked_weight(graph, name) for name in graph.weights]
    shapes = list(graph.model.graph.value_info)  # without them providers fuse less and compute other values
    return _model(graph, nodes, tensors, [*graph.model.graph.input, *more], infos, shapes)


def _model(
    graph: GraphView,
    nodes: Sequence[onnx.NodeProto],
    tensors: Sequence[TensorProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Iterable[onnx.ValueInfoProto],
    known: Sequence[onnx.ValueInfoProto] = (),
    other: GraphView | None = None,
) -> onnx.ModelProto:
    part = helper.make_graph(nodes, "part", inputs, list(outputs), tensors, value_info=known)
    sources = [view.model for view in (other, graph) if view]
    opsets = {entry.domain: entry.version for model in sources for entry in model.opset_import}
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    functions = {(f.domain, f.name): f for model in sources for f in model.functions}
    return helper.make_model(
        part, opset_imports=imports, ir_version=graph.model.ir_version, functions=list(functions.values())
    )


def _weights(graph: GraphView, nodes: Iterable[int]) -> list[str]:
    return list(dict.fromkeys(name for i in sorted(nodes) for name in graph.reads[i] if name in graph.weights))


def _untyped(name: str) -> onnx.ValueInfoProto:
    """An output whose type follows from the nodes."""
    return onnx.ValueInfoProto(name=name)


def _prefixed(node: onnx.NodeProto, read: Callable[[str], str]) -> onnx.NodeProto:
    copy = renamed(node, read, lambda name: _PREFIX + name)
    copy.name = _PREFIX + node.name
    return copy


def _cast(name: str, new_name: str, to: int | None) -> onnx.NodeProto:
    if to is None or to not in FLOATS:
        return helper.make_node("Identity", [name], [new_name], new_name)
    return helper.make_node("Cast", [name], [new_name], new_name, to=to)


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f"


def _sorted(nodes: list[onnx.NodeProto], known: set[str]) -> list[onnx.NodeProto]:
    """Sort nodes topologically."""
    waiting = [(node, set(reads_of(node)) - known) for node in nodes]
    ordered: list[onnx.NodeProto] = []
    while waiting:
        ready = [node for node, missing in waiting if not missing]
        if not ready:
            raise ArtifactError("Segments of the two graphs depend on each other.", "Replace more of them, or fewer.")
        computed = {name for node in ready for name in node.output}
        ordered += ready
        waiting = [(node, missing - computed) for node, missing in waiting if missing]
    return ordered
