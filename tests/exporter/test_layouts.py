"""What other servers read computes what the artifact computes, takes no second copy of the weights, and is whole."""

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


# --- room and wholeness ------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def artifact(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of its own: what is linked is refused by the onnx package, which other tests ask about the shared one."""
    return Path(shutil.copytree(artifact, tmp_path_factory.mktemp("layouts") / "artifact"))


@EVERY
def test_weights_are_the_artifacts_own_files(artifact: Path, tmp_path: Path, layout: Layout) -> None:
    told: list[str] = []
    folder = write_layout(artifact, tmp_path / "layout", layout, progress=told.append)
    assert len(weights(folder)) == 2
    assert all(os.path.samefile(path, artifact / "onnx" / path.name) for path in weights(folder))
    own = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.stat().st_nlink == 1)
    assert own < 1_000_000 < sum(path.stat().st_size for path in weights(folder))
    assert any("Linked vision_model.onnx_data" in step for step in told)
    assert not any(path.is_symlink() for path in folder.rglob("*"))


def test_another_disk_gets_a_copy_and_the_user_is_told(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    told: list[str] = []
    folder = write_layout(artifact, tmp_path / "layout", Layout.IMMICH, progress=told.append)
    assert "Copying vision_model.onnx_data, because it cannot be linked: Invalid cross-device link" in told
    assert all(path.read_bytes() == (artifact / "onnx" / path.name).read_bytes() for path in weights(folder))


def test_copies_can_be_asked_for(artifact: Path, tmp_path: Path) -> None:
    folder = write_layout(artifact, tmp_path / "layout", Layout.OPTIMUM, copy=True, progress=quiet)
    assert all(path.stat().st_nlink == 1 for path in weights(folder))


@EVERY
def test_a_layout_outlives_its_artifact(broken: Path, tmp_path: Path, layout: Layout) -> None:
    folder = written(broken, tmp_path / "layout", layout)
    shutil.rmtree(broken)
    for graph in folder.rglob("*.onnx"):
        onnxruntime.InferenceSession(graph)


@EVERY
def test_a_full_disk_leaves_nothing(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: Layout
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(ExportError, match="No space left on device"):
        written(artifact, tmp_path / "layout", layout)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_write_leaves_no_layout_and_the_next_one_cleans_up(artifact: Path, tmp_path: Path) -> None:
    """The process dies at the first link, when the graph beside it has been written already."""
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


def test_a_damaged_artifact_is_not_passed_on(broken: Path, tmp_path: Path) -> None:
    data = broken / "onnx" / "vision_model.onnx_data"
    content = bytearray(data.read_bytes())
    content[1000] ^= 1
    data.write_bytes(content)
    with pytest.raises(ArtifactError, match="damaged or changed"):
        written(broken, tmp_path / "layout", Layout.IMMICH)
    assert not (tmp_path / "layout").exists()


def test_a_precision_that_is_not_there_is_named(artifact: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no vision graph at int8; it has: fp32"):
        written(artifact, tmp_path / "layout", Layout.IMMICH, Precision.INT8)


def test_only_a_layout_is_replaced(artifact: Path, tmp_path: Path) -> None:
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


def test_an_artifact_is_not_written_into(artifact: Path) -> None:
    for target in (artifact, artifact / "immich"):
        with pytest.raises(ExportError, match="is inside the artifact"):
            write_layout(artifact, target, Layout.IMMICH, overwrite=True, progress=quiet)


def test_a_layout_says_what_it_was_made_from(artifact: Path, tmp_path: Path) -> None:
    marker = json.loads((written(artifact, tmp_path / "layout", Layout.OPTIMUM) / "siglip-layout.json").read_text())
    files = Artifact.open(artifact).contract.files
    assert marker["precision"] == "fp32"
    assert marker["sources"] == {name: files[name].sha256 for name in marker["sources"]}
    assert marker["sources"].keys() >= {"onnx/model.onnx", "onnx/text_model.onnx_data", "tokenizer.json"}


def test_a_graph_that_takes_something_else_is_refused(broken: Path, tmp_path: Path) -> None:
    def take_bytes(contract: Contract) -> Contract:
        variant = contract.variants[0]
        graph = variant.graphs[Role.VISION]
        changed = replace(graph, inputs=(replace(graph.inputs[0], name="bytes", dtype="uint8"),))
        return replace(contract, variants=(replace(variant, graphs={**variant.graphs, Role.VISION: changed}),))

    rewrite(broken, take_bytes)
    with pytest.raises(ExportError, match=r"takes bytes \(uint8\)"):
        written(broken, tmp_path / "layout", Layout.TRITON)


def test_an_artifact_of_one_tower_is_refused(broken: Path, tmp_path: Path) -> None:
    def forget_texts(contract: Contract) -> Contract:
        variant = contract.variants[0]
        return replace(contract, variants=(replace(variant, graphs={Role.VISION: variant.graphs[Role.VISION]}),))

    rewrite(broken, forget_texts)
    with pytest.raises(ExportError, match="no joint and no text graph"):
        written(broken, tmp_path / "layout", Layout.OPTIMUM)


# --- Immich ------------------------------------------------------------------------------------------------------


def immich_pixels(folder: Path, image: Image.Image) -> np.ndarray:
    """Pixels as Immich makes them where it knows resize_mode: float32 [1, 3, S, S]."""
    told = json.loads((folder / "visual" / "preprocess_cfg.json").read_text())
    assert (told["resize_mode"], told["mode"]) == ("squash", "RGB")
    resized = image.resize(tuple(told["size"]), Image.Resampling[told["interpolation"].upper()])
    mean, std = np.array(told["mean"], np.float32), np.array(told["std"], np.float32)
    pixels = np.asarray(resized, np.float32) / 255
    return ((pixels - mean) / std).transpose(2, 0, 1)[None]


def immich_ids(folder: Path, text: str) -> np.ndarray:
    """Ids as Immich makes them: int32 [1, length]."""
    told = json.loads((folder / "config.json").read_text())["text_cfg"]
    assert told["tokenizer_kwargs"]["clean"] != "canonicalize"
    pad = json.loads((folder / "textual" / "tokenizer_config.json").read_text())["pad_token"]
    tokenizer = Tokenizer.from_file(str(folder / "textual" / "tokenizer.json"))
    tokenizer.enable_padding(length=told["context_length"], pad_token=pad, pad_id=tokenizer.token_to_id(pad))
    tokenizer.enable_truncation(max_length=told["context_length"])
    return np.array([tokenizer.encode(" ".join(text.split())).ids], np.int32)


@pytest.fixture(scope="module")
def immich(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(artifact, tmp_path_factory.mktemp("immich") / "clip" / "emoji", Layout.IMMICH)


@pytest.mark.parametrize("path", PHOTOS, ids=lambda path: path.name)
def test_immich_gets_our_embedding_of_an_image(immich: Path, model: Siglip, path: Path) -> None:
    image = load_image(path, ImageOptions())
    pixels = immich_pixels(immich, image)
    np.testing.assert_allclose(pixels, model.images([image]), atol=5e-7)
    found = run(immich / "visual" / "model.onnx", image=pixels)
    np.testing.assert_allclose(found, model.encode_image([image]), atol=2e-6)


@pytest.mark.filterwarnings("ignore::siglip_onnx.runtime.preprocessing.prompts.TextTruncatedWarning")
@pytest.mark.parametrize("text", TEXTS)
def test_immich_gets_our_embedding_of_a_text(immich: Path, model: Siglip, text: str) -> None:
    ids = immich_ids(immich, text)
    assert ids.tolist() == model.tokenizer([text]).tolist()
    found = run(immich / "textual" / "model.onnx", text=ids)
    np.testing.assert_allclose(found, model.encode_text([text]), atol=2e-6)


def test_immich_finds_one_output_of_length_one(immich: Path) -> None:
    for tower, name, kind in (("visual", "image", "tensor(float)"), ("textual", "text", "tensor(int32)")):
        session = onnxruntime.InferenceSession(immich / tower / "model.onnx")
        assert [(i.name, i.type) for i in session.get_inputs()] == [(name, kind)]
        assert [o.name for o in session.get_outputs()] == ["embedding"]
    found = run(immich / "visual" / "model.onnx", image=np.ones((3, 3, 64, 64), np.float32))
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_another_scale_of_bytes_is_put_into_immichs_own(broken: Path, tmp_path: Path) -> None:
    one = (1.0, 1.0, 1.0)
    rewrite(broken, lambda c: replace(c, image=replace(c.image, rescale=2 / 255, mean=one, std=one)))
    folder = written(broken, tmp_path / "layout", Layout.IMMICH)
    image = load_image(PHOTOS[0], ImageOptions())
    np.testing.assert_allclose(immich_pixels(folder, image), Siglip.load(broken).images([image]), atol=5e-7)


def test_what_immich_cannot_prepare_is_refused(broken: Path, tmp_path: Path) -> None:
    rewrite(broken, lambda c: replace(c, image=replace(c.image, channel_order="BGR")))
    with pytest.raises(ExportError, match="64 x 64 BGR"):
        written(broken, tmp_path / "layout", Layout.IMMICH)


# --- Triton ------------------------------------------------------------------------------------------------------

TYPES = {"TYPE_FP32": "tensor(float)", "TYPE_INT64": "tensor(int64)", "TYPE_UINT8": "tensor(uint8)"}


@pytest.fixture(scope="module")
def triton(artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(artifact, tmp_path_factory.mktemp("triton") / "models", Layout.TRITON)


def tensors(config: str, field: str) -> list[tuple[str, str, list[int]]]:
    found = re.findall(rf'^{field} \[ {{ name: "(\w+)" data_type: (\w+) dims: \[ ([-\d, ]+) \] }} \]$', config, re.M)
    return [(name, TYPES[kind], [int(d) for d in dims.split(",")]) for name, kind, dims in found]


@pytest.mark.parametrize("name", ["siglip_vision", "siglip_text", "siglip_preprocess"])
def test_tritons_configuration_is_what_the_graph_says(triton: Path, name: str) -> None:
    config = (triton / name / "config.pbtxt").read_text()
    assert f'name: "{name}"' in config
    batched = "max_batch_size: 0" not in config
    assert batched == ("dynamic_batching" in config)
    session = onnxruntime.InferenceSession(triton / name / "1" / "model.onnx")
    for field, values in (("input", session.get_inputs()), ("output", session.get_outputs())):
        real = [(v.name, v.type, [d if isinstance(d, int) else -1 for d in v.shape]) for v in values]
        told = tensors(config, field)
        assert real == [(n, kind, [-1, *dims] if batched else dims) for n, kind, dims in told]


def test_tritons_ensemble_gives_our_embedding_of_an_image(triton: Path, model: Siglip) -> None:
    config = (triton / "siglip_image" / "config.pbtxt").read_text()
    assert (triton / "siglip_image" / "1").is_dir()
    steps = re.findall(
        r'model_name: "(\w+)"\s+model_version: -1\s+input_map { key: "(\w+)" value: "(\w+)" }'
        r'\s+output_map { key: "(\w+)" value: "(\w+)" }',
        config,
    )
    assert [step[0] for step in steps] == ["siglip_preprocess", "siglip_vision"]
    ((taken, _, _),), ((given, _, shape),) = tensors(config, "input"), tensors(config, "output")
    for path in PHOTOS:
        image = load_image(path, ImageOptions())
        known = {taken: np.asarray(image)}
        for name, input_name, source, output_name, target in steps:
            session = onnxruntime.InferenceSession(triton / name / "1" / "model.onnx")
            known[target] = session.run([output_name], {input_name: known[source]})[0]
        assert list(known[given].shape) == shape
        assert known[given][0] @ model.encode_image([image])[0] > 0.9999


def test_triton_may_form_batches(triton: Path, model: Siglip) -> None:
    pixels = model.images(PHOTOS)
    found = run(triton / "siglip_vision" / "1" / "model.onnx", pixel_values=pixels)
    np.testing.assert_allclose(found, model.encode_image(PHOTOS), atol=2e-6)
    ids = model.tokenizer(TEXTS)
    found = run(triton / "siglip_text" / "1" / "model.onnx", input_ids=ids)
    alone = [run(triton / "siglip_text" / "1" / "model.onnx", input_ids=row[None])[0] for row in ids]
    np.testing.assert_allclose(found, alone, atol=2e-6)


def test_a_filter_that_a_graph_cannot_have_is_refused(broken: Path, tmp_path: Path) -> None:
    rewrite(broken, lambda c: replace(c, image=replace(c.image, filter="lanczos")))
    with pytest.raises(ExportError, match="'lanczos'"):
        written(broken, tmp_path / "layout", Layout.TRITON)
    assert not (tmp_path / "layout").exists()


def test_a_batch_that_is_fixed_is_refused_for_triton(broken: Path, tmp_path: Path) -> None:
    path = broken / "onnx" / "text_model.onnx"
    text = ir.load(path)
    text.graph.inputs[0].shape = ir.Shape([1, 64])
    ir.save(text, path)
    rewrite(broken)
    with pytest.raises(ExportError, match="has a fixed batch"):
        written(broken, tmp_path / "layout", Layout.TRITON)


# --- Optimum -----------------------------------------------------------------------------------------------------


def test_optimum_finds_the_joint_graph_and_its_files_side_by_side(
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
    wanted = model.logits(model.encode_image(PHOTOS), model.encode_text(["a bear", "pizza"]))
    np.testing.assert_allclose(logits, wanted, atol=1e-4)


# --- another precision, and the command line ---------------------------------------------------------------------


def test_another_precision_has_its_own_weights_under_the_usual_names(emoji: Path, pairs: Path, tmp_path: Path) -> None:
    quantize(emoji, RECIPES[Precision.INT8](), QuantizeRequest(data=pairs), progress=quiet)
    model = Siglip.load(emoji, "int8")
    for layout, graph in ((Layout.IMMICH, "visual/model.onnx"), (Layout.OPTIMUM, "vision_model.onnx")):
        folder = written(emoji, tmp_path / layout, layout, Precision.INT8)
        assert {path.name for path in weights(folder)} == {"vision_model_int8.onnx_data", "text_model_int8.onnx_data"}
        assert onnxruntime.InferenceSession(folder / graph)
    found = run(tmp_path / "immich" / "visual" / "model.onnx", image=model.images(PHOTOS[:1]))
    np.testing.assert_allclose(found, model.encode_image(PHOTOS[:1]), atol=2e-6)
    assert (tmp_path / "optimum" / "model.onnx").exists()


def test_the_command_line_writes_a_layout(artifact: Path, tmp_path: Path, command: Command) -> None:
    done = command("layout", artifact, tmp_path / "models", "--layout", "triton", "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["own_bytes"] < 1_000_000 < told["bytes"]
    assert (tmp_path / "models" / "siglip_image" / "config.pbtxt").exists()
    again = cli("layout", artifact, tmp_path / "models", "--layout", "triton")
    assert (again.code, is_one_paragraph(again.err)) == (ExportError.exit_code, True)
    assert command("layout", artifact, tmp_path / "models", "--layout", "immich", "--overwrite").code == 0
