"""An artifact that does not match its contract is refused."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from siglip_onnx.runtime import Artifact, SessionOptions, Siglip
from siglip_onnx.runtime.artifact import contract as contracts
from siglip_onnx.runtime.artifact.contract import Precision, Role
from siglip_onnx.runtime.artifact.external_data import external_locations
from siglip_onnx.runtime.errors import ArtifactError

from ..conftest import rewrite


def test_contract_round_trips_through_json(artifact: Path) -> None:
    contract = Artifact.open(artifact).contract
    assert contracts.decode(contracts.encode(contract)) == contract


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("schema_version",), 3),
        (("color_order",), "BGR"),
        (("image", "color_order"), "BGR"),
        (("variants", 0, "graphs", "vision", "inputs", 0, "layout"), "NCHW"),
        (("tokenizer", "special_pieces"), {}),
        (("tokenizer", "length"), "64"),
        (("tokenizer", "padding_side"), "left"),
        (("image", "filter"), "cubic"),
        (("image", "mean"), [0.5, 0.5]),
        (("files", "config.json", "sha256"), "abc"),
        (("variants", 0, "precision"), "fp8"),
        (("variants", 0, "graphs", "vision", "path"), "../vision_model.onnx"),
        (("variants", 0, "graphs", "vision", "path"), "/etc/passwd"),
        (("variants", 0, "graphs", "vision", "data"), ["onnx/../../weights"]),
        (("tokenizer", "file"), "a/./b"),
    ],
)
def test_invalid_contract_is_refused(broken: Path, place: tuple[str | int, ...], value: object) -> None:
    path = broken / "siglip.json"
    content = json.loads(path.read_text())
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=r"siglip\.json"):
        Artifact.open(broken)


def test_older_schema_version_says_to_export_again(broken: Path) -> None:
    path = broken / "siglip.json"
    content = json.loads(path.read_text())
    content["schema_version"] = 1
    content["tokenizer"]["canonical"] = content["tokenizer"].pop("canonicalization")
    path.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="expected schema_version 2, got 1") as error:
        Artifact.open(broken)
    assert "siglip-onnx export" in error.value.next_step


@given(st.binary(max_size=300))
def test_arbitrary_bytes_do_not_crash_the_contract_reader(data: bytes) -> None:
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        contracts.decode(data)


def test_file_without_hash_is_refused(broken: Path) -> None:
    content = json.loads((broken / "siglip.json").read_text())
    del content["files"]["onnx/text_model.onnx_data"]
    (broken / "siglip.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="lists no hash"):
        Artifact.open(broken)


@pytest.mark.parametrize("name", ["onnx/vision_model.onnx", "onnx/text_model.onnx_data", "spiece.model", "config.json"])
def test_flipped_bit_is_detected(broken: Path, name: str) -> None:
    path = broken / name
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(ArtifactError, match=Path(name).name):
        Artifact.open(broken).verify()


def test_runtime_checks_hashes_when_it_loads_a_tower(broken: Path) -> None:
    model = Siglip.load(broken)
    data = bytearray((broken / "onnx/text_model.onnx_data").read_bytes())
    data[-1] ^= 128
    (broken / "onnx/text_model.onnx_data").write_bytes(data)
    with pytest.raises(ArtifactError, match="damaged or changed"):
        model.encode_text(["a cat"])


def test_swapped_graph_is_detected_by_its_hash(broken: Path) -> None:
    onnx_folder = broken / "onnx"
    shutil.copy(onnx_folder / "text_model.onnx", onnx_folder / "vision_model.onnx")
    with pytest.raises(ArtifactError, match="was damaged or changed"):
        Siglip.load(broken).session(Role.VISION)


def test_swapped_graph_with_a_matching_hash_is_detected_by_its_interface(broken: Path) -> None:
    def use_text_data(contract: contracts.Contract) -> contracts.Contract:
        variant = contract.variants[0]
        vision, text = variant.graphs[Role.VISION], variant.graphs[Role.TEXT]
        graphs = {**variant.graphs, Role.VISION: replace(vision, data=text.data)}
        return replace(contract, variants=(replace(variant, graphs=graphs),))

    onnx_folder = broken / "onnx"
    shutil.copy(onnx_folder / "text_model.onnx", onnx_folder / "vision_model.onnx")
    rewrite(broken, use_text_data)
    with pytest.raises(ArtifactError, match="the contract expects"):
        Siglip.load(broken).session(Role.VISION)


def test_missing_file_is_named(broken: Path) -> None:
    (broken / "onnx/text_model.onnx_data").unlink()
    with pytest.raises(ArtifactError, match=r"text_model\.onnx_data cannot be read"):
        Siglip.load(broken).session(Role.TEXT)


@pytest.mark.parametrize("location", ["../../secret", "/etc/passwd", "model.onnx", "sub/../../../x", ""])
def test_weights_outside_the_artifact_are_refused(broken: Path, location: str) -> None:
    path = broken / "onnx/vision_model.onnx"
    model = onnx.load(path, load_external_data=False)
    entry = next(e for t in model.graph.initializer for e in t.external_data if e.key == "location")
    entry.value = location
    path.write_bytes(model.SerializeToString())
    rewrite(broken)  # even if the attacker updated the hash
    with pytest.raises(ArtifactError, match="reads weights from"):
        Siglip.load(broken).session(Role.VISION)


def external(location: str) -> TensorProto:
    tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="offset", value="0")
    tensor.external_data.add(key="location", value=location)
    return tensor


def test_external_data_is_found_at_any_depth() -> None:
    branch = helper.make_graph([], "branch", [], [], initializer=[external("in a branch")])
    inner = helper.make_node("Constant", [], ["c"], value=external("in a constant"))
    body = helper.make_graph([inner], "body", [], [])
    node = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=body)
    function = helper.make_function(
        "d", "f", [], [], [helper.make_node("Constant", [], [], value=external("in f"))], []
    )
    graph = helper.make_graph([node], "g", [], [], initializer=[external("in the graph")])
    model = helper.make_model(graph, functions=[function])
    found = external_locations(model.SerializeToString())
    assert found == {"in a branch", "in a constant", "in f", "in the graph"}


def test_overlong_tag_cannot_hide_external_data() -> None:
    entry = b"\x0a\x08location\x12\x06secret"
    tensor = b"\xea\x80\x80\x80\x10" + bytes([len(entry)]) + entry  # field 13 + 2**29, which C++ reads as field 13
    graph = b"\x2a" + bytes([len(tensor)]) + tensor
    with pytest.raises(ValueError, match="not a protobuf"):
        external_locations(b"\x3a" + bytes([len(graph)]) + graph)


def test_weights_outside_the_artifact_are_refused_without_verification(broken: Path) -> None:
    path = broken / "onnx/vision_model.onnx"
    path.write_bytes(path.read_bytes().replace(b"vision_model.onnx_data", b"../../../../etc/passwd"))
    with pytest.raises(ArtifactError, match="reads weights from"):
        Siglip.load(broken, options=SessionOptions(verify=False)).session(Role.VISION)


def test_external_data_reader_agrees_with_onnx(artifact: Path) -> None:
    for path in sorted((artifact / "onnx").glob("*.onnx")):
        model = onnx.load(path, load_external_data=False)
        expected = {e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"}
        assert external_locations(path.read_bytes()) == expected


@given(st.binary(max_size=400))
def test_arbitrary_bytes_do_not_crash_the_graph_reader(data: bytes) -> None:
    with contextlib.suppress(ValueError):  # the only exception that it may raise
        assert isinstance(external_locations(data), frozenset)


def test_missing_precision_lists_the_available_ones(artifact: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no vision graph at int8; it has: fp32 \(vision, text, joint\)"):
        Siglip.load(artifact, precision="int8")
    assert Artifact.open(artifact).contract.variant(Precision.INT8) is None
