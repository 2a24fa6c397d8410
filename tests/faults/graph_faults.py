"""Faults in graphs, as an exporter with a defect would write them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from onnx import helper, numpy_helper
from safetensors.numpy import load_file, save_file

from siglip_onnx.exporter import export
from siglip_onnx.runtime import Artifact
from siglip_onnx.runtime.artifact.contract import Contract, Precision, Role, TensorSpec
from siglip_onnx.validate import CheckGroup, Report

from ..conftest import quiet, rewrite
from .edits import (
    Change,
    Graph,
    all_of,
    append_after,
    constant,
    edit_graph,
    graph_path,
    in_graph,
    in_joint,
    insert_before,
    producer,
    rewire,
    set_attribute,
)
from .fault import Fault, FaultArea, FaultFixture
from .validation import CHECKPOINT, validate_artifact

_POOLED: Final = "pooler_output"
_PAD: Final = 1
_NOISE: Final = 1e-6
_SMALLER: Final = 32
_ADDED: Final = re.compile(r"vision_model\.(embeddings|encoder\.layers\.\d+\.(self_attn\.out_proj|mlp\.fc2))\.")


def _erf_gelu(graph: Graph) -> None:
    for node in all_of(graph, "Gelu"):
        set_attribute(node, "approximate", "none")


def _larger_epsilon(graph: Graph) -> None:
    for node in all_of(graph, "LayerNormalization"):
        set_attribute(node, "epsilon", 1e-5)


def _on_a_small_stream(make: Change) -> Callable[[FaultFixture, Fault], Report]:
    """Validate an equivalent model whose residual stream is 32 times smaller.

    LayerNorm divides by the root of variance plus epsilon, so the effect of epsilon depends on the variance. The
    bundled model's variance is so large that 1e-5 moves embeddings by only 4e-6, as much as another machine might.
    """

    def run(fixture: FaultFixture, fault: Fault) -> Report:
        checkpoint, artifact = fixture.folder / "small", fixture.folder / "small-artifact"
        shutil.copytree(CHECKPOINT, checkpoint)
        _shrink(checkpoint / "model.safetensors")
        export(checkpoint, artifact, progress=quiet)
        make(artifact)
        return validate_artifact(artifact, fixture.data, options=fault.options, checkpoint=checkpoint)

    return run


def _shrink(path: Path) -> None:
    """Scale down everything that is added to the vision tower's residual stream; LayerNorms undo the scale."""
    weights = load_file(path)
    for name in weights:
        if _ADDED.match(name):
            weights[name] /= _SMALLER
    save_file(weights, path, {"format": "pt"})


def _queries_are_keys(graph: Graph) -> None:
    split = all_of(graph, "Split")[0]
    split.output[0], split.output[1] = split.output[1], split.output[0]


def _softmax_over(axis: int) -> Callable[[Graph], None]:
    def edit(graph: Graph) -> None:
        set_attribute(all_of(graph, "Softmax")[1], "axis", axis)

    return edit


def _first_token(graph: Graph) -> None:
    index = producer(graph, "select").input[1]
    tensor = next(t for t in graph.initializer if t.name == index)
    tensor.CopyFrom(numpy_helper.from_array(np.array(0, np.int64), index))


def _padding_masked(graph: Graph) -> None:
    """SigLIP attends to padding like to any other token; other models mask it."""
    axes = constant(graph, "mask.axes", np.array([1, 2], np.int64))
    pad, low, zero = constant(graph, "mask.pad", np.int64(_PAD)), "mask.low", "mask.zero"
    constant(graph, low, np.float32(-1e4))
    constant(graph, zero, np.float32(0))
    softmaxes = all_of(graph, "Softmax")
    insert_before(
        graph,
        graph.node[0],
        helper.make_node("Equal", ["input_ids", pad], ["mask.is_pad"]),
        helper.make_node("Where", ["mask.is_pad", low, zero], ["mask.rows"]),
        helper.make_node("Unsqueeze", ["mask.rows", axes], ["mask"]),
    )
    for number, softmax in enumerate(softmaxes):
        masked = f"mask.scores.{number}"
        insert_before(graph, softmax, helper.make_node("Add", [softmax.input[0], "mask"], [masked]))
        softmax.input[0] = masked


def _last_layer_dropped(graph: Graph) -> None:
    """The final LayerNorm reads the last layer's input."""
    norm = next(node for node in graph.node if node.input[1:2] == ["norm.weight"])
    last = [node for node in all_of(graph, "LayerNormalization") if node.input[1].endswith("norm1.weight")][-1]
    norm.input[0] = last.input[0]


def _residual_dropped(graph: Graph) -> None:
    """A layer's attention output replaces its input instead of being added to it."""
    norm = next(node for node in graph.node if node.input[1:2] == ["layers.1.norm2.weight"])
    added = producer(graph, norm.input[0])
    rewire(graph, added.output[0], added.input[1])


def _final_norm_dropped(graph: Graph) -> None:
    norm = next(node for node in graph.node if node.input[1:2] == ["norm.weight"])
    passed = helper.make_node("Identity", [norm.input[0]], list(norm.output))
    insert_before(graph, norm, passed)
    graph.node.remove(norm)


def _output_dropped(graph: Graph) -> None:
    kept = [output for output in graph.output if output.name == _POOLED]
    del graph.output[:]
    graph.output.extend(kept)


def _random(graph: Graph) -> None:
    append_after(
        graph,
        _POOLED,
        lambda inner, name: [
            helper.make_node("RandomNormalLike", [inner], ["noise"], scale=_NOISE),
            helper.make_node("Add", [inner, "noise"], [name]),
        ],
    )


def _leaking(graph: Graph) -> None:
    """A hundredth of the batch's mean leaks into each row; a single row is unchanged."""
    axes, share = (
        constant(graph, "leak.axes", np.array([0], np.int64)),
        constant(graph, "leak.share", np.float32(0.01)),
    )
    append_after(
        graph,
        _POOLED,
        lambda inner, name: [
            helper.make_node("ReduceMean", [inner, axes], ["leak.mean"], keepdims=1),
            helper.make_node("Sub", ["leak.mean", inner], ["leak.gap"]),
            helper.make_node("Mul", ["leak.gap", share], ["leak.part"]),
            helper.make_node("Add", [inner, "leak.part"], [name]),
        ],
    )


def _reversed(graph: Graph) -> None:
    """The rows of a batch come out reversed; a single row is unchanged."""
    slices = {"starts": [-1], "ends": [np.iinfo(np.int64).min], "axes": [0], "steps": [-1]}
    names = [constant(graph, f"turn.{name}", np.array(value, np.int64)) for name, value in slices.items()]
    append_after(graph, _POOLED, lambda inner, name: [helper.make_node("Slice", [inner, *names], [name])])


def _fix_the_batch(folder: Path) -> None:
    """A tower that was traced for one image, with a matching contract."""

    def specs(tensors: tuple[TensorSpec, ...]) -> tuple[TensorSpec, ...]:
        return tuple(replace(t, shape=tuple(1 if d == "batch" else d for d in t.shape)) for t in tensors)

    def change(contract: Contract) -> Contract:
        variant = contract.variant(Precision.FP32)
        assert variant is not None
        graph = variant.graphs[Role.VISION]
        fixed = replace(graph, inputs=specs(graph.inputs), outputs=specs(graph.outputs))
        return contract.with_variant(replace(variant, graphs={**variant.graphs, Role.VISION: fixed}))

    edit_graph(graph_path(folder, Role.VISION), _for_one)
    rewrite(folder, change)


def _for_one(graph: Graph) -> None:
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    for tensor in graph.initializer:
        if not tensor.external_data:
            shape = numpy_helper.to_array(tensor).copy()
            shape[shape == -1] = 1
            tensor.CopyFrom(numpy_helper.from_array(shape, tensor.name))


def _joint_bias_dropped(graph: Graph) -> None:
    bias = next(t for t in graph.initializer if t.name == "logit_bias")
    bias.CopyFrom(numpy_helper.from_array(np.array(0.0, np.float32), "logit_bias"))


def _joint_swapped(graph: Graph) -> None:
    """The two logit outputs swap their names."""
    for node in graph.node:
        node.output[:] = [_SWAPPED.get(name, name) for name in node.output]
        node.input[:] = [_SWAPPED.get(name, name) for name in node.input]


_SWAPPED: Final = {"logits_per_image": "logits_per_text", "logits_per_text": "logits_per_image"}


def _declared_as_fp32(precision: Precision) -> Callable[[Path], None]:
    """The fp32 variant lists the graphs of another variant."""

    def change(contract: Contract) -> Contract:
        other, own = contract.variant(precision), contract.variant(Precision.FP32)
        assert other is not None
        assert own is not None
        return contract.with_variant(replace(own, graphs=other.graphs))

    return lambda folder: rewrite(folder, change)


def _graph_missing(folder: Path) -> None:
    """A contract that lists a variant whose graph is missing."""
    Artifact.open(folder).path("onnx/model_int8.onnx").unlink()


def _fault(
    name: str,
    edit: Callable[[Graph], None],
    role: Role,
    caught_by: CheckGroup = CheckGroup.EMBEDDINGS,
    area: FaultArea = FaultArea.GRAPH,
) -> Fault:
    return Fault(name, area, caught_by, in_graph(role, edit), tower=role)


FAULTS: Final = (
    _fault("erf Gelu", _erf_gelu, Role.VISION),
    Fault(
        "LayerNorm epsilon of 1e-5",
        FaultArea.GRAPH,
        CheckGroup.EMBEDDINGS,
        run=_on_a_small_stream(in_graph(Role.VISION, _larger_epsilon)),
    ),
    _fault("q and k swapped", _queries_are_keys, Role.TEXT),
    _fault("softmax over the queries", _softmax_over(2), Role.VISION),
    _fault("softmax over the heads", _softmax_over(1), Role.TEXT),
    _fault("text pooled at the first token", _first_token, Role.TEXT),
    _fault("padding masked", _padding_masked, Role.TEXT),
    _fault("last layer dropped", _last_layer_dropped, Role.VISION),
    _fault("one residual dropped", _residual_dropped, Role.TEXT),
    _fault("final LayerNorm dropped", _final_norm_dropped, Role.VISION),
    _fault("random noise of 1e-6", _random, Role.VISION, CheckGroup.DETERMINISM),
    Fault("an output dropped", FaultArea.GRAPH, CheckGroup.CONTRACT, in_graph(Role.VISION, _output_dropped)),
    Fault("joint graph without its bias", FaultArea.GRAPH, CheckGroup.LOGITS, in_joint(_joint_bias_dropped)),
    Fault("joint graph's logits transposed", FaultArea.GRAPH, CheckGroup.LOGITS, in_joint(_joint_swapped)),
    _fault("rows of a batch leak into each other", _leaking, Role.VISION, CheckGroup.BATCH, FaultArea.BATCH),
    _fault("rows of a batch reversed", _reversed, Role.TEXT, CheckGroup.BATCH, FaultArea.BATCH),
    Fault("batch fixed to 1", FaultArea.BATCH, CheckGroup.CONTRACT, _fix_the_batch),
    # int8 takes activation ranges over the whole batch, so its rows depend on the batch by more than fp32 allows.
    Fault("int8 graphs declared as fp32", FaultArea.QUANTIZATION, CheckGroup.BATCH, _declared_as_fp32(Precision.INT8)),
    Fault(
        "fp16 graphs declared as fp32", FaultArea.QUANTIZATION, CheckGroup.EMBEDDINGS, _declared_as_fp32(Precision.FP16)
    ),
    Fault(
        "graph of a variant missing",
        FaultArea.QUANTIZATION,
        CheckGroup.CONTRACT,
        _graph_missing,
        precision=Precision.INT8,
    ),
)
