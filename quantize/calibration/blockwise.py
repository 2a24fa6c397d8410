"""Block-by-block execution of a tower, so that calibration needs the memory of one block, however large the tower is.

Only a transformer's residual stream is alive between two blocks, so the graph is split there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TypeVar

import onnx_ir as ir

from ...runtime.arrays import AnyArray
from ...runtime.session import bare_session
from ..sites import read_array

_T = TypeVar("_T")


@dataclass(frozen=True)
class Block:
    """Consecutive nodes with one input value and one output value."""

    nodes: tuple[ir.Node, ...]
    input: ir.Value
    output: ir.Value

    @property
    def values(self) -> tuple[str, ...]:
        """Names of all values that the nodes compute."""
        return tuple(str(value.name) for node in self.nodes for value in node.outputs)


def split_blocks(graph: ir.Graph) -> list[Block]:
    """Split a graph into a chain of blocks, each as short as possible."""
    nodes = list(graph)
    position = {node: i for i, node in enumerate(nodes)}
    blocks: list[Block] = []
    start, block_input = 0, graph.inputs[0]
    last_uses = {block_input: _last_use(block_input, position)}
    for i, node in enumerate(nodes):
        last_uses |= {value: _last_use(value, position) for value in node.outputs}
        last_uses = {value: last for value, last in last_uses.items() if last > i}
        if len(last_uses) == 1 or i == len(nodes) - 1:
            output = graph.outputs[-1] if i == len(nodes) - 1 else next(iter(last_uses))
            blocks.append(Block(tuple(nodes[start : i + 1]), block_input, output))
            start, block_input = i + 1, output
    return blocks


def _last_use(value: ir.Value, position: dict[ir.Node, int]) -> int:
    return max((position[use.node] for use in value.uses()), default=-1)


def stream(
    model: ir.Model,
    rows: AnyArray,
    taps: Collection[str],
    reduce: Callable[[AnyArray], _T],
    report_share: Callable[[float], None],
) -> Iterator[dict[str, list[_T]]]:
    """Run a tower over samples, block after block, and yield the tapped values of each block.

    Args:
        model: A tower with one input; the chain of blocks ends in its last output.
        rows: Its input, [samples, ...]; each sample is run alone.
        taps: Names of the values to yield; the tower's input may be one of them.
        reduce: Applied to the value of each sample, [1, ...], before it is stored.
        report_share: Called with the share of blocks that are done, from 0 to 1.

    Yields:
        One list by tapped value, with an entry for each sample.
    """
    flow = [rows[i : i + 1] for i in range(len(rows))]
    input_name = str(model.graph.inputs[0].name)
    if input_name in taps:
        yield {input_name: [reduce(row) for row in flow]}
    blocks = split_blocks(model.graph)
    for done, block in enumerate(blocks, start=1):
        names = [name for name in block.values if name in taps]
        run = _block_runner(model, block, names)
        tapped: dict[str, list[_T]] = {name: [] for name in names}
        for i, value in enumerate(flow):
            flow[i], *arrays = run(value)
            for name, array in zip(names, arrays, strict=True):
                tapped[name].append(reduce(array))
        report_share(done / len(blocks))
        if names:
            yield tapped


def _block_runner(model: ir.Model, block: Block, taps: list[str]) -> Callable[[AnyArray], list[AnyArray]]:
    """Return a function from the block's input to its output, followed by the tapped values."""
    block_input, outputs = str(block.input.name), [str(block.output.name), *taps]
    graph = ir.convenience.extract(model.graph, [block_input], list(dict.fromkeys(outputs)))
    for name, value in graph.initializers.items():
        if value.const_value is not None:
            value.const_value = ir.Tensor(read_array(value.const_value), name=name)
    part = ir.Model(graph, ir_version=model.ir_version)
    session = bare_session(ir.to_proto(part).SerializeToString())
    return lambda value: list(session.run(outputs, {block_input: value}))
