"""How faults are put into the files of an artifact: each edit hashes them anew, as a faulty tool would have."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from siglip_onnx.exporter.graph.joint import write_joint
from siglip_onnx.runtime import Artifact
from siglip_onnx.runtime.artifact.contract import Contract, Precision, Role

from ..conftest import rewrite

Change = Callable[[Path], None]
Array = NDArray[Any]
Graph = onnx.GraphProto


def in_contract(section: str, **changes: Any) -> Change:
    """A contract that says something else; the runtime obeys it."""

    def change(contract: Contract) -> Contract:
        return replace(contract, **{section: replace(getattr(contract, section), **changes)})

    return lambda folder: rewrite(folder, change)


def in_file(name: str, **changes: object) -> Change:
    """A JSON file that other programs read in the contract's place, with other values."""

    def make(folder: Path) -> None:
        content = json.loads((folder / name).read_text("utf-8"))
        (folder / name).write_text(json.dumps({**content, **changes}), "utf-8")
        rewrite(folder)

    return make


def graph_path(folder: Path, role: Role, precision: Precision = Precision.FP32) -> Path:
    """Where the graph of a role lies."""
    return folder / Artifact.open(folder).graph(role, precision).path


def in_graph(role: Role, edit: Callable[[Graph], None]) -> Change:
    """A tower that computes something else, in its own graph and in the joint one."""

    def make(folder: Path) -> None:
        edit_graph(graph_path(folder, role), edit)
        paths = {each: graph_path(folder, each) for each in Role}
        contract = Artifact.open(folder).contract
        write_joint(paths[Role.JOINT], contract.logits, paths[Role.VISION], paths[Role.TEXT])
        rewrite(folder)

    return make


def in_joint(edit: Callable[[Graph], None]) -> Change:
    """A joint graph that computes something else than the towers."""

    def make(folder: Path) -> None:
        edit_graph(graph_path(folder, Role.JOINT), edit)
        rewrite(folder)

    return make


def edit_graph(path: Path, edit: Callable[[Graph], None]) -> None:
    """Change an ONNX file and nothing of its data file; shapes that were known are forgotten."""
    model = onnx.load(path, load_external_data=False)
    edit(model.graph)
    del model.graph.value_info[:]
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}.{number}"
    path.write_bytes(model.SerializeToString())


@contextlib.contextmanager
def stored(folder: Path, role: Role, precision: Precision = Precision.FP32) -> Iterator[dict[str, Array]]:
    """The weights of a tower by name, in its data file itself; what is changed of them is there afterwards."""
    path = graph_path(folder, role, precision)
    tensors = onnx.load(path, load_external_data=False).graph.initializer
    files: dict[str, Array] = {}
    found = {}
    for tensor in (t for t in tensors if t.external_data):
        place = {entry.key: entry.value for entry in tensor.external_data}
        whole = files.setdefault(place["location"], np.memmap(path.parent / place["location"], np.uint8, "r+"))
        start, size = int(place["offset"]), int(place["length"])
        found[tensor.name] = (
            whole[start : start + size].view(helper.tensor_dtype_to_np_dtype(tensor.data_type)).reshape(tensor.dims)
        )
    yield found
    for whole in files.values():
        whole.flush()  # type: ignore[attr-defined]
    rewrite(folder)


def in_weights(role: Role, edit: Callable[[dict[str, Array]], None], precision: Precision = Precision.FP32) -> Change:
    """A tower whose graph is right and whose weights are not."""

    def make(folder: Path) -> None:
        with stored(folder, role, precision) as weights:
            edit(weights)

    return make


def feeding(graph: Graph, name: str) -> onnx.NodeProto:
    """The node that gives a value."""
    found: onnx.NodeProto = next(node for node in graph.node if name in node.output)
    return found


def all_of(graph: Graph, kind: str) -> list[onnx.NodeProto]:
    """The nodes of an operator."""
    return [node for node in graph.node if node.op_type == kind]


def using(graph: Graph, name: str) -> list[onnx.NodeProto]:
    """The nodes that read a value."""
    return [node for node in graph.node if name in node.input]


def rewire(graph: Graph, old: str, new: str) -> None:
    """Have every node that reads one value read another."""
    for node in using(graph, old):
        node.input[:] = [new if name == old else name for name in node.input]


def behind(graph: Graph, name: str, nodes: Callable[[str, str], list[onnx.NodeProto]]) -> None:
    """Put nodes between an output of the graph and the node that gives it; `nodes` is told both names."""
    inner = f"{name}.before"
    giving = feeding(graph, name)
    giving.output[:] = [inner if output == name else output for output in giving.output]
    rewire(graph, name, inner)
    graph.node.extend(nodes(inner, name))


def ahead_of(graph: Graph, node: onnx.NodeProto, *nodes: onnx.NodeProto) -> None:
    """Put nodes before another; ONNX wants each after those that it reads from."""
    place = list(graph.node).index(node)
    for number, new in enumerate(nodes):
        graph.node.insert(place + number, new)


def set_attribute(node: onnx.NodeProto, name: str, value: Any) -> None:
    """Give a node another value of an attribute."""
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def constant(graph: Graph, name: str, value: Any) -> str:
    """Add a constant; its name."""
    graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name
