"""The joint graph: both towers, normalization and logits in one file that reads the towers' own data files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...runtime.artifact.contract import LogitSpec
from .builder import constant
from .naming import BATCH, POOLED

Dimensions = Sequence[int | str | None]

_IMAGES, _TEXTS = "image_batch", "text_batch"


def write_joint(target: Path, logits: LogitSpec, vision: Path, text: Path) -> ir.Model:
    """Write the joint graph of two towers, whose data files must come to lie beside it."""
    model = join(vision, text, logits.scale, logits.bias)
    ir.save(model, target)
    return model


def join(vision: Path, text: Path, logit_scale: float, logit_bias: float) -> ir.Model:
    """input_ids, pixel_values -> logits_per_image, logits_per_text, text_embeds, image_embeds.

    Output names and order: transformers, `SiglipOutput`. Weights are referred to, not copied.

    Args:
        vision: The vision tower's ONNX file, beside which the joint graph will be written.
        text: The text tower's.
        logit_scale: Factor on the cosine, already exponentiated.
        logit_bias: Added to it.
    """
    towers = {"vision": _named(ir.load(vision), "vision", _IMAGES), "text": _named(ir.load(text), "text", _TEXTS)}
    pooled = {
        name: next(value for value in tower.graph.outputs if value.name == f"{name}.{POOLED}")
        for name, tower in towers.items()
    }
    constants: dict[str, NDArray[Any]] = {
        "logit_scale": np.array(logit_scale, np.float32),
        "logit_bias": np.array(logit_bias, np.float32),
        "last_axis": np.array([-1], np.int64),
    }
    initializers = [constant(name, value) for name, value in constants.items()]
    tail, outputs = _logits(pooled["vision"], pooled["text"], dict(zip(constants, initializers, strict=True)))
    nodes: list[ir.Node] = []
    inputs: list[ir.Value] = []
    for tower in (towers["text"], towers["vision"]):
        graph = tower.graph
        inputs.extend(graph.inputs)
        initializers.extend(graph.initializers.values())
        body = list(graph)
        graph.outputs.clear()
        graph.inputs.clear()
        graph.initializers.clear()
        graph.remove(body)
        nodes.extend(body)
    opsets = {**towers["vision"].graph.opset_imports, **towers["text"].graph.opset_imports}
    graph = ir.Graph(
        inputs, outputs, nodes=[*nodes, *tail], initializers=initializers, opset_imports=opsets, name="siglip"
    )
    return ir.Model(graph, ir_version=towers["vision"].ir_version, producer_name="siglip-onnx")


def _named(tower: ir.Model, prefix: str, batch: str) -> ir.Model:
    """Put a prefix before every inner name, so that two towers can live in one graph."""
    graph = tower.graph
    for value in list(graph.initializers.values()):
        value.name = f"{prefix}.{value.name}"
    for node in graph:
        node.name = f"{prefix}.{node.name}"
        for value in node.outputs:
            if value.name:  # an output without a name is one that is left out
                value.name = f"{prefix}.{value.name}"
    for value in (*graph.inputs, *(value for node in graph for value in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape([batch if d == BATCH else d for d in _dimensions(value.shape)])
    return tower


def _dimensions(shape: ir.Shape) -> list[int | str | None]:
    return [d if isinstance(d, int) else d.value for d in shape]


def _logits(vision: ir.Value, text: ir.Value, constants: dict[str, ir.Value]) -> tuple[list[ir.Node], list[ir.Value]]:
    """Normalize both embeddings, then scale * cosine + bias, for images by texts and the transpose."""
    nodes: list[ir.Node] = []

    def op(kind: str, name: str, *inputs: ir.Value, shape: Dimensions, **attributes: int | list[int]) -> ir.Value:
        output = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
        nodes.append(ir.node(kind, inputs, attributes, outputs=[output], name=name))
        return output

    assert vision.shape is not None and text.shape is not None  # noqa: S101, PT018  the towers' outputs are shaped
    (m, width), (n, _) = _dimensions(vision.shape), _dimensions(text.shape)  # free, or the batch of a fixed graph

    def unit(embedding: ir.Value, name: str, batch: int | str | None) -> ir.Value:
        length = op("ReduceL2", f"{name}_length", embedding, constants["last_axis"], shape=(batch, 1), keepdims=1)
        return op("Div", name, embedding, length, shape=(batch, width))

    images, texts = unit(vision, "image_embeds", m), unit(text, "text_embeds", n)
    turned = op("Transpose", "image_embeds_turned", images, shape=(width, m), perm=[1, 0])
    cosines = op("MatMul", "cosines", texts, turned, shape=(n, m))
    scaled = op("Mul", "scaled", cosines, constants["logit_scale"], shape=(n, m))
    per_text = op("Add", "logits_per_text", scaled, constants["logit_bias"], shape=(n, m))
    per_image = op("Transpose", "logits_per_image", per_text, shape=(m, n), perm=[1, 0])
    return nodes, [per_image, per_text, texts, images]
