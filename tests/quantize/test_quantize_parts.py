"""Parts of quantization, each compared with an implementation that does not share its code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from siglip_onnx.quantize import Fp16, Int8, Int8Static, QuantizeRequest, QuantizeResult, quantize, tower_builder
from siglip_onnx.quantize.calibration.blockwise import split_blocks, stream
from siglip_onnx.quantize.recipes import int8_nodes, matmul_nbits, ranges
from siglip_onnx.quantize.recipes.base import CalibrationTower
from siglip_onnx.quantize.recipes.cuda_fusion import fuse
from siglip_onnx.quantize.sites import remove_unused, sites, weight_array
from siglip_onnx.runtime.artifact.contract import Precision, Provider, Role
from siglip_onnx.runtime.errors import QuantizationError
from siglip_onnx.runtime.session import bare_session
from siglip_onnx.validate.stats import metrics

from ..conftest import files, quiet

# Parts


def test_blocks_compute_the_same_as_the_whole_tower(passed: Path) -> None:
    path, rng = passed / "onnx/vision_model.onnx", np.random.default_rng(0)
    rows = rng.uniform(-1, 1, (2, 3, 64, 64)).astype(np.float32)
    model = ir.load(path)
    blocks = split_blocks(model.graph)
    assert sum(len(block.nodes) for block in blocks) == len(list(model.graph))
    assert len(blocks) > 12  # two for each layer
    parts = list(stream(model, rows, {"pooler_output"}, lambda array: array, lambda share: None))
    whole = bare_session(str(path)).run(["pooler_output"], {"pixel_values": rows})[0]
    np.testing.assert_allclose(np.concatenate(parts[-1]["pooler_output"]), whole, rtol=1e-4, atol=1e-4)


def test_fused_graphs_compute_the_same(passed: Path, tmp_path: Path) -> None:
    """com.microsoft's operators have CPU kernels in float32, which is how the rewrite is checked without a GPU."""
    rng = np.random.default_rng(0)
    feeds = {
        "vision": {"pixel_values": rng.uniform(-1, 1, (3, 3, 64, 64)).astype(np.float32)},
        "text": {"input_ids": rng.integers(0, 2000, (3, 64))},
    }
    for (role, feed), layers in zip(feeds.items(), (6, 3), strict=True):
        path = passed / f"onnx/{role}_model.onnx"
        model = ir.load(path)
        head = int(role == "vision")  # the MAP head's MLP, behind a LayerNormalization without a residual
        assert fuse(model.graph) == {
            "Attention": layers,
            "FastGelu": layers + head,
            "SkipLayerNormalization": 2 * layers,
        }
        ir.save(model, tmp_path / "fused.onnx", external_data="fused.onnx_data")
        ours = bare_session(str(tmp_path / "fused.onnx")).run(None, feed)
        theirs = bare_session(str(path)).run(None, feed)
        for actual, expected in zip(ours, theirs, strict=True):
            assert metrics.relative_error(actual, expected) < 1e-5


def test_the_fused_graph_shares_the_data_of_the_portable_one(every: dict[Precision, QuantizeResult]) -> None:
    result = every[Precision.FP16]
    variant = result.artifact.contract.variant(Precision.FP16, Provider.CUDA)
    assert variant is not None
    assert variant.target_provider is Provider.CUDA
    assert variant.graphs[Role.VISION].data == ("onnx/vision_model_fp16.onnx_data",)
    assert variant.parity == ()
    assert result.record.fused[Role.VISION]["Attention"] == 6
    assert result.artifact.contract.variant(Precision.FP16) != variant


def test_fused_graphs_are_valid_and_hold_no_weights(every: dict[Precision, QuantizeResult]) -> None:
    folder = every[Precision.FP16].artifact.folder / "onnx"
    for name in ("vision_model", "text_model", "model"):
        path = folder / f"{name}_fp16.cuda.onnx"
        graph = onnx.load(path, load_external_data=False).graph
        outputs = [value for node in graph.node for value in node.output if value]
        assert len(outputs) == len(set(outputs))
        assert {"Attention", "FastGelu", "SkipLayerNormalization"} <= {node.op_type for node in graph.node}
        assert path.stat().st_size < 200_000  # the weights are in the portable graph's data


def test_exclusions_apply_to_the_fused_graph_too(emoji: Path, pairs: Path) -> None:
    quantize(
        emoji,
        Fp16(exclude=("layers.0.qkv", "layers.1.mlp.fc1")),
        QuantizeRequest(data=pairs, cuda=True),
        progress=quiet,
    )
    graph = onnx.load(emoji / "onnx/vision_model_fp16.cuda.onnx", load_external_data=False).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    assert kinds["layers.0.qkv.weight.fp32"] == kinds["layers.1.mlp.fc1.weight.fp32"] == onnx.TensorProto.FLOAT
    assert kinds["layers.1.qkv.weight"] == onnx.TensorProto.FLOAT16
    assert [node.op_type for node in graph.node].count("Attention") == 5
    assert (emoji / "onnx/vision_model_fp16.cuda.onnx").stat().st_size < 200_000


def test_a_wrong_fusion_is_refused(emoji: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong_fuse(graph: ir.Graph, keep_fp32: object = None) -> dict[str, int]:
        counts = fuse(graph)
        attention = next(node for node in graph if node.op_type == "Attention")
        attention.attributes["scale"] = ir.AttrFloat32("scale", 0.5)
        return counts

    monkeypatch.setattr(tower_builder, "fuse", wrong_fuse)
    before = files(emoji)
    with pytest.raises(QuantizationError, match="differs from the plain one"):
        quantize(emoji, Fp16(), QuantizeRequest(data=pairs, cuda=True), progress=quiet)
    assert files(emoji) == before


matrices = arrays(np.float32, st.tuples(st.integers(1, 70), st.integers(1, 9)), elements=st.floats(-100, 100, width=32))


@given(matrices)
@settings(max_examples=60, deadline=None)
def test_eight_bit_columns_differ_by_half_a_step_at_most(matrix: np.ndarray) -> None:  # type: ignore[type-arg]
    integers, scale = int8_nodes.quantize_columns(matrix)
    assert np.abs(integers).max() <= 127
    assert (np.abs(integers * scale - matrix) <= scale * 0.501).all()


@pytest.mark.parametrize("recipe_class", [Int8, Int8Static])
@pytest.mark.parametrize(("options", "limit"), [({}, 63), ({"weight_bits": 7}, 63), ({"weight_bits": 8}, 127)])
def test_weights_of_seven_bits_are_the_default(
    artifact: Path, recipe_class: type[Int8 | Int8Static], options: dict[str, Any], limit: int
) -> None:
    rows = np.random.default_rng(0).integers(0, 2000, (2, 64))
    tower = CalibrationTower(artifact / "onnx/text_model.onnx", rows)
    graph = recipe_class(smoothing=False, **options).prepare(tower).derive(frozenset()).graph
    weights = {name: weight_array(value) for name, value in graph.initializers.items() if name.endswith("weight.int8")}
    assert len(weights) > 12
    assert {int(np.abs(array.astype(int)).max()) for array in weights.values()} == {limit}


@given(matrices, st.sampled_from([4, 8]))
@settings(max_examples=60, deadline=None)
def test_matmulnbits_reads_our_packing(matrix: np.ndarray, bits: int) -> None:  # type: ignore[type-arg]
    """ONNX Runtime unpacks, by multiplying with one-hot rows, what we packed."""
    packed = matmul_nbits.round_nearest(matrix, bits)
    scales, zeros = (
        np.repeat(part.astype(np.float32), matmul_nbits.BLOCK, 0) for part in (packed.scales, packed.zeros)
    )
    expected = ((packed.integers - zeros) * scales)[: len(matrix)]
    assert np.abs(expected - matrix).max() <= scales.max() * 0.51 + 1e-6
    np.testing.assert_allclose(
        _unpacked(matrix, packed, bits), expected, atol=2e-2 * max(1.0, float(np.abs(matrix).max()))
    )


def _unpacked(matrix: np.ndarray, packed: matmul_nbits.Packed, bits: int) -> np.ndarray:  # type: ignore[type-arg]
    rows, columns = matrix.shape
    x = ir.Value(name="x", shape=ir.Shape(["n", rows]), type=ir.TensorType(ir.DataType.FLOAT))
    w = ir.Value(name="a.weight", shape=ir.Shape(matrix.shape), type=x.type, const_value=ir.Tensor(matrix))
    node = ir.node("MatMul", [x, w])
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = "y", x.type, ir.Shape(["n", columns])
    graph = ir.Graph([x], node.outputs, nodes=[node], initializers=[w], opset_imports={"": 20})
    site = sites(graph)["a"]
    matmul_nbits.write_matmul_nbits(graph, site, packed, bits)
    model = remove_unused(ir.Model(graph, ir_version=10))
    session = bare_session(ir.to_proto(model).SerializeToString())
    return np.asarray(session.run(None, {"x": np.eye(rows, dtype=np.float32)})[0])


def test_gptq_has_a_smaller_error_than_rounding_to_the_nearest() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 96)).astype(np.float32) @ rng.normal(size=(96, 96)).astype(np.float32)
    w = rng.normal(size=(96, 40)).astype(np.float32)

    def loss(packed: matmul_nbits.Packed) -> float:
        scales, zeros = (np.repeat(p.astype(np.float32), 32, 0) for p in (packed.scales, packed.zeros))
        return float(np.square(x @ ((packed.integers - zeros) * scales - w)).mean())

    assert loss(matmul_nbits.round_gptq(w, 4, x.T @ x)) < 0.6 * loss(matmul_nbits.round_nearest(w, 4))


def test_ranges_of_activations() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=200_000).astype(np.float32)
    x[0] = 50  # one outlier
    assert ranges.min_max(x).high == 50
    assert 3 < ranges.percentile(x).high < 10
    assert 2 < ranges.entropy(x).high < 20
    span = ranges.Range(-1.0, 3.0)
    assert (float(span.zero), round(float(span.scale) * 255, 3)) == (64, 4.0)
    assert ranges.Range(0.5, 3.0).zero == 0  # QuantizeLinear needs a range that covers 0
