"""Weights of four libraries are detected and read alike; weights of other models are refused by name."""

from __future__ import annotations

import json
import struct
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import Siglip2Config, Siglip2Model, SiglipConfig, SiglipModel

from siglip_onnx.exporter import Checkpoint, Dialect
from siglip_onnx.exporter.checkpoint.config import read_config
from siglip_onnx.exporter.checkpoint.dialects import SUPPORTED
from siglip_onnx.exporter.checkpoint.expected_shapes import expected_shapes
from siglip_onnx.exporter.checkpoint.tensor_files import NpzStore
from siglip_onnx.runtime.errors import CheckpointError

from ..conftest import CHECKPOINT, cli, is_one_paragraph
from ..support.dialects import to_big_vision, to_open_clip, to_paddle
from ..support.family import MEMBERS, small

WRITERS = {
    "paddle": to_paddle,
    "open_clip": to_open_clip,
    "big_vision": to_big_vision,
    "big_vision, layers stacked": lambda source, target: to_big_vision(source, target, stacked=True),
    "big_vision, compressed": lambda source, target: to_big_vision(source, target, compressed=True),
}


def same_tensors(actual: Checkpoint, expected: Checkpoint) -> None:
    assert actual.config == expected.config
    for name in expected.weights.shapes:
        assert torch.equal(actual.weights.load(name), expected.weights.load(name)), name


@pytest.mark.parametrize("name", WRITERS)
def test_every_dialect_yields_the_same_tensors(tmp_path: Path, name: str) -> None:
    actual = Checkpoint.open(WRITERS[name](CHECKPOINT, tmp_path / "converted"))
    assert actual.weights.dialect == name.split(",")[0]
    same_tensors(actual, Checkpoint.open(CHECKPOINT))


@pytest.mark.parametrize(
    "name", ["siglip-so400m-patch14-384", "siglip2-giant-opt-patch16-384", "siglip2-base-patch16-naflex"]
)
@pytest.mark.parametrize("dialect", ["paddle", "big_vision", "big_vision, layers stacked"])
def test_family_members_are_read_in_every_dialect(tmp_path: Path, name: str, dialect: str) -> None:
    source = small(MEMBERS[name], tmp_path / "transformers")
    same_tensors(Checkpoint.open(WRITERS[dialect](source, tmp_path / "converted")), Checkpoint.open(source))


def test_big_vision_needs_no_config(tmp_path: Path) -> None:
    """The original release is one .npz and a vocabulary."""
    folder = to_big_vision(CHECKPOINT, tmp_path / "original")
    for path in folder.glob("*.json"):
        path.unlink()
    same_tensors(Checkpoint.open(folder), Checkpoint.open(CHECKPOINT))
    assert Checkpoint.open(folder).image == Checkpoint.open(CHECKPOINT).image
    assert Checkpoint.open(folder).tokenizer == Checkpoint.open(CHECKPOINT).tokenizer


def test_square_weights_follow_the_orientation_of_rectangular_ones(tmp_path: Path) -> None:
    """Queries, keys, values and outputs are square: only the other weights of the file show their orientation."""
    folder = to_paddle(CHECKPOINT, tmp_path / "paddle")
    name = "vision_model.encoder.layers.0.self_attn.q_proj.weight"
    stored, loaded = load_file(folder / "model.safetensors")[name], Checkpoint.open(folder).weights.load(name)
    assert stored.shape == loaded.shape
    assert torch.equal(loaded, stored.T)
    assert not torch.equal(loaded, stored)


def test_framework_metadata_does_not_decide_the_dialect(tmp_path: Path) -> None:
    folder = to_paddle(CHECKPOINT, tmp_path / "paddle")
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert Checkpoint.open(folder).weights.dialect is Dialect.PADDLE


def test_mixed_orientations_are_refused(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    name = "text_model.encoder.layers.1.mlp.fc1.weight"
    save_file({**tensors, name: tensors[name].T.contiguous()}, checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match="mix two orientations") as error:
        Checkpoint.open(checkpoint)
    assert name in str(error.value)


def test_explicit_dialect_must_fit_the_weights(tmp_path: Path) -> None:
    folder = to_paddle(CHECKPOINT, tmp_path / "paddle")
    assert Checkpoint.open(folder, Dialect.PADDLE).weights.dialect is Dialect.PADDLE
    with pytest.raises(CheckpointError, match=r"with a wrong shape: .*fc1"):
        Checkpoint.open(folder, Dialect.TRANSFORMERS)


def test_two_sets_of_weights_need_an_explicit_dialect(tmp_path: Path, checkpoint: Path) -> None:
    to_big_vision(CHECKPOINT, tmp_path / "converted")
    (tmp_path / "converted" / "weights.npz").rename(checkpoint / "weights.npz")
    with pytest.raises(CheckpointError, match=r"two sets of weights.*dialect"):
        Checkpoint.open(checkpoint)
    assert Checkpoint.open(checkpoint, Dialect.BIG_VISION).weights.dialect is Dialect.BIG_VISION
    assert Checkpoint.open(checkpoint, Dialect.TRANSFORMERS).weights.dialect is Dialect.TRANSFORMERS


def test_explicit_dialect_selects_its_file(tmp_path: Path, checkpoint: Path) -> None:
    converted = to_open_clip(CHECKPOINT, tmp_path / "converted")
    (converted / "open_clip_model.safetensors").rename(checkpoint / "open_clip_model.safetensors")
    with pytest.raises(CheckpointError, match=r"two sets of weights.*dialect"):
        Checkpoint.open(checkpoint)
    for dialect in (Dialect.OPEN_CLIP, Dialect.TRANSFORMERS):
        assert Checkpoint.open(checkpoint, dialect).weights.dialect is dialect


def test_mixed_names_are_refused(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / "model.safetensors")
    save_file({**tensors, "visual.trunk.patch_embed.proj.weight": torch.zeros(1)}, checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match="mix the names of open_clip and transformers"):
        Checkpoint.open(checkpoint)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("visual.conv1.weight", "a CLIP model of OpenAI or open_clip"),
        ("vision_model.embeddings.class_embedding", "a CLIP model of transformers"),
        ("model.layers.0.weight", "an unknown model"),
    ],
)
def test_other_models_are_reported_by_name(checkpoint: Path, name: str, message: str) -> None:
    save_file({name: torch.zeros(1)}, checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match=message) as error:
        Checkpoint.open(checkpoint)
    assert SUPPORTED in str(error.value)


def test_unsupported_architecture_reports_the_nearest_supported_model(checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "model_type": "clip"}))
    run = cli("export", checkpoint, tmp_path / "artifact")
    assert run.code == 5
    assert is_one_paragraph(run.err)
    assert "'clip'" in run.err
    assert "google/siglip-base-patch16-224" in run.err


def test_open_clip_with_unknown_heads_needs_a_config(tmp_path: Path) -> None:
    folder = to_open_clip(CHECKPOINT, tmp_path / "converted")
    (folder / "config.json").unlink()
    model = {
        "vision_cfg": {"image_size": 64, "timm_model_name": "vit_huge_patch8_siglip_64"},
        "text_cfg": {"context_length": 64, "heads": 2, "no_causal_mask": True, "pool_type": "last"},
    }
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model}))
    with pytest.raises(CheckpointError, match=r"attention heads of .*vit_huge_patch8_siglip_64' are not known"):
        Checkpoint.open(folder)


def test_open_clip_config_is_sufficient(tmp_path: Path) -> None:
    """timm's model name determines the heads, 64 channels each, and the exact GELU."""
    folder = to_open_clip(CHECKPOINT, tmp_path / "converted")
    (folder / "config.json").unlink()
    (folder / "preprocessor_config.json").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "pad_token": "</s>"}))
    model = {
        "vision_cfg": {"image_size": 64, "timm_model_name": "vit_base_patch8_siglip_64", "timm_pool": "map"},
        "text_cfg": {
            "context_length": 64,
            "heads": 2,
            "no_causal_mask": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
            "act_kwargs": {"approximate": "tanh"},
        },
    }
    preprocess = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": model, "preprocess_cfg": preprocess}))
    actual, expected = Checkpoint.open(folder), Checkpoint.open(CHECKPOINT)
    assert actual.config.text_config == expected.config.text_config
    assert actual.image == expected.image
    assert actual.tokenizer == expected.tokenizer
    assert replace(actual.config.vision_config, hidden_act="gelu_pytorch_tanh") == expected.config.vision_config
    assert actual.config.vision_config.hidden_act == "gelu"


@pytest.mark.parametrize("name", MEMBERS)
def test_expected_shapes_match_transformers_at_published_sizes(tmp_path: Path, name: str) -> None:
    """Full size, without weights: the expected tensors are those of transformers' own model."""
    member = MEMBERS[name]
    kind, config = (Siglip2Model, Siglip2Config) if member.naflex else (SiglipModel, SiglipConfig)
    published = config(vision_config=member.vision, text_config=member.text)
    published.save_pretrained(tmp_path)
    with torch.device("meta"):
        model = kind(published)
    actual = expected_shapes(read_config(tmp_path))
    assert actual == {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    if member.parameters is not None:
        assert sum(torch.Size(shape).numel() for shape in actual.values()) == member.parameters


def test_jax_bfloat16_is_read(tmp_path: Path) -> None:
    values = torch.randn(3, 5).to(torch.bfloat16)
    np.savez(
        tmp_path / "a.npz",
        x=values.view(torch.int16).numpy().view("V2"),
        y=np.asfortranarray(np.eye(3, 2, dtype="<f4")),
    )
    store = NpzStore(tmp_path / "a.npz")
    assert store.tensors["x"].dtype == "BF16"
    assert torch.equal(store.load("x"), values)
    assert np.array_equal(store.load("y").numpy(), np.eye(3, 2))


@pytest.mark.parametrize("compressed", [False, True])
def test_header_with_a_larger_size_than_the_entry_is_refused(tmp_path: Path, compressed: bool) -> None:
    """A header of a few bytes must not make the reader allocate terabytes."""
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000), }".ljust(117) + b"\n"
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + b"\0" * 64
    method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", method) as archive:
        archive.writestr("params/img/embedding/kernel.npy", member)
    with pytest.raises(CheckpointError, match="not the array of float32"):
        NpzStore(tmp_path / "bomb.npz")


def test_damaged_byte_in_an_archive_is_detected(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(400_000, "<f4"))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[600_000] ^= 66
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(CheckpointError, match="checksum"):
        NpzStore(tmp_path / "a.npz").load("x")


def test_layers_missing_from_the_config_are_reported(tmp_path: Path) -> None:
    folder = to_big_vision(CHECKPOINT, tmp_path / "converted", stacked=True)
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"]["num_hidden_layers"] = 5
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="6 layers, expected 5"):
        Checkpoint.open(folder)


@pytest.mark.parametrize(
    "name", ["siglip2-base-patch16-224", "siglip2-base-patch16-naflex", "siglip-so400m-patch14-384"]
)
def test_unknown_resize_is_refused(tmp_path: Path, name: str) -> None:
    folder = to_big_vision(small(MEMBERS[name], tmp_path / "transformers"), tmp_path / "converted")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match="do not determine how images are resized"):
        Checkpoint.open(folder)


def test_archive_with_wrong_ranks_gives_one_paragraph(tmp_path: Path) -> None:
    folder = to_big_vision(CHECKPOINT, tmp_path / "converted")
    with np.load(folder / "weights.npz") as arrays:
        flat = {n: a.reshape(a.shape[0], -1) if n.endswith("query/kernel") else a for n, a in arrays.items()}
    np.savez(folder / "weights.npz", **flat)
    (folder / "config.json").unlink()
    run = cli("export", folder, tmp_path / "artifact")
    assert (run.code, is_one_paragraph(run.err)) == (5, True), run.err


def test_pickles_in_archives_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(CheckpointError):
        NpzStore(tmp_path / "a.npz")


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_damaged_archives_are_refused_or_read_completely(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("npz")
    np.savez(folder / "a.npz", x=np.arange(12, dtype="<f4").reshape(3, 4), y=np.float32([1.5]))
    content = bytearray((folder / "a.npz").read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    (folder / "a.npz").write_bytes(content[: data.draw(st.integers(place, len(content)))])
    try:
        store = NpzStore(folder / "a.npz")
        for name in store.tensors:
            assert store.load(name).numel() == np.prod(store.tensors[name].shape)
    except CheckpointError:
        pass
