"""A tower run block by block, so that calibration needs the memory of one block, however large the tower is.

A transformer's residual stream is the only value alive between two blocks; there the graph is cut.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import onnx_ir as ir
from numpy.typing import NDArray

from ...runtime.session import bare_session
from ..sites import read

Array = NDArray[Any]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Block:
    """Consecutive nodes with one value in and one value out."""

    nodes: tuple[ir.Node, ...]
    enters: ir.Value
    leaves: ir.Value

    @property
    def values(self) -> tuple[str, ...]:
        """Names of all that the nodes compute."""
        return tuple(str(value.name) for node in self.nodes for value in node.outputs)


def cut(graph: ir.Graph) -> list[Block]:
    """The graph as a chain of blocks, each as short as can be."""
    nodes = list(graph)
    place = {node: i for i, node in enumerate(nodes)}
    blocks: list[Block] = []
    start, enters = 0, graph.inputs[0]
    alive = {enters: _last_use(enters, place)}
    for i, node in enumerate(nodes):
        alive |= {value: _last_use(value, place) for value in node.outputs}
        alive = {value: last for value, last in alive.items() if last > i}
        if len(alive) == 1 or i == len(nodes) - 1:
            leaves = graph.outputs[-1] if i == len(nodes) - 1 else next(iter(alive))
            blocks.append(Block(tuple(nodes[start : i + 1]), enters, leaves))
            start, enters = i + 1, leaves
    return blocks


def _last_use(value: ir.Value, place: dict[ir.Node, int]) -> int:
    return max((place[use.node] for use in value.uses()), default=-1)


def stream(
    model: ir.Model, rows: Array, taps: Collection[str], reduce: Callable[[Array], _T], step: Callable[[float], None]
) -> Iterator[dict[str, list[_T]]]:
    """Run a tower over samples, one block after the other; yields what was tapped in each block.

    Args:
        model: A tower with one input, whose last output the chain of blocks ends in.
        rows: Its input, [samples, ...]; each sample is run alone.
        taps: Names of the values to look at; the tower's input may be one of them.
        reduce: What to keep of a value of one sample.
        step: Told the share that is done.
    """
    flow = [rows[i : i + 1] for i in range(len(rows))]
    first = str(model.graph.inputs[0].name)
    if first in taps:
        yield {first: [reduce(row) for row in flow]}
    blocks = cut(model.graph)
    for done, block in enumerate(blocks):
        seen = [name for name in block.values if name in taps]
        run = _session(model, block, seen)
        found: dict[str, list[_T]] = {name: [] for name in seen}
        for i, value in enumerate(flow):
            flow[i], *tapped = run(value)
            for name, array in zip(seen, tapped, strict=True):
                found[name].append(reduce(array))
        step((done + 1) / len(blocks))
        if seen:
            yield found


def _session(model: ir.Model, block: Block, taps: list[str]) -> Callable[[Array], list[Array]]:
    outputs = [str(block.leaves.name), *taps]
    graph = ir.convenience.extract(model.graph, [str(block.enters.name)], list(dict.fromkeys(outputs)))
    for name, value in graph.initializers.items():
        if value.const_value is not None:
            value.const_value = ir.Tensor(read(value.const_value), name=name)
    part = ir.Model(graph, ir_version=model.ir_version)
    session = bare_session(ir.to_proto(part).SerializeToString())
    return lambda value: list(session.run(outputs, {str(block.enters.name): value}))
