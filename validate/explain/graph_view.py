"""A tower's graph without its weights, and the division of two graphs into segments between their shared values."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import onnx
from onnx import TensorProto

FLOATS: Final = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
_READABLE: Final = (*FLOATS, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)  # types that NumPy has, too


class GraphView:
    """A graph whose weights stay on disk.

    Args:
        path: The ONNX file.
        embedding: Name of the output that holds the embedding.
        label: Prefix that keeps the weight files of two graphs apart in one folder.

    Attributes:
        nodes: Nodes in file order, which is a topological order.
        producers: Index of the node that computes a value, by the value's name.
        reads: Names of the values that each node reads, including those read by its subgraphs.
        weights: Initializers by name; those with external data have no content.
        inputs: Names of the graph's inputs.
    """

    def __init__(self, path: Path, embedding: str, label: str) -> None:
        self.path, self.embedding, self.label = path, embedding, label
        self.model = onnx.load(path, load_external_data=False)
        graph = self.model.graph
        self.nodes = list(graph.node)
        self.producers = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.reads = [tuple(dict.fromkeys(reads_of(node))) for node in self.nodes]
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = tuple(value.name for value in graph.input if value.name not in self.weights)
        self._types = _types(self.model)

    @property
    def values(self) -> list[str]:
        """Names of the computed values that NumPy can hold, in order; values of unknown type are included."""
        return [name for name in self.producers if self._types.get(name, (TensorProto.FLOAT, 0))[0] in _READABLE]

    @property
    def float_values(self) -> list[str]:
        """Names of the computed floating-point values, in order; values of unknown type are included."""
        return [name for name in self.values if self._types.get(name, (TensorProto.FLOAT, 0))[0] in FLOATS]

    def size(self, name: str) -> int:
        """Number of elements of a value in one row; dynamic dimensions count as 1."""
        return self._types.get(name, (0, 1))[1]

    def upstream(self, targets: Iterable[str], stops: Collection[str]) -> tuple[frozenset[int], frozenset[str]]:
        """The nodes that compute target values from the nearest stops.

        Args:
            targets: Names of the values to compute.
            stops: Names of the values where the search ends; targets are searched even if they are stops.

        Returns:
            Indices of the nodes, and the names of the stops and graph inputs that these nodes read.
        """
        nodes: set[int] = set()
        sources: set[str] = set()
        pending = list(targets)
        while pending:
            name = pending.pop()
            producer = self.producers.get(name)
            if producer is None and name in self.inputs:
                sources.add(name)
            if producer is None or producer in nodes:
                continue
            nodes.add(producer)
            sources.update(read for read in self.reads[producer] if read in stops)
            pending += [read for read in self.reads[producer] if read not in stops]
        return frozenset(nodes), frozenset(sources)

    def node_names(self, nodes: Iterable[int]) -> tuple[str, ...]:
        """Names of nodes in graph order; an unnamed node goes by its first output."""
        return tuple(self.nodes[i].name or self.nodes[i].output[0] for i in sorted(nodes))

    def operators(self, nodes: Iterable[int]) -> tuple[str, ...]:
        """Operator types of nodes in graph order."""
        return tuple(self.nodes[i].op_type for i in sorted(nodes))


def reads_of(node: onnx.NodeProto) -> Iterator[str]:
    """Names of the values that a node reads: its inputs, and outer values that its subgraphs read."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            inside = _defined_in(graph)
            yield from (name for inner in graph.node for name in reads_of(inner) if name not in inside)


def renamed(node: onnx.NodeProto, reads: Callable[[str], str], writes: Callable[[str], str]) -> onnx.NodeProto:
    """A copy of a node with its inputs and outputs renamed; values computed inside its subgraphs keep their names."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [reads(name) if name else "" for name in node.input]
    copy.output[:] = [writes(name) if name else "" for name in node.output]
    for attribute in copy.attribute:
        for graph in (attribute.g, *attribute.graphs):
            _rename_inside(graph, reads)
    return copy


def _rename_inside(graph: onnx.GraphProto, reads: Callable[[str], str]) -> None:
    inside = _defined_in(graph)
    for node in graph.node:
        node.CopyFrom(renamed(node, lambda name: name if name in inside else reads(name), lambda name: name))


def _defined_in(graph: onnx.GraphProto) -> set[str]:
    """Names that a subgraph defines itself."""
    names = {value.name for value in (*graph.input, *graph.initializer)}
    return names | {name for node in graph.node for name in node.output}


def _types(model: onnx.ModelProto) -> dict[str, tuple[int, int]]:
    """Element type and size of the values whose types shape inference finds without the weights."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    types = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        tensor = value.type.tensor_type
        types[value.name] = (tensor.elem_type, math.prod(max(1, d.dim_value) for d in tensor.shape.dim))
    return types


@dataclass(frozen=True)
class Segment:
    """Nodes of two graphs that compute the same values from the same values: one step of the comparison.

    Attributes:
        outputs: Names of the computed values, the same in both graphs.
        inputs: Names of the values read: outputs of other segments, or graph inputs.
        candidate: Indices of the nodes in the candidate graph.
        reference: Indices of the nodes in the reference graph.
    """

    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    candidate: frozenset[int]
    reference: frozenset[int]


def segments(candidate: GraphView, reference: GraphView, shared: Sequence[str]) -> list[Segment]:
    """Divide two graphs at their shared values, in the order of the candidate graph.

    No node belongs to two segments, except constants: values that need a common node form one segment.
    """
    stops = frozenset(shared)
    owners: dict[tuple[str, int], _Piece] = {}
    pieces: list[_Piece] = []
    for name in shared:
        piece = _Piece({name}, candidate.upstream([name], stops), reference.upstream([name], stops))
        keys = [("candidate", i) for i in piece.candidate[0] if candidate.reads[i]]
        keys += [("reference", i) for i in piece.reference[0] if reference.reads[i]]
        for other in {id(owners[key]): owners[key] for key in keys if key in owners}.values():
            pieces.remove(other)
            piece, keys = piece.joined(other), keys + other.keys
        piece.keys = keys
        pieces.append(piece)
        owners |= dict.fromkeys(keys, piece)
    unordered = [piece.segment() for piece in pieces]
    return sorted(unordered, key=lambda segment: min(candidate.producers[name] for name in segment.outputs))


_Upstream = tuple[frozenset[int], frozenset[str]]


@dataclass(eq=False)
class _Piece:
    """A segment that may still grow."""

    outputs: set[str]
    candidate: _Upstream
    reference: _Upstream
    keys: list[tuple[str, int]] = field(default_factory=list)

    def joined(self, other: _Piece) -> _Piece:
        candidate = (self.candidate[0] | other.candidate[0], self.candidate[1] | other.candidate[1])
        reference = (self.reference[0] | other.reference[0], self.reference[1] | other.reference[1])
        return _Piece(self.outputs | other.outputs, candidate, reference)

    def segment(self) -> Segment:
        inputs = tuple(sorted(self.candidate[1] | self.reference[1]))
        return Segment(tuple(sorted(self.outputs)), inputs, self.candidate[0], self.reference[0])
