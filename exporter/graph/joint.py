"""The joint graph: both towers, normalization and logits in one file that shares the towers' data files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir

from ...runtime.artifact.contract import LogitSpec
from .builder import NodeBuilder, dimensions
from .load import load_graph
from .naming import BATCH, POOLED

_IMAGES, _TEXTS = "image_batch", "text_batch"


def write_joint(target: Path, logits: LogitSpec, vision: Path, text: Path) -> ir.Model:
    """Write the joint graph of two towers. Their data files must lie beside `target`."""
    model = join(vision, text, logits)
    ir.save(model, target)
    return model


def join(vision: Path, text: Path, logits: LogitSpec) -> ir.Model:
    """Join two towers: input_ids, pixel_values -> logits_per_image, logits_per_text, text_embeds, image_embeds.

    Output names and order: transformers, `SiglipOutput`. The joint graph refers to the towers' weights without copying
    them.

    Args:
        vision: The vision tower's ONNX file; the joint graph will be written beside it.
        text: The text tower's ONNX file.
        logits: Scale and bias of the logits.
    """
    image_tower = _with_prefix(load_graph(vision), "vision", _IMAGES)
    text_tower = _with_prefix(load_graph(text), "text", _TEXTS)
    opsets = {**image_tower.graph.opset_imports, **text_tower.graph.opset_imports}
    builder = NodeBuilder()
    outputs = _logits(builder, _pooled(image_tower.graph, "vision"), _pooled(text_tower.graph, "text"), logits)
    nodes: list[ir.Node] = []
    inputs: list[ir.Value] = []
    initializers = [*builder.initializers]
    for tower in (text_tower, image_tower):
        inputs.extend(tower.graph.inputs)
        initializers.extend(tower.graph.initializers.values())
        nodes.extend(_take_nodes(tower.graph))
    graph = ir.Graph(
        inputs,
        outputs,
        nodes=[*nodes, *builder.nodes],
        initializers=initializers,
        opset_imports=opsets,
        name="siglip",
    )
    return ir.Model(graph, ir_version=image_tower.ir_version, producer_name="siglip-onnx")


def _pooled(graph: ir.Graph, prefix: str) -> ir.Value:
    return next(value for value in graph.outputs if value.name == f"{prefix}.{POOLED}")


def _take_nodes(graph: ir.Graph) -> list[ir.Node]:
    """Remove everything from a graph, so that its nodes and values can go into another graph; returns the nodes."""
    nodes = list(graph)
    graph.outputs.clear()
    graph.inputs.clear()
    graph.initializers.clear()
    graph.remove(nodes)
    return nodes


def _with_prefix(tower: ir.Model, prefix: str, batch: str) -> ir.Model:
    """Add a prefix to every name but the inputs', and name the batch dimension, so that two towers fit in one graph."""
    graph = tower.graph
    for value in list(graph.initializers.values()):
        value.name = f"{prefix}.{value.name}"
    for node in graph:
        node.name = f"{prefix}.{node.name}"
        for value in node.outputs:
            if value.name:  # an omitted optional output has no name
                value.name = f"{prefix}.{value.name}"
    for value in (*graph.inputs, *(value for node in graph for value in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape([batch if d == BATCH else d for d in dimensions(value)])
    return tower


def _logits(builder: NodeBuilder, vision: ir.Value, text: ir.Value, logits: LogitSpec) -> list[ir.Value]:
    """Normalize both embeddings, then compute scale * cosine + bias for images by texts, and its transpose."""
    scale = builder.constant("logit_scale", np.array(logits.scale, np.float32))
    bias = builder.constant("logit_bias", np.array(logits.bias, np.float32))
    axis = builder.constant("last_axis", np.array([-1], np.int64))
    (m, width), (n, _) = dimensions(vision), dimensions(text)  # batches: dynamic, or the number of a fixed batch
    images = builder.unit_length(vision, "image_embeds", axis, length_shape=(m, 1))
    texts = builder.unit_length(text, "text_embeds", axis, length_shape=(n, 1))
    turned = builder.op("Transpose", "image_embeds_turned", images, shape=(width, m), perm=[1, 0])
    cosines = builder.op("MatMul", "cosines", texts, turned, shape=(n, m))
    scaled = builder.op("Mul", "scaled", cosines, scale, shape=(n, m))
    per_text = builder.op("Add", "logits_per_text", scaled, bias, shape=(n, m))
    per_image = builder.op("Transpose", "logits_per_image", per_text, shape=(m, n), perm=[1, 0])
    return [per_image, per_text, texts, images]
