"""A tower's graph without its weights, and two such graphs cut at the values that both of them compute."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import onnx
from onnx import TensorProto

FLOATS: Final = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
_READABLE: Final = (*FLOATS, TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)  # that NumPy has, too


class GraphView:
    """A graph whose weights stay on the disk.

    Args:
        path: The ONNX file.
        embedding: Name of the output that the tower is judged by.
        label: What its weights are told apart by where two graphs share a folder.

    Attributes:
        nodes: In the order of the file, which is a topological one.
        makers: The number of the node that computes a value, by the value's name.
        reads: What each node reads, also from inside of its subgraphs.
        weights: Initializers by name; those in another file have no content.
        inputs: Names of what is fed.
    """

    def __init__(self, path: Path, embedding: str, label: str) -> None:
        self.path, self.embedding, self.label = path, embedding, label
        self.model = onnx.load(path, load_external_data=False)
        graph = self.model.graph
        self.nodes = list(graph.node)
        self.makers = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.reads = [tuple(dict.fromkeys(reads_of(node))) for node in self.nodes]
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = tuple(value.name for value in graph.input if value.name not in self.weights)
        self._types = _types(self.model)

    @property
    def values(self) -> list[str]:
        """Names of the values that nodes compute and NumPy can hold, in order; those of unknown type are among them."""
        return [name for name in self.makers if self._types.get(name, (TensorProto.FLOAT, 0))[0] in _READABLE]

    @property
    def floats(self) -> list[str]:
        """The floating-point ones of them."""
        return [name for name in self.values if self._types.get(name, (TensorProto.FLOAT, 0))[0] in FLOATS]

    def size(self, name: str) -> int:
        """How many elements a value has in one row; free dimensions count as 1."""
        return self._types.get(name, (0, 1))[1]

    def behind(self, targets: Iterable[str], stops: Collection[str]) -> tuple[frozenset[int], frozenset[str]]:
        """The nodes that compute values from others.

        Args:
            targets: What is computed.
            stops: Values that are taken as given, unless they are targets.

        Returns:
            Numbers of the nodes, and which stops and inputs of the graph they read.
        """
        nodes: set[int] = set()
        enters: set[str] = set()
        todo = list(targets)
        while todo:
            name = todo.pop()
            place = self.makers.get(name)
            if place is None and name in self.inputs:
                enters.add(name)
            if place is None or place in nodes:
                continue
            nodes.add(place)
            enters.update(read for read in self.reads[place] if read in stops)
            todo += [read for read in self.reads[place] if read not in stops]
        return frozenset(nodes), frozenset(enters)

    def names(self, nodes: Iterable[int]) -> tuple[str, ...]:
        """What nodes are called, in the order of the graph; one without a name goes by its first output."""
        return tuple(self.nodes[i].name or self.nodes[i].output[0] for i in sorted(nodes))

    def operators(self, nodes: Iterable[int]) -> tuple[str, ...]:
        """Their operators, in the order of the graph."""
        return tuple(self.nodes[i].op_type for i in sorted(nodes))


def reads_of(node: onnx.NodeProto) -> Iterator[str]:
    """What a node reads: its inputs, and what its subgraphs take from around them."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        for graph in (attribute.g, *attribute.graphs):
            own = {value.name for value in (*graph.input, *graph.initializer)}
            own |= {name for inner in graph.node for name in inner.output}
            yield from (name for inner in graph.node for name in reads_of(inner) if name not in own)


def renamed(node: onnx.NodeProto, reads: Callable[[str], str], writes: Callable[[str], str]) -> onnx.NodeProto:
    """A copy of a node with other names of what it reads and computes; what its subgraphs compute keeps its name."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [reads(name) if name else "" for name in node.input]
    copy.output[:] = [writes(name) if name else "" for name in node.output]
    for attribute in copy.attribute:
        for graph in (attribute.g, *attribute.graphs):
            _rename_inside(graph, reads)
    return copy


def _rename_inside(graph: onnx.GraphProto, reads: Callable[[str], str]) -> None:
    own = {value.name for value in (*graph.input, *graph.initializer)}
    own |= {name for node in graph.node for name in node.output}
    for node in graph.node:
        node.CopyFrom(renamed(node, lambda name: name if name in own else reads(name), lambda name: name))


def _types(model: onnx.ModelProto) -> dict[str, tuple[int, int]]:
    """Type and size of the values whose types can be told without the weights."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    found = {}
    for value in (*graph.value_info, *graph.input, *graph.output):
        tensor = value.type.tensor_type
        found[value.name] = (tensor.elem_type, math.prod(max(1, d.dim_value) for d in tensor.shape.dim))
    return found


@dataclass(frozen=True)
class Segment:
    """The nodes of both graphs that compute the same values from the same values.

    Attributes:
        outputs: What they compute, by its name in both graphs.
        inputs: What they read: outputs of other segments, and inputs of the graphs.
        ours: Numbers of the nodes of the judged graph.
        theirs: Numbers of those of the trusted one.
    """

    outputs: tuple[str, ...]
    inputs: tuple[str, ...]
    ours: frozenset[int]
    theirs: frozenset[int]


def segments(ours: GraphView, theirs: GraphView, shared: Sequence[str]) -> list[Segment]:
    """Both graphs cut at the values that they share, in the order of the judged one.

    No node is in two segments, constants apart: where one is needed for several values, these belong to one segment.
    """
    stops = frozenset(shared)
    owners: dict[tuple[str, int], _Piece] = {}
    pieces: list[_Piece] = []
    for name in shared:
        piece = _Piece({name}, ours.behind([name], stops), theirs.behind([name], stops))
        keys = [("ours", i) for i in piece.ours[0] if ours.reads[i]]
        keys += [("theirs", i) for i in piece.theirs[0] if theirs.reads[i]]
        for other in {id(owners[key]): owners[key] for key in keys if key in owners}.values():
            pieces.remove(other)
            piece, keys = piece.joined(other), keys + other.keys
        piece.keys = keys
        pieces.append(piece)
        owners |= dict.fromkeys(keys, piece)
    made = [piece.segment() for piece in pieces]
    return sorted(made, key=lambda segment: min(ours.makers[name] for name in segment.outputs))


_Behind = tuple[frozenset[int], frozenset[str]]


@dataclass(eq=False)
class _Piece:
    """A segment that may still grow."""

    outputs: set[str]
    ours: _Behind
    theirs: _Behind
    keys: list[tuple[str, int]] = field(default_factory=list)

    def joined(self, other: _Piece) -> _Piece:
        ours = (self.ours[0] | other.ours[0], self.ours[1] | other.ours[1])
        theirs = (self.theirs[0] | other.theirs[0], self.theirs[1] | other.theirs[1])
        return _Piece(self.outputs | other.outputs, ours, theirs)

    def segment(self) -> Segment:
        inputs = tuple(sorted(self.ours[1] | self.theirs[1]))
        return Segment(tuple(sorted(self.outputs)), inputs, self.ours[0], self.theirs[0])
