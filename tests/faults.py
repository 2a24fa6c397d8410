"""Defects that an exporter, a runtime or a disk might have, each put into a copy of a good artifact."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from siglip_onnx.runtime import Siglip
from siglip_onnx.runtime.contract import Contract, Role, TensorSpec
from siglip_onnx.validate import Rung

from .conftest import rewrite

Change = Callable[[Path], None]


@dataclass(frozen=True)
class Fault:
    """A defect and the rung of the ladder that must find it first."""

    make: Change
    rung: Rung


def in_contract(section: str, **changes: Any) -> Change:
    """A contract that says something else; the runtime obeys it."""

    def change(contract: Contract) -> Contract:
        return replace(contract, **{section: replace(getattr(contract, section), **changes)})

    return lambda folder: rewrite(folder, change)


def in_graph(role: str, edit: Callable[[onnx.GraphProto], None]) -> Change:
    """A tower that computes something else, with the hashes that its exporter would have written."""

    def make(folder: Path) -> None:
        path = folder / f"onnx/{role}_model.onnx"
        model = onnx.load(path, load_external_data=False)
        edit(model.graph)
        path.write_bytes(model.SerializeToString())
        rewrite(folder)

    return make


def erf_gelu(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        if node.op_type == "Gelu":
            node.attribute[0].s = b"none"


def swap_queries_and_keys(graph: onnx.GraphProto) -> None:
    split = next(node for node in graph.node if node.op_type == "Split")
    split.output[0], split.output[1] = split.output[1], split.output[0]


def nan_in_one_row(folder: Path) -> None:
    """The embedding of a token that only one of the texts in use has becomes NaN."""
    model = onnx.load(folder / "onnx/text_model.onnx", load_external_data=False)
    table = next(t for t in model.graph.initializer if t.name == "tokens")
    place = {entry.key: entry.value for entry in table.external_data}
    token = Siglip.load(folder).tokenizer.pieces("हिन्दी")[-1]
    weights = np.memmap(folder / "onnx" / place["location"], np.float32, "r+", int(place["offset"]), tuple(table.dims))
    weights[token] = np.nan
    weights.flush()
    rewrite(folder)


def fix_the_batch(folder: Path) -> None:
    """A tower traced for one picture, with a contract that says so."""

    def one(dims: tuple[int | str, ...]) -> tuple[int | str, ...]:
        return tuple(1 if d == "batch" else d for d in dims)

    def specs(tensors: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(replace(t, shape=one(t.shape)) for t in tensors)

    def change(contract: Contract) -> Contract:
        variant = contract.variants[0]
        graph = variant.graphs[Role.VISION]
        fixed = replace(graph, inputs=specs(graph.inputs), outputs=specs(graph.outputs))
        return replace(contract, variants=(replace(variant, graphs={**variant.graphs, Role.VISION: fixed}),))

    def edit(graph: onnx.GraphProto) -> None:
        for value in (*graph.input, *graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 1
        for tensor in graph.initializer:
            if tensor.data_type == onnx.TensorProto.INT64:
                shape = numpy_helper.to_array(tensor).copy()
                shape[shape == -1] = 1
                tensor.CopyFrom(numpy_helper.from_array(shape, tensor.name))
        del graph.value_info[:]

    in_graph("vision", edit)(folder)
    rewrite(folder, change)


FAULTS = {
    "pad id 0": Fault(in_contract("tokenizer", pad_id=0), Rung.TOKENS),
    "no lower-casing": Fault(in_contract("tokenizer", lower_case=False), Rung.TOKENS),
    "mean and std of ImageNet": Fault(
        in_contract("image", mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)), Rung.PIXELS
    ),
    "bilinear resize": Fault(in_contract("image", filter="bilinear"), Rung.PIXELS),
    "red and blue swapped": Fault(in_contract("image", colour_order="BGR"), Rung.PIXELS),
    "erf Gelu": Fault(in_graph("vision", erf_gelu), Rung.EMBEDDINGS),
    "q and k swapped": Fault(in_graph("text", swap_queries_and_keys), Rung.EMBEDDINGS),
    "logit bias dropped": Fault(in_contract("logits", bias=0.0), Rung.LOGITS),
    "one NaN row": Fault(nan_in_one_row, Rung.EMBEDDINGS),
    "batch fixed to 1": Fault(fix_the_batch, Rung.CONTRACT),
}
