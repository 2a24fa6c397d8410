"""Exports of other tools: what they compute is found without being told, and what cannot be told is asked for."""

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
from siglip_onnx.validate.external.open_external import ExternalModel, open_external, precisions, read_mapping

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
    """Both towers with other names and their weights inside, as anybody may have exported them."""
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
    """A tower with names of its own, and changed where that is asked for."""
    model = ir.load(artifact / "onnx" / f"{role}_model.onnx")
    model.graph.inputs[0].name = given
    model.graph.outputs[1].name = embedding
    if change:
        change(model)
    ir.save(ir.external_data.load_to_model(model), target)


def same(adopted: ExternalModel, model: Siglip, inputs: dict[Role, np.ndarray], within: float = 1e-6) -> None:
    """Assert that both towers give the embeddings of the artifact that they come from."""
    with Siglip(adopted.artifact, adopted.precision) as judged:
        for role, rows in inputs.items():
            found, wanted = judged.encode(role, rows), model.encode(role, rows)
            assert found.dtype == np.float32
            assert np.abs(normalized(found) - normalized(wanted)).max() < within
            if judged.embedding(role).normalized:
                assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-3
        texts = judged.encode_text(TEXTS)
        assert np.abs(texts - model.encode_text(TEXTS)).max() < within


# --- what is understood without a word -----------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [Layout.OPTIMUM, Layout.IMMICH])
def test_a_layout_gives_the_artifacts_embeddings_and_is_left_as_it_is(
    artifact: Path, tmp_path: Path, source: Checkpoint, model: Siglip, inputs: dict[Role, np.ndarray], layout: Layout
) -> None:
    folder = write_layout(artifact, tmp_path / "layout", layout, copy=True, progress=quiet)
    before = files(folder)
    adopted = open_external(folder, source)
    same(adopted, model, inputs)
    adopted.artifact.verify()
    assert (adopted.kind, adopted.precision) == (layout, Precision.FP32)
    assert adopted.has_tokenizer
    assert adopted.has_joint == adopted.has_preprocessor == (layout is Layout.OPTIMUM)
    assert adopted.artifact.path("tokenizer.json").read_bytes() == (artifact / "tokenizer.json").read_bytes()
    assert files(folder) == before


def test_a_joint_graph_alone_stands_for_both_towers(
    artifact: Path, tmp_path: Path, source: Checkpoint, model: Siglip, inputs: dict[Role, np.ndarray]
) -> None:
    folder = write_layout(artifact, tmp_path / "flat", Layout.OPTIMUM, copy=True, progress=quiet)
    (folder / "vision_model.onnx").unlink()
    (folder / "text_model.onnx").unlink()
    for path in (folder, folder / "model.onnx"):
        adopted = open_external(path, source)
        same(adopted, model, inputs)
        assert adopted.has_joint
        assert any("the other is given one blank row" in note for note in adopted.notes)


def test_the_folder_of_transformers_js_has_its_own_tokenizer_and_several_precisions(
    artifact: Path, tmp_path: Path, source: Checkpoint, model: Siglip, inputs: dict[Role, np.ndarray]
) -> None:
    folder = Path(shutil.copytree(artifact, tmp_path / "js"))
    for name in ("siglip.json", "spiece.model"):
        (folder / name).unlink()
    half(folder / "onnx" / "text_model.onnx", folder / "onnx" / "text_model_fp16.onnx")
    assert precisions(folder) == (Precision.FP32, Precision.FP16)
    adopted = open_external(folder, source, Precision.FP16)
    same(adopted, model, inputs, within=1e-3)
    assert adopted.kind == "transformers.js"
    assert adopted.artifact.graph(Role.TEXT, Precision.FP16).path == "onnx/text_model_fp16.onnx"
    assert any("vision_model.onnx is fp32, and is judged with the other tower as fp16" in n for n in adopted.notes)
    assert adopted.artifact.path("spiece.model") == CHECKPOINT / "spiece.model"
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


def test_other_names_are_found_by_their_form(
    towers: Path, source: Checkpoint, model: Siglip, inputs: dict[Role, np.ndarray]
) -> None:
    adopted = open_external(towers, source)
    same(adopted, model, inputs)
    assert (adopted.kind, adopted.has_tokenizer, adopted.has_preprocessor, adopted.has_joint) == ("bare", *[False] * 3)
    assert adopted.artifact.contract.tokenizer == source.tokenizer
    assert {"vision: a.onnx, from x (float32) to y, which is not scaled."} <= set(adopted.notes)


def test_narrow_inputs_and_a_fixed_batch_are_served(
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
    adopted = open_external(bare, source)
    same(adopted, model, inputs, within=2e-3)
    assert adopted.artifact.graph(Role.VISION, Precision.FP32).batch == 1
    with Siglip(adopted.artifact) as judged, pytest.raises(InputError, match="float64"):
        judged.encode(Role.VISION, inputs[Role.VISION].astype(np.float64))


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
def test_the_precision_is_what_the_graph_holds(tmp_path: Path, operators: list[str], precision: Precision) -> None:
    values = [helper.make_tensor_value_info(name, FLOAT, ["n", 2]) for name in ("x", "y")]
    names = ["x", *(f"v{i}" for i in range(len(operators) - 1)), "y"]
    nodes = [helper.make_node(op, [names[i], "w"], [names[i + 1]]) for i, op in enumerate(operators)]
    weights = [helper.make_tensor("w", FLOAT, [2, 2], [1.0] * 4)]
    onnx.save(helper.make_model(helper.make_graph(nodes, "g", values[:1], values[1:], weights)), tmp_path / "g.onnx")
    assert read_graph(tmp_path, "g.onnx").precision == precision


# --- what is open, and the mapping that settles it -----------------------------------------------------------------


def test_the_refusal_of_two_files_names_a_mapping_that_works(
    bare: Path, source: Checkpoint, model: Siglip, inputs: dict[Role, np.ndarray], tmp_path: Path
) -> None:
    shutil.copy(bare / "a.onnx", bare / "other.onnx")
    with pytest.raises(ArtifactError, match=r"a\.onnx and other\.onnx do the same at fp32") as refusal:
        open_external(bare, source)
    assert is_one_paragraph(str(refusal.value))
    (tmp_path / "m.toml").write_text("\n".join(re.findall(r"(?:vision|text) = {[^}]*}", refusal.value.next_step)))
    same(open_external(bare, source, Precision.FP32, read_mapping(tmp_path / "m.toml")), model, inputs)


def test_the_refusal_of_two_outputs_names_a_mapping_that_works(
    artifact: Path, bare: Path, source: Checkpoint, model: Siglip, inputs: dict[Role, np.ndarray], tmp_path: Path
) -> None:
    def double(graph: ir.Model) -> None:
        pooled = graph.graph.outputs[1]
        twice = ir.node("Add", [pooled, pooled], outputs=[ir.Value(name="yy", shape=pooled.shape, type=pooled.type)])
        graph.graph.append(twice)
        graph.graph.outputs.append(twice.outputs[0])

    tower(artifact, "vision", bare / "a.onnx", "x", "y", double)
    with pytest.raises(ArtifactError, match="several may be meant for the vision tower: y float32") as refusal:
        open_external(bare, source)
    assert is_one_paragraph(str(refusal.value))
    (tmp_path / "m.toml").write_text("\n".join(re.findall(r"(?:vision|text) = {[^}]*}", refusal.value.next_step)))
    same(open_external(bare, source, None, read_mapping(tmp_path / "m.toml")), model, inputs)


def test_a_mapping_decides_what_is_judged_and_as_what(bare: Path, source: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "m.toml"
    path.write_text('precision = "int8"\n[vision]\nfile = "a.onnx"\nnormalized = true\n[text]\nfile = "b.onnx"\n')
    mapping = read_mapping(path)
    assert precisions(bare, mapping) == (Precision.INT8,)
    adopted = open_external(bare, source, Precision.INT8, mapping)
    model = Siglip(adopted.artifact, Precision.INT8)
    assert model.embedding(Role.VISION).normalized
    assert not model.embedding(Role.TEXT).normalized
    with pytest.raises(InputError, match="Add --precision int8"):
        open_external(bare, source, Precision.FP32, mapping)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('vision = { file = "a.onnx" }', "missing required field `text`"),
        ('vision = { file = "a.onnx", inputt = "x" }\ntext = { file = "b.onnx" }', "unknown field `inputt`"),
        ('precision = "int2"\nvision = { file = "a.onnx" }\ntext = { file = "b.onnx" }', "int2"),
        ("vision = ", "Invalid value"),
    ],
)
def test_a_mapping_that_says_nonsense_is_refused(tmp_path: Path, text: str, match: str) -> None:
    (tmp_path / "m.toml").write_text(text)
    with pytest.raises(InputError, match=match) as refusal:
        read_mapping(tmp_path / "m.toml")
    assert is_one_paragraph(str(refusal.value))


@pytest.mark.parametrize(
    ("vision", "match"),
    [
        ('file = "a.onnx", input = "nothing"', "has no input 'nothing' of the vision tower's form"),
        ('file = "a.onnx", embedding = "last_hidden_state"', "has no output 'last_hidden_state'"),
        ('file = "c.onnx"', "cannot be read"),
        ('file = "../a.onnx"', "does not lie in"),
        ('file = "b.onnx"', "None of the inputs of .* fits the vision tower"),
    ],
)
def test_a_mapping_of_what_is_not_there_is_refused(
    bare: Path, source: Checkpoint, tmp_path: Path, vision: str, match: str
) -> None:
    (tmp_path / "m.toml").write_text(f'vision = {{ {vision} }}\ntext = {{ file = "b.onnx" }}')
    with pytest.raises(ArtifactError, match=match) as refusal:
        open_external(bare, source, None, read_mapping(tmp_path / "m.toml"))
    assert is_one_paragraph(str(refusal.value))


# --- what is broken ------------------------------------------------------------------------------------------------


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
        (no_graph, "is neither an artifact nor a folder with ONNX files"),
        (no_text, "No graph in .* reads texts; it has a.onnx"),
        (no_protobuf, "is not an ONNX file"),
        (weights_at("w"), "which is missing"),
        (weights_at("../w"), "outside of its folder"),
        (weights_at("/etc/passwd"), "outside of its folder"),
        (linked_weights, "is a link to a file elsewhere"),
        (another_input, "wants temperature float32"),
        (other_size, r"takes x float32 \[batch, 3, 32, 32\], and the checkpoint's vision tower \[3, 64, 64\]"),
        (no_shape, "does not say which type and shape y has"),
    ],
)
def test_what_is_broken_is_told_in_a_paragraph(
    bare: Path, source: Checkpoint, damage: Callable[[Path], None], match: str
) -> None:
    damage(bare)
    with pytest.raises(SiglipOnnxError, match=match) as refusal:
        open_external(bare, source)
    assert is_one_paragraph(str(refusal.value))


def test_weights_that_change_after_adoption_are_not_run(bare: Path, source: Checkpoint) -> None:
    adopted = open_external(bare, source)
    with (bare / "a.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ArtifactError, match="was damaged or changed"):
        Siglip(adopted.artifact).session(Role.VISION)


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
