"""Puts faults into the files of an artifact; each edit updates the hashes, as a faulty tool would."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from siglip_onnx.exporter.graph.joint import write_joint
from siglip_onnx.runtime import Artifact
from siglip_onnx.runtime.arrays import AnyArray
from siglip_onnx.runtime.artifact.contract import Contract, Precision, Role

from ..conftest import rewrite

Change = Callable[[Path], None]
Graph = onnx.GraphProto


def in_contract(section: str, **changes: Any) -> Change:
    """Change fields of a section of the contract, which the runtime obeys."""

    def change(contract: Contract) -> Contract:
        return replace(contract, **{section: replace(getattr(contract, section), **changes)})

    return lambda folder: rewrite(folder, change)


def in_file(name: str, **changes: object) -> Change:
    """Change values of a JSON file that other programs read instead of the contract."""

    def make(folder: Path) -> None:
        content = json.loads((folder / name).read_text("utf-8"))
        (folder / name).write_text(json.dumps({**content, **changes}), "utf-8")
        rewrite(folder)

    return make


def graph_path(folder: Path, role: Role, precision: Precision = Precision.FP32) -> Path:
    """Path of the graph of a role."""
    return folder / Artifact.open(folder).graph(role, precision).path


def in_graph(role: Role, edit: Callable[[Graph], None]) -> Change:
    """Change a tower's graph, in its own file and in the joint graph."""

    def make(folder: Path) -> None:
        edit_graph(graph_path(folder, role), edit)
        paths = {each: graph_path(folder, each) for each in Role}
        contract = Artifact.open(folder).contract
        write_joint(paths[Role.JOINT], contract.logits, paths[Role.VISION], paths[Role.TEXT])
        rewrite(folder)

    return make


def in_joint(edit: Callable[[Graph], None]) -> Change:
    """Change the joint graph and leave the towers' graphs."""

    def make(folder: Path) -> None:
        edit_graph(graph_path(folder, Role.JOINT), edit)
        rewrite(folder)

    return make


def edit_graph(path: Path, edit: Callable[[Graph], None]) -> None:
    """Change an ONNX file without its data file; recorded shapes are removed."""
    model = onnx.load(path, load_external_data=False)
    edit(model.graph)
    del model.graph.value_info[:]
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}.{number}"
    path.write_bytes(model.SerializeToString())


@contextlib.contextmanager
def stored(folder: Path, role: Role, precision: Precision = Precision.FP32) -> Iterator[dict[str, AnyArray]]:
    """The weights of a tower by name, mapped from its data file; changes are written to the file."""
    path = graph_path(folder, role, precision)
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    files: dict[str, AnyArray] = {}
    weights = {}
    for tensor in (t for t in tensors if t.external_data):
        external = {entry.key: entry.value for entry in tensor.external_data}
        name = external["location"]
        content = files.setdefault(name, np.memmap(path.parent / name, np.uint8, "r+"))
        start, size = int(external["offset"]), int(external["length"])
        weights[tensor.name] = (
            content[start : start + size].view(helper.tensor_dtype_to_np_dtype(tensor.data_type)).reshape(tensor.dims)
        )
    yield weights
    for content in files.values():
        content.flush()  # type: ignore[attr-defined]
    rewrite(folder)


def in_weights(
    role: Role, edit: Callable[[dict[str, AnyArray]], None], precision: Precision = Precision.FP32
) -> Change:
    """Change the weights of a tower and leave its graph."""

    def make(folder: Path) -> None:
        with stored(folder, role, precision) as weights:
            edit(weights)

    return make


def producer(graph: Graph, name: str) -> onnx.NodeProto:
    """The node that computes a value."""
    node: onnx.NodeProto = next(node for node in graph.node if name in node.output)
    return node


def all_of(graph: Graph, operator: str) -> list[onnx.NodeProto]:
    """All nodes of an operator."""
    return [node for node in graph.node if node.op_type == operator]


def readers(graph: Graph, name: str) -> list[onnx.NodeProto]:
    """The nodes that read a value."""
    return [node for node in graph.node if name in node.input]


def rewire(graph: Graph, old: str, new: str) -> None:
    """Make every reader of one value read another."""
    for node in readers(graph, old):
        node.input[:] = [new if name == old else name for name in node.input]


def append_after(graph: Graph, name: str, nodes: Callable[[str, str], list[onnx.NodeProto]]) -> None:
    """Insert nodes after the producer of an output; `nodes` receives the name to read and the name to write."""
    inner = f"{name}.before"
    node = producer(graph, name)
    node.output[:] = [inner if output == name else output for output in node.output]
    rewire(graph, name, inner)
    graph.node.extend(nodes(inner, name))


def insert_before(graph: Graph, node: onnx.NodeProto, *nodes: onnx.NodeProto) -> None:
    """Insert nodes before another; ONNX requires topological order."""
    index = list(graph.node).index(node)
    for number, new in enumerate(nodes):
        graph.node.insert(index + number, new)


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    """Set an attribute of a node."""
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def constant(graph: Graph, name: str, value: Any) -> str:
    """Add a constant and return its name."""
    graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name
