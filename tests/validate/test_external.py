"""External models: exports of other tools are understood from their files, and ambiguous ones are refused."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

from siglip_onnx.exporter.checkpoint.checkpoint import Checkpoint
from siglip_onnx.exporter.layouts import Layout, write_layout
from siglip_onnx.runtime import Artifact, Siglip
from siglip_onnx.runtime.artifact.contract import Graph, IOBinding, Precision, Role, decode, encode
from siglip_onnx.runtime.errors import ArtifactError, InputError, SiglipOnnxError
from siglip_onnx.runtime.vectors import normalized
from siglip_onnx.validate.external.graphs import read_graph
from siglip_onnx.validate.external.open_external import (
    ExternalModel,
    external_precisions,
    open_external,
    read_tower_map,
)

from ..conftest import CHECKPOINT, files, is_one_paragraph, quiet

TEXTS = ["a bear", "A Pizza!", "grinning face", ""]
FLOAT, INT64, INT32, FLOAT16 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.INT32, TensorProto.FLOAT16


@pytest.fixture(scope="session")
def source() -> Checkpoint:
    return Checkpoint.open(CHECKPOINT)


@pytest.fixture(scope="session")
def inputs(model: Siglip) -> dict[Role, np.ndarray]:
    pixels = np.random.default_rng(7).uniform(-1, 1, (4, 3, 64, 64)).astype(np.float32)
    return {Role.VISION: pixels, Role.TEXT: model.tokenizer(TEXTS)}


@pytest.fixture(scope="session")
def towers(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both towers with other names and their weights inside, as another tool may have exported them."""
    folder = tmp_path_factory.mktemp("towers")
    tower(artifact, "vision", folder / "a.onnx", "x", "y")
    tower(artifact, "text", folder / "b.onnx", "t", "z")
    return folder


@pytest.fixture
def bare(towers: Path, tmp_path: Path) -> Path:
    """A copy for a test to change."""
    return Path(shutil.copytree(towers, tmp_path / "bare"))


def tower(
    artifact: Path,
    role: str,
    target: Path,
    given: str,
    embedding: str,
    change: Callable[[ir.Model], None] | None = None,
) -> None:
    """Write a tower with other names, and with a change if one is given."""
    model = ir.load(artifact / "onnx" / f"{role}_model.onnx")
    model.graph.inputs[0].name = given
    model.graph.outputs[1].name = embedding
    if change:
        change(model)
    ir.save(ir.external_data.load_to_model(model), target)


def same(external: ExternalModel, model: Siglip, inputs: dict[Role, np.ndarray], within: float = 1e-6) -> None:
    """Assert that both towers give the embeddings of the artifact that they come from."""
    with Siglip(external.artifact, external.precision) as candidate:
        for role, rows in inputs.items():
            actual, expected = candidate.encode(role, rows), model.encode(role, rows)
            assert actual.dtype == np.float32
            assert np.abs(normalized(actual) - normalized(expected)).max() < within
            if candidate.embedding(role).normalized:
                assert np.abs(np.linalg.norm(actual, axis=1) - 1).max() < 1e-3
        texts = candidate.encode_text(TEXTS)
        assert np.abs(texts - model.encode_text(TEXTS)).max() < within


# --- detected models ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [Layout.OPTIMUM, Layout.IMMICH])
def test_a_layout_gives_the_artifacts_embeddings_and_stays_unchanged(
    artifact: Path, tmp_path: Path, source: Checkpoint, model: Siglip, inputs: dict[Role, np.ndarray], layout: Layout
) -> None:
    folder = write_layout(artifact, tmp_path / "layout", layout, copy=True, progress=quiet)
    before = files(folder)
    external = open_external(folder, source)
    same(external, model, inputs)
    external.artifact.verify()
    assert (external.kind, external.precision) == (layout, Precision.FP32)
    assert external.has_tokenizer
    assert external.has_joint == external.has_preprocessor == (layout is Layout.OPTIMUM)
    assert external.artifact.path("tokenizer.json").read_bytes() == (artifact / "tokenizer.json").read_bytes()
    assert files(folder) == before


def test_a_joint_graph_alone_serves_as_both_towers(
    artifact: Path, tmp_path: Path, source: Checkpoint, model: Siglip, inputs: dict[Role, np.ndarray]
) -> None:
    folder = write_layout(artifact, tmp_path / "flat", Layout.OPTIMUM, copy=True, progress=quiet)
    (folder / "vision_model.onnx").unlink()
    (folder / "text_model.onnx").unlink()
    for path in (folder, folder / "model.onnx"):
        external = open_external(path, source)
        same(external, model, inputs)
        assert external.has_joint
        assert any("the other gets one blank row" in note for note in external.notes)


def test_a_transformers_js_folder_has_its_tokenizer_and_several_precisions(
    artifact: Path, tmp_path: Path, source: Checkpoint, model: Siglip, inputs: dict[Role, np.ndarray]
) -> None:
    folder = Path(shutil.copytree(artifact, tmp_path / "js"))
    for name in ("siglip.json", "spiece.model"):
        (folder / name).unlink()
    half(folder / "onnx" / "text_model.onnx", folder / "onnx" / "text_model_fp16.onnx")
    assert external_precisions(folder) == (Precision.FP32, Precision.FP16)
    external = open_external(folder, source, Precision.FP16)
    same(external, model, inputs, within=1e-3)
    assert external.kind == "transformers.js"
    assert external.artifact.graph(Role.TEXT, Precision.FP16).path == "onnx/text_model_fp16.onnx"
    assert any("vision_model.onnx is fp32; with the other tower it counts as fp16" in n for n in external.notes)
    assert external.artifact.path("spiece.model") == CHECKPOINT / "spiece.model"
    with pytest.raises(ArtifactError, match=r"text_model_fp16\.onnx \(text, fp16\).*--precision") as refusal:
        open_external(folder, source)
    assert is_one_paragraph(str(refusal.value))


def half(whole: Path, target: Path) -> None:
    """The same with float16 weights, each widened again where it is used."""
    model = onnx.load(whole)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == FLOAT:
            narrow = onnx.numpy_helper.from_array(
                onnx.numpy_helper.to_array(tensor).astype(np.float16), tensor.name + ".h"
            )
            casts.append(helper.make_node("Cast", [narrow.name], [tensor.name], to=FLOAT))
            tensor.CopyFrom(narrow)
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, target)


def test_inputs_and_outputs_are_found_by_shape(
    towers: Path, source: Checkpoint, model: Siglip, inputs: dict[Role, np.ndarray]
) -> None:
    external = open_external(towers, source)
    same(external, model, inputs)
    assert external.kind == "bare"
    assert [external.has_tokenizer, external.has_preprocessor, external.has_joint] == [False] * 3
    assert external.artifact.contract.tokenizer == source.tokenizer
    assert {"vision: a.onnx, from x (float32) to y, which is not scaled."} <= set(external.notes)


def test_float16_inputs_and_a_fixed_batch_are_supported(
    artifact: Path, bare: Path, source: Checkpoint, model: Siglip, inputs: dict[Role, np.ndarray]
) -> None:
    def narrow(graph: ir.Model) -> None:
        old = graph.graph.inputs[0]
        new = ir.Value(name="narrow", shape=ir.Shape([1, 3, 64, 64]), type=ir.TensorType(ir.DataType.FLOAT16))
        wide = ir.node("Cast", [new], {"to": FLOAT})
        old.replace_all_uses_with(wide.outputs[0])
        graph.graph.inputs[:] = [new]
        graph.graph.insert_before(graph.graph.node(0), wide)

    tower(artifact, "vision", bare / "a.onnx", "x", "y", narrow)
    external = open_external(bare, source)
    same(external, model, inputs, within=2e-3)
    assert external.artifact.graph(Role.VISION, Precision.FP32).batch == 1
    with Siglip(external.artifact) as candidate, pytest.raises(InputError, match="float64"):
        candidate.encode(Role.VISION, inputs[Role.VISION].astype(np.float64))


@pytest.mark.parametrize(
    ("operators", "precision"),
    [
        (["MatMul"], Precision.FP32),
        (["DynamicQuantizeLinear", "MatMulInteger", "DequantizeLinear"], Precision.INT8),
        (["QuantizeLinear", "DequantizeLinear", "MatMul"], Precision.INT8_STATIC),
        (["DequantizeLinear", "MatMul"], Precision.INT8_WEIGHTS),
        (["MatMulBnb4"], Precision.INT4),
        (["MatMulNBits"], Precision.INT4),
    ],
)
def test_the_precision_is_detected_from_the_graph(tmp_path: Path, operators: list[str], precision: Precision) -> None:
    values = [helper.make_tensor_value_info(name, FLOAT, ["n", 2]) for name in ("x", "y")]
    names = ["x", *(f"v{i}" for i in range(len(operators) - 1)), "y"]
    nodes = [helper.make_node(op, [names[i], "w"], [names[i + 1]]) for i, op in enumerate(operators)]
    weights = [helper.make_tensor("w", FLOAT, [2, 2], [1.0] * 4)]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], weights)), tmp_path / "g.onnx")
    assert read_graph(tmp_path, "g.onnx").precision == precision


# --- ambiguous models and tower maps --------------------------------------------------------------------------------


def test_the_error_for_two_files_has_a_tower_map_that_works(
    bare: Path, source: Checkpoint, model: Siglip, inputs: dict[Role, np.ndarray], tmp_path: Path
) -> None:
    shutil.copy(bare / "a.onnx", bare / "other.onnx")
    with pytest.raises(ArtifactError, match=r"a\.onnx and other\.onnx are the same graph at fp32") as refusal:
        open_external(bare, source)
    assert is_one_paragraph(str(refusal.value))
    (tmp_path / "m.toml").write_text("\n".join(re.findall(r"(?:vision|text) = {[^}]*}", refusal.value.next_step)))
    same(open_external(bare, source, Precision.FP32, read_tower_map(tmp_path / "m.toml")), model, inputs)


def test_the_error_for_two_outputs_has_a_tower_map_that_works(
    artifact: Path, bare: Path, source: Checkpoint, model: Siglip, inputs: dict[Role, np.ndarray], tmp_path: Path
) -> None:
    def double(graph: ir.Model) -> None:
        pooled = graph.graph.outputs[1]
        twice = ir.node("Add", [pooled, pooled], outputs=[ir.Value(name="yy", shape=pooled.shape, type=pooled.type)])
        graph.graph.append(twice)
        graph.graph.outputs.append(twice.outputs[0])

    tower(artifact, "vision", bare / "a.onnx", "x", "y", double)
    with pytest.raises(ArtifactError, match="fit the vision tower: y float32") as refusal:
        open_external(bare, source)
    assert is_one_paragraph(str(refusal.value))
    (tmp_path / "m.toml").write_text("\n".join(re.findall(r"(?:vision|text) = {[^}]*}", refusal.value.next_step)))
    same(open_external(bare, source, None, read_tower_map(tmp_path / "m.toml")), model, inputs)


def test_a_tower_map_sets_precision_and_normalization(bare: Path, source: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text('precision = "int8"\n[vision]\nfile = "a.onnx"\nnormalized = true\n[text]\nfile = "b.onnx"\n')
    tower_map = read_tower_map(path)
    assert external_precisions(bare, tower_map) == (Precision.INT8,)
    external = open_external(bare, source, Precision.INT8, tower_map)
    model = Siglip(external.artifact, Precision.INT8)
    assert model.embedding(Role.VISION).normalized
    assert not model.embedding(Role.TEXT).normalized
    with pytest.raises(InputError, match="Add --precision int8"):
        open_external(bare, source, Precision.FP32, tower_map)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('vision = { file = "a.onnx" }', "missing required field `text`"),
        ('vision = { file = "a.onnx", inputt = "x" }\ntext = { file = "b.onnx" }', "unknown field `inputt`"),
        ('precision = "int2"\nvision = { file = "a.onnx" }\ntext = { file = "b.onnx" }', "int2"),
        ("vision = ", "Invalid value"),
    ],
)
def test_a_bad_tower_map_is_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "m.toml").write_text(text)
    with pytest.raises(InputError, match=match) as refusal:
        read_tower_map(tmp_path / "m.toml")
    assert is_one_paragraph(str(refusal.value))


@pytest.mark.parametrize(
    ("vision", "match"),
    [
        ('file = "a.onnx", input = "nothing"', "has no input 'nothing' that fits the vision tower"),
        ('file = "a.onnx", embedding = "last_hidden_state"', "has no output 'last_hidden_state'"),
        ('file = "c.onnx"', "cannot be read"),
        ('file = "../a.onnx"', "is not inside"),
        ('file = "b.onnx"', "None of the inputs of .* fits the vision tower"),
    ],
)
def test_a_tower_map_that_does_not_fit_the_files_is_refused(
    bare: Path, source: Checkpoint, tmp_path: Path, vision: str, match: str
) -> None:
    (tmp_path / "m.toml").write_text(f'vision = {{ {vision} }}\ntext = {{ file = "b.onnx" }}')
    with pytest.raises(ArtifactError, match=match) as refusal:
        open_external(bare, source, None, read_tower_map(tmp_path / "m.toml"))
    assert is_one_paragraph(str(refusal.value))


# --- broken files --------------------------------------------------------------------------------------------------


def no_graph(folder: Path) -> None:
    for path in folder.glob("*.onnx"):
        path.unlink()


def no_text(folder: Path) -> None:
    (folder / "b.onnx").unlink()


def no_protobuf(folder: Path) -> None:
    (folder / "a.onnx").write_bytes(b"\xff" * 100)


def weights_at(location: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        model = onnx.load(folder / "a.onnx")
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        onnx.save(model, folder / "a.onnx")

    return change


def linked_weights(folder: Path) -> None:
    (folder.parent / "elsewhere").write_bytes(b"\0" * 10_000_000)
    (folder / "w").symlink_to(folder.parent / "elsewhere")
    weights_at("w")(folder)


def another_input(folder: Path) -> None:
    model = onnx.load(folder / "b.onnx")
    model.graph.input.append(helper.make_tensor_value_info("temperature", FLOAT, []))
    onnx.save(model, folder / "b.onnx")


def other_size(folder: Path) -> None:
    model = onnx.load(folder / "a.onnx")
    for place in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[place].dim_value = 32
    onnx.save(model, folder / "a.onnx")


def no_shape(folder: Path) -> None:
    model = onnx.load(folder / "a.onnx")
    model.graph.output[1].type.tensor_type.ClearField("shape")
    onnx.save(model, folder / "a.onnx")


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (no_graph, "is neither an artifact nor an ONNX folder"),
        (no_text, "No graph in .* reads texts; it has a.onnx"),
        (no_protobuf, "is not an ONNX file"),
        (weights_at("w"), "which is missing"),
        (weights_at("../w"), "outside its folder"),
        (weights_at("/etc/passwd"), "outside its folder"),
        (linked_weights, "is a link to a file outside its folder"),
        (another_input, "has the input temperature float32"),
        (other_size, r"takes x float32 \[batch, 3, 32, 32\], the checkpoint's vision tower takes \[3, 64, 64\]"),
        (no_shape, "has no type or shape for y"),
    ],
)
def test_broken_files_are_refused_in_one_paragraph(
    bare: Path, source: Checkpoint, damage: Callable[[Path], None], match: str
) -> None:
    damage(bare)
    with pytest.raises(SiglipOnnxError, match=match) as refusal:
        open_external(bare, source)
    assert is_one_paragraph(str(refusal.value))


def test_weights_that_change_after_opening_are_refused(bare: Path, source: Checkpoint) -> None:
    external = open_external(bare, source)
    with (bare / "a.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ArtifactError, match="was damaged or changed"):
        Siglip(external.artifact).session(Role.VISION)


# --- the contract --------------------------------------------------------------------------------------------------


def test_a_contract_of_ours_is_written_as_before(artifact: Path) -> None:
    written = (artifact / "siglip.json").read_bytes()
    assert encode(decode(written)) == written
    assert b'"binding"' not in written


def test_a_binding_is_part_of_a_contract_and_must_fit_its_graph(artifact: Path) -> None:
    contract = Artifact.open(artifact).contract
    variant = contract.variants[0]
    used = replace(variant.graphs[Role.VISION], binding=IOBinding("pixel_values", "pooler_output", normalized=False))
    data = encode(contract.with_variant(replace(variant, graphs={**variant.graphs, Role.VISION: used})))
    read = decode(data).variants[0].graphs[Role.VISION]
    assert read == used
    assert isinstance(read, Graph)
    with pytest.raises(msgspec.ValidationError, match="the binding feeds pixels, the inputs are pixel_values"):
        decode(re.sub(rb'"input_name": "pixel_values"', b'"input_name": "pixels"', data))
