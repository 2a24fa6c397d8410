"""Layouts compute the same as their artifact, need no second copy of the weights, and are complete or absent."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from PIL import Image
from tokenizers import Tokenizer

from siglip_onnx.exporter.layouts import Layout, write_layout
from siglip_onnx.quantize import RECIPES, QuantizeRequest, quantize
from siglip_onnx.runtime import Artifact, Siglip
from siglip_onnx.runtime.artifact.contract import Contract, Precision, Role
from siglip_onnx.runtime.errors import ArtifactError, ExportError
from siglip_onnx.runtime.preprocessing.image import ImageOptions, load_image

from ..conftest import DATA, Command, cli, is_one_paragraph, quiet, rewrite

PHOTOS = sorted((DATA / "images" / "photos").glob("*.*g"))[:6]
TEXTS = ["a bear", "  A   Pizza! ", "grinning face", "", "x" * 500, "ΟΔΟΣ, ½ and </s> inside", "日本語 ▁ tab\there"]
EVERY = pytest.mark.parametrize("layout", list(Layout))


def written(artifact: Path, target: Path, layout: Layout, precision: Precision = Precision.FP32) -> Path:
    return write_layout(artifact, target, layout, precision=precision, progress=quiet)


def run(graph: Path, **feeds: np.ndarray) -> np.ndarray:
    """The first output of a graph."""
    return np.asarray(onnxruntime.InferenceSession(graph).run(None, feeds)[0])


def weights(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.onnx_data"))


# --- disk use and completeness -----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def artifact(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A separate copy: other tests open the shared artifact with the onnx package, which refuses linked files."""
    return Path(shutil.copytree(artifact, tmp_path_factory.mktemp("layouts") / "artifact"))


@EVERY
def test_weights_are_hard_links_to_the_artifact(artifact: Path, tmp_path: Path, layout: Layout) -> None:
    messages: list[str] = []
    folder = write_layout(artifact, tmp_path / "layout", layout, progress=messages.append)
    assert len(weights(folder)) == 2
    assert all(os.path.samefile(path, artifact / "onnx" / path.name) for path in weights(folder))
    own = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.stat().st_nlink == 1)
    assert own < 1_000_000 < sum(path.stat().st_size for path in weights(folder))
    assert any("Linked vision_model.onnx_data" in step for step in messages)
    assert not any(path.is_symlink() for path in folder.rglob("*"))


def test_weights_are_copied_to_another_disk_with_a_message(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    messages: list[str] = []
    folder = write_layout(artifact, tmp_path / "layout", Layout.IMMICH, progress=messages.append)
    assert "Copying vision_model.onnx_data, because it cannot be linked: Invalid cross-device link" in messages
    assert all(path.read_bytes() == (artifact / "onnx" / path.name).read_bytes() for path in weights(folder))


def test_weights_are_copied_on_request(artifact: Path, tmp_path: Path) -> None:
    folder = write_layout(artifact, tmp_path / "layout", Layout.OPTIMUM, copy=True, progress=quiet)
    assert all(path.stat().st_nlink == 1 for path in weights(folder))


@EVERY
def test_layout_works_after_its_artifact_is_removed(broken: Path, tmp_path: Path, layout: Layout) -> None:
    folder = written(broken, tmp_path / "layout", layout)
    shutil.rmtree(broken)
    for graph in folder.rglob("*.onnx"):
        onnxruntime.InferenceSession(graph)


@EVERY
def test_full_disk_leaves_no_layout(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: Layout
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(ExportError, match="No space left on device"):
        written(artifact, tmp_path / "layout", layout)
    assert list(tmp_path.iterdir()) == []


def test_killed_write_leaves_no_layout_and_the_next_one_cleans_up(artifact: Path, tmp_path: Path) -> None:
    """The process is killed at the first link, after the graph beside it was written."""
    code = (
        "import os, signal, sys; from pathlib import Path; from siglip_onnx.exporter.layouts import *;"
        "os.link = lambda *_: os.kill(os.getpid(), signal.SIGKILL);"
        "write_layout(Path(sys.argv[1]), Path(sys.argv[2]), Layout.TRITON)"
    )
    died = subprocess.run([sys.executable, "-c", code, artifact, tmp_path / "layout"], check=False, capture_output=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert not (tmp_path / "layout").exists()
    assert any(tmp_path.iterdir())
    written(artifact, tmp_path / "layout", Layout.TRITON)
    assert [path.name for path in tmp_path.iterdir()] == ["layout"]


def test_damaged_artifact_is_refused(broken: Path, tmp_path: Path) -> None:
    data = broken / "onnx" / "vision_model.onnx_data"
    content = bytearray(data.read_bytes())
    content[1000] ^= 1
    data.write_bytes(content)
    with pytest.raises(ArtifactError, match="damaged or changed"):
        written(broken, tmp_path / "layout", Layout.IMMICH)
    assert not (tmp_path / "layout").exists()


def test_missing_precision_is_reported(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no vision graph at int8; it has: fp32"):
        written(artifact, tmp_path / "layout", Layout.IMMICH, Precision.INT8)


def test_only_a_layout_is_overwritten(artifact: Path, tmp_path: Path) -> None:
    mine, layout = tmp_path / "mine", tmp_path / "layout"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(ExportError, match="already exists"):
        written(artifact, mine, Layout.IMMICH)
    for foreign in (mine, Path(shutil.copytree(artifact, tmp_path / "artifact"))):
        with pytest.raises(ExportError, match="not a layout written by siglip-onnx"):
            write_layout(artifact, foreign, Layout.IMMICH, overwrite=True, progress=quiet)
    assert (mine / "thesis.txt").exists()
    written(artifact, layout, Layout.IMMICH)
    write_layout(artifact, layout, Layout.TRITON, overwrite=True, progress=quiet)
    assert not (layout / "visual").exists()
    assert json.loads((layout / "siglip-layout.json").read_text())["layout"] == "triton"


def test_target_inside_the_artifact_is_refused(artifact: Path) -> None:
    for target in (artifact, artifact / "immich"):
        with pytest.raises(ExportError, match="is inside the artifact"):
            write_layout(artifact, target, Layout.IMMICH, overwrite=True, progress=quiet)


def test_marker_records_the_sources(artifact: Path, tmp_path: Path) -> None:
    marker = json.loads((written(artifact, tmp_path / "layout", Layout.OPTIMUM) / "siglip-layout.json").read_text())
    files = Artifact.open(artifact).contract.files
    assert marker["precision"] == "fp32"
    assert marker["sources"] == {name: files[name].sha256 for name in marker["sources"]}
    assert marker["sources"].keys() >= {"onnx/model.onnx", "onnx/text_model.onnx_data", "tokenizer.json"}


def test_graph_with_another_input_is_refused(broken: Path, tmp_path: Path) -> None:
    def take_bytes(contract: Contract) -> Contract:
        variant = contract.variants[0]
        graph = variant.graphs[Role.VISION]
        changed = replace(graph, inputs=(replace(graph.inputs[0], name="bytes", dtype="uint8"),))
        return replace(contract, variants=(replace(variant, graphs={**variant.graphs, Role.VISION: changed}),))

    rewrite(broken, take_bytes)
    with pytest.raises(ExportError, match=r"takes bytes \(uint8\)"):
        written(broken, tmp_path / "layout", Layout.TRITON)


def test_artifact_with_one_tower_is_refused(broken: Path, tmp_path: Path) -> None:
    def forget_texts(contract: Contract) -> Contract:
        variant = contract.variants[0]
        return replace(contract, variants=(replace(variant, graphs={Role.VISION: variant.graphs[Role.VISION]}),))

    rewrite(broken, forget_texts)
    with pytest.raises(ExportError, match="no joint and no text graph"):
        written(broken, tmp_path / "layout", Layout.OPTIMUM)


# --- Immich ------------------------------------------------------------------------------------------------------


def immich_pixels(folder: Path, image: Image.Image) -> np.ndarray:
    """Pixels as made by Immich versions with resize_mode: float32 [1, 3, S, S]."""
    config = json.loads((folder / "visual" / "preprocess_cfg.json").read_text())
    assert (config["resize_mode"], config["mode"]) == ("squash", "RGB")
    resized = image.resize(tuple(config["size"]), Image.Resampling[config["interpolation"].upper()])
    mean, std = np.array(config["mean"], np.float32), np.array(config["std"], np.float32)
    pixels = np.asarray(resized, np.float32) / 255
    return ((pixels - mean) / std).transpose(2, 0, 1)[None]


def immich_ids(folder: Path, text: str) -> np.ndarray:
    """Token ids as made by Immich: int32 [1, length]."""
    config = json.loads((folder / "config.json").read_text())["text_cfg"]
    assert config["tokenizer_kwargs"]["clean"] != "canonicalize"
    pad = json.loads((folder / "textual" / "tokenizer_config.json").read_text())["pad_token"]
    tokenizer = Tokenizer.from_file(str(folder / "textual" / "tokenizer.json"))
    tokenizer.enable_padding(length=config["context_length"], pad_token=pad, pad_id=tokenizer.token_to_id(pad))
    tokenizer.enable_truncation(max_length=config["context_length"])
    return np.array([tokenizer.encode(" ".join(text.split())).ids], np.int32)


@pytest.fixture(scope="module")
def immich(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(artifact, tmp_path_factory.mktemp("immich") / "clip" / "emoji", Layout.IMMICH)


@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.name)
def test_immich_image_embedding_matches_the_runtime(immich: Path, model: Siglip, path: Path) -> None:
    image = load_image(path, ImageOptions())
    pixels = immich_pixels(immich, image)
    np.testing.assert_allclose(pixels, model.images([image]), atol=5e-7)
    actual = run(immich / "visual" / "model.onnx", image=pixels)
    np.testing.assert_allclose(actual, model.encode_image([image]), atol=2e-6)


@pytest.mark.filterwarnings("ignore::siglip_onnx.runtime.preprocessing.prompts.TextTruncatedWarning")
@pytest.mark.parametrize("text", TEXTS)
def test_immich_text_embedding_matches_the_runtime(immich: Path, model: Siglip, text: str) -> None:
    ids = immich_ids(immich, text)
    assert ids.tolist() == model.tokenizer([text]).tolist()
    actual = run(immich / "textual" / "model.onnx", text=ids)
    np.testing.assert_allclose(actual, model.encode_text([text]), atol=2e-6)


def test_immich_graphs_have_one_output_of_length_one(immich: Path) -> None:
    for tower, name, kind in (("visual", "image", "tensor(float)"), ("textual", "text", "tensor(int32)")):
        session = onnxruntime.InferenceSession(immich / tower / "model.onnx")
        assert [(i.name, i.type) for i in session.get_inputs()] == [(name, kind)]
        assert [o.name for o in session.get_outputs()] == ["embedding"]
    actual = run(immich / "visual" / "model.onnx", image=np.ones((3, 3, 64, 64), np.float32))
    np.testing.assert_allclose(np.linalg.norm(actual, axis=1), 1, atol=1e-6)


def test_other_rescale_factor_is_folded_into_immichs_mean_and_std(broken: Path, tmp_path: Path) -> None:
    one = (1.0, 1.0, 1.0)
    rewrite(broken, lambda c: replace(c, image=replace(c.image, rescale=2 / 255, mean=one, std=one)))
    folder = written(broken, tmp_path / "layout", Layout.IMMICH)
    image = load_image(PHOTOS[0], ImageOptions())
    np.testing.assert_allclose(immich_pixels(folder, image), Siglip.load(broken).images([image]), atol=5e-7)


def test_preprocessing_unknown_to_immich_is_refused(broken: Path, tmp_path: Path) -> None:
    rewrite(broken, lambda c: replace(c, image=replace(c.image, channel_order="BGR")))
    with pytest.raises(ExportError, match="64 x 64 BGR"):
        written(broken, tmp_path / "layout", Layout.IMMICH)


# --- Triton ------------------------------------------------------------------------------------------------------

TYPES = {"TYPE_FP32": "tensor(float)", "TYPE_INT64": "tensor(int64)", "TYPE_UINT8": "tensor(uint8)"}


@pytest.fixture(scope="module")
def triton(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(artifact, tmp_path_factory.mktemp("triton") / "models", Layout.TRITON)


def tensors(config: str, field: str) -> list[tuple[str, str, list[int]]]:
    actual = re.findall(rf'^{field} \[ {{ name: "(\w+)" data_type: (\w+) dims: \[ ([-\d, ]+) \] }} \]$', config, re.M)
    return [(name, TYPES[kind], [int(d) for d in dims.split(",")]) for name, kind, dims in actual]


@pytest.mark.parametrize("name", ["siglip_vision", "siglip_text", "siglip_preprocess"])
def test_triton_configuration_matches_the_graph(triton: Path, name: str) -> None:
    config = (triton / name / "config.pbtxt").read_text()
    assert f'name: "{name}"' in config
    batched = "max_batch_size: 0" not in config
    assert batched == ("dynamic_batching" in config)
    session = onnxruntime.InferenceSession(triton / name / "1" / "model.onnx")
    for field, values in (("input", session.get_inputs()), ("output", session.get_outputs())):
        actual = [(v.name, v.type, [d if isinstance(d, int) else -1 for d in v.shape]) for v in values]
        configured = tensors(config, field)
        assert actual == [(n, kind, [-1, *dims] if batched else dims) for n, kind, dims in configured]


def test_triton_ensemble_matches_the_runtime(triton: Path, model: Siglip) -> None:
    config = (triton / "siglip_image" / "config.pbtxt").read_text()
    assert (triton / "siglip_image" / "1").is_dir()
    steps = re.findall(
        r'model_name: "(\w+)"\s+model_version: -1\s+input_map { key: "(\w+)" value: "(\w+)" }'
        r'\s+output_map { key: "(\w+)" value: "(\w+)" }',
        config,
    )
    assert [step[0] for step in steps] == ["siglip_preprocess", "siglip_vision"]
    ((ensemble_input, _, _),), ((ensemble_output, _, shape),) = tensors(config, "input"), tensors(config, "output")
    for path in PHOTOS:
        image = load_image(path, ImageOptions())
        values = {ensemble_input: np.asarray(image)}
        for name, input_name, source, output_name, target in steps:
            session = onnxruntime.InferenceSession(triton / name / "1" / "model.onnx")
            values[target] = session.run([output_name], {input_name: values[source]})[0]
        assert list(values[ensemble_output].shape) == shape
        assert values[ensemble_output][0] @ model.encode_image([image])[0] > 0.9999


def test_triton_towers_accept_batches(triton: Path, model: Siglip) -> None:
    pixels = model.images(PHOTOS)
    actual = run(triton / "siglip_vision" / "1" / "model.onnx", pixel_values=pixels)
    np.testing.assert_allclose(actual, model.encode_image(PHOTOS), atol=2e-6)
    ids = model.tokenizer(TEXTS)
    actual = run(triton / "siglip_text" / "1" / "model.onnx", input_ids=ids)
    alone = [run(triton / "siglip_text" / "1" / "model.onnx", input_ids=row[None])[0] for row in ids]
    np.testing.assert_allclose(actual, alone, atol=2e-6)


def test_unsupported_filter_is_refused_for_triton(broken: Path, tmp_path: Path) -> None:
    rewrite(broken, lambda c: replace(c, image=replace(c.image, filter="lanczos")))
    with pytest.raises(ExportError, match="'lanczos'"):
        written(broken, tmp_path / "layout", Layout.TRITON)
    assert not (tmp_path / "layout").exists()


def test_fixed_batch_is_refused_for_triton(broken: Path, tmp_path: Path) -> None:
    path = broken / "onnx" / "text_model.onnx"
    text = ir.load(path)
    text.graph.inputs[0].shape = ir.Shape([1, 64])
    ir.save(text, path)
    rewrite(broken)
    with pytest.raises(ExportError, match="has a fixed batch"):
        written(broken, tmp_path / "layout", Layout.TRITON)


# --- Optimum -----------------------------------------------------------------------------------------------------


def test_optimum_layout_has_the_joint_graph_and_all_files_in_one_folder(
    artifact: Path, model: Siglip, tmp_path: Path
) -> None:
    folder = written(artifact, tmp_path / "flat", Layout.OPTIMUM)
    assert not any(path.is_dir() for path in folder.iterdir())
    names = {path.name for path in folder.iterdir()}
    assert names >= {"model.onnx", "vision_model.onnx", "text_model.onnx", "config.json", "preprocessor_config.json"}
    assert names >= {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "spiece.model"}
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    outputs = ["logits_per_image", "logits_per_text", "text_embeds", "image_embeds"]
    assert [output.name for output in session.get_outputs()] == outputs
    pixels, ids = model.images(PHOTOS), model.tokenizer(["a bear", "pizza"])
    logits = session.run(["logits_per_image"], {"pixel_values": pixels, "input_ids": ids})[0]
    expected = model.logits(model.encode_image(PHOTOS), model.encode_text(["a bear", "pizza"]))
    np.testing.assert_allclose(logits, expected, atol=1e-4)


# --- another precision, and the command line ---------------------------------------------------------------------


def test_other_precision_keeps_the_graph_names(emoji: Path, pairs: Path, tmp_path: Path) -> None:
    quantize(emoji, RECIPES[Precision.INT8](), QuantizeRequest(data=pairs), progress=quiet)
    model = Siglip.load(emoji, "int8")
    for layout, graph in ((Layout.IMMICH, "visual/model.onnx"), (Layout.OPTIMUM, "vision_model.onnx")):
        folder = written(emoji, tmp_path / layout, layout, Precision.INT8)
        assert {path.name for path in weights(folder)} == {"vision_model_int8.onnx_data", "text_model_int8.onnx_data"}
        assert onnxruntime.InferenceSession(folder / graph)
    actual = run(tmp_path / "immich" / "visual" / "model.onnx", image=model.images(PHOTOS[:1]))
    np.testing.assert_allclose(actual, model.encode_image(PHOTOS[:1]), atol=2e-6)
    assert (tmp_path / "optimum" / "model.onnx").exists()


def test_command_line_writes_a_layout(artifact: Path, tmp_path: Path, command: Command) -> None:
    done = command("layout", artifact, tmp_path / "models", "--layout", "triton", "--json")
    assert done.code == 0, done.err
    result = json.loads(done.out)
    assert result["own_bytes"] < 1_000_000 < result["bytes"]
    assert (tmp_path / "models" / "siglip_image" / "config.pbtxt").exists()
    again = cli("layout", artifact, tmp_path / "models", "--layout", "triton")
    assert (again.code, is_one_paragraph(again.err)) == (ExportError.exit_code, True)
    assert command("layout", artifact, tmp_path / "models", "--layout", "immich", "--overwrite").code == 0
