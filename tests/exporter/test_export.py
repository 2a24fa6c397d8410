"""An export gives a complete artifact that computes the same and opens in every reader, or no artifact at all."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from safetensors.torch import load_file, save_file
from transformers import SiglipConfig, SiglipModel

from siglip_onnx.exporter import Checkpoint, export
from siglip_onnx.runtime import Siglip
from siglip_onnx.runtime.artifact.contract import Role
from siglip_onnx.runtime.errors import ArtifactError, CheckpointError, ExportError

from ..conftest import CHECKPOINT, LARGE, cli, is_one_paragraph, quiet

TINY = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}


def random_checkpoint(folder: Path, *, vision: dict[str, object], text: dict[str, object]) -> Path:
    """A checkpoint with random weights and the emoji vocabulary, as transformers writes it."""
    for name in ("spiece.model", "tokenizer_config.json", "preprocessor_config.json"):
        folder.mkdir(exist_ok=True)
        shutil.copy(CHECKPOINT / name, folder / name)
    torch.manual_seed(0)
    config = SiglipConfig(vision_config={**TINY, "image_size": 64, **vision}, text_config={**TINY, **text})
    model = SiglipModel(config)
    for parameter in model.parameters():  # transformers initializes many with zero, which would hide errors
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    edit(
        folder / "preprocessor_config.json",
        size={"height": config.vision_config.image_size, "width": config.vision_config.image_size},
    )
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that is traced in a few seconds, for tests in which its weights do not matter."""
    return random_checkpoint(tmp_path_factory.mktemp("small"), vision={"patch_size": 64}, text={"vocab_size": 2000})


def edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in {**content, **changes}.items() if v is not None}))


def same_as_transformers(checkpoint: Path, artifact: Path) -> None:
    reference = SiglipModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    model, rng = Siglip.load(artifact), np.random.default_rng(0)
    size, spec = model.contract.image.height, model.contract.tokenizer
    pixels = rng.uniform(-1, 1, (3, 3, size, size)).astype(np.float32)
    ids = rng.integers(0, spec.vocab_size, (5, spec.length))
    with torch.inference_mode():
        expected = reference(pixel_values=torch.from_numpy(pixels), input_ids=torch.from_numpy(ids))
    actual = model.session(Role.JOINT).run({"pixel_values": pixels, "input_ids": ids})
    for name in ("image_embeds", "text_embeds", "logits_per_image", "logits_per_text"):
        np.testing.assert_allclose(actual[name], expected[name].numpy(), atol=2e-5, rtol=2e-5)
    for role, output, inputs in (
        (Role.VISION, expected.vision_model_output, pixels),
        (Role.TEXT, expected.text_model_output, ids),
    ):
        run = model.session(role).run({model.session(role).graph.inputs[0].name: inputs})
        np.testing.assert_allclose(run["last_hidden_state"], output.last_hidden_state.numpy(), atol=1e-4, rtol=1e-4)
        np.testing.assert_allclose(run["pooler_output"], output.pooler_output.numpy(), atol=1e-4, rtol=1e-4)


def test_trained_model_matches_transformers(artifact: Path) -> None:
    same_as_transformers(CHECKPOINT, artifact)


@pytest.mark.parametrize(
    ("vision", "text"),
    [
        pytest.param({"patch_size": 16}, {"vocab_size": 2000}, id="two heads"),
        pytest.param(
            {"image_size": 70, "patch_size": 16},
            {"vocab_size": 2000},
            id="image with a remainder",
        ),
        pytest.param(
            {"patch_size": 32, "hidden_act": "gelu"},
            {
                "vocab_size": 2000,
                "hidden_size": 24,
                "num_attention_heads": 3,
                "projection_size": 32,
                "hidden_act": "gelu",
            },
            id="towers of different width, erf gelu",
        ),
    ],
)
def test_other_shapes_match_transformers(tmp_path: Path, vision: dict, text: dict) -> None:
    checkpoint = random_checkpoint(tmp_path / "checkpoint", vision=vision, text=text)
    export(checkpoint, tmp_path / "artifact", progress=quiet)
    same_as_transformers(checkpoint, tmp_path / "artifact")


def test_shards_and_bfloat16_are_read(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(tmp_path / "checkpoint", vision={"patch_size": 32}, text={"vocab_size": 2000})
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(checkpoint / "model.safetensors").items()}
    (checkpoint / "model.safetensors").unlink()
    names = sorted(tensors)
    files = {f"model-0000{i}-of-00003.safetensors": names[i::3] for i in range(3)}
    for file, part in files.items():
        save_file({name: tensors[name] for name in part}, checkpoint / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in files.items() for name in part}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    export(checkpoint, tmp_path / "artifact", progress=quiet)
    same_as_transformers(checkpoint, tmp_path / "artifact")


def test_graphs_have_no_superfluous_nodes(artifact: Path) -> None:
    layers = {"vision": 6, "text": 3}
    for tower, count in layers.items():
        graph = onnx.load(artifact / f"onnx/{tower}_model.onnx", load_external_data=False).graph
        kinds = Counter(node.op_type for node in graph.node)
        assert {node.domain for node in graph.node} <= {"", "ai.onnx"}
        assert not kinds.keys() & {"Shape", "Slice", "Concat", "Identity", "Cast", "Constant", "Unsqueeze", "Expand"}
        blocks = count + (tower == "vision")  # the pooling head also has attention and an MLP
        assert kinds["Softmax"] == kinds["Gelu"] == kinds["Split"] == blocks
        assert kinds["MatMul"] == 6 * blocks + 1  # queries, keys and values share one


def test_graphs_pass_the_onnx_checker_and_reference_evaluator(artifact: Path, model: Siglip) -> None:
    for name in ("vision_model", "text_model", "model"):
        onnx.checker.check_model(artifact / f"onnx/{name}.onnx", full_check=True)
    ids = model.tokenizer(["grinning face", "a cat"])
    actual = ReferenceEvaluator(str(artifact / "onnx/text_model.onnx")).run(["pooler_output"], {"input_ids": ids})[0]
    np.testing.assert_allclose(actual, model.encode(Role.TEXT, ids), atol=1e-5)


def test_joint_graph_shares_the_towers_data_files(artifact: Path) -> None:
    joint = onnx.load(artifact / "onnx/model.onnx", load_external_data=False)
    used = {e.value for t in joint.graph.initializer for e in t.external_data if e.key == "location"}
    assert used == {"vision_model.onnx_data", "text_model.onnx_data"}
    assert (artifact / "onnx/model.onnx").stat().st_size < 200_000
    assert [o.name for o in joint.graph.output] == [
        "logits_per_image",
        "logits_per_text",
        "text_embeds",
        "image_embeds",
    ]


def test_only_the_batch_is_dynamic(artifact: Path) -> None:
    graph = onnx.load(artifact / "onnx/vision_model.onnx", load_external_data=False).graph
    dims = [d.dim_param or d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
    assert dims == ["batch", 3, 64, 64]


def test_configuration_files_suit_other_readers(artifact: Path) -> None:
    tokenizer = json.loads((artifact / "tokenizer_config.json").read_text())
    assert tokenizer["tokenizer_class"] == "SiglipTokenizer"
    assert (tokenizer["model_max_length"], tokenizer["pad_token"]) == (64, "</s>")
    assert json.loads((artifact / "config.json").read_text())["model_type"] == "siglip"
    assert (
        json.loads((artifact / "preprocessor_config.json").read_text())["image_processor_type"]
        == "SiglipImageProcessor"
    )


def test_published_config_gives_the_published_parameter_counts() -> None:
    from siglip_onnx.exporter.checkpoint.config import read_config
    from siglip_onnx.exporter.checkpoint.expected_shapes import expected_shapes

    shapes = expected_shapes(read_config(LARGE))
    towers = Counter[str]()
    for name, shape in shapes.items():
        towers[name.split("_model")[0]] += int(np.prod(shape))
    assert towers["vision"] == 316_283_904  # the published counts
    assert towers["text"] == 336_194_560
    assert sum(towers.values()) == 652_478_466


# --- invalid checkpoints -----------------------------------------------------------------------------------------


def drop_tensor(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["vision_model.head.probe"]
    tensors["stranger"] = torch.zeros(2)
    tensors["logit_bias"] = torch.zeros(1, dtype=torch.int64)
    tensors["text_model.head.bias"] = torch.zeros(3)
    save_file(tensors, folder / "model.safetensors")


def truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def garble(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(b"\xff" * 8 + path.read_bytes()[8:])


def pickle_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


DAMAGE = {
    "truncated": (truncate, r"model\.safetensors is truncated or damaged"),
    "garbled header": (garble, r"model\.safetensors is truncated or damaged"),
    "wrong tensors": (
        drop_tensor,
        r"1 missing: vision_model\.head\.probe.*1 unexpected: stranger.*with a wrong shape.*I64",
    ),
    "pickle only": (pickle_only, r"pytorch_model\.bin may hold code"),
    "no config": (lambda f: (f / "config.json").unlink(), r"config\.json cannot be read"),
    "no tokenizer": (lambda f: (f / "spiece.model").unlink(), r"spiece\.model cannot be read"),
    "no processor": (lambda f: (f / "preprocessor_config.json").unlink(), r"preprocessor_config\.json cannot be read"),
    "broken vocabulary": (lambda f: (f / "spiece.model").write_bytes(b"no model"), r"not a sentencepiece model"),
    "broken json": (
        lambda f: (f / "config.json").write_text("{"),
        r"config\.json is damaged or has an unsupported",
    ),
    "a CLIP checkpoint": (lambda f: edit(f / "config.json", model_type="clip"), r"of type 'clip'.*Nearest"),
    "heads that do not divide": (
        lambda f: edit(f / "config.json", vision_config={"hidden_size": 192, "num_attention_heads": 5}),
        r"5 attention heads",
    ),
    "an unknown activation": (
        lambda f: edit(f / "config.json", vision_config={"hidden_act": "relu"}),
        r"config\.json is damaged or has an unsupported.*hidden_act",
    ),
    "another size": (lambda f: edit(f / "preprocessor_config.json", size={"height": 224, "width": 224}), r"224 x 224"),
    "another processor": (
        lambda f: edit(f / "preprocessor_config.json", image_processor_type="CLIPImageProcessor"),
        r"CLIPImageProcessor",
    ),
    "a text of one token": (lambda f: edit(f / "tokenizer_config.json", model_max_length=1), r"model_max_length: 1"),
    "an added token": (
        lambda f: edit(f / "tokenizer_config.json", added_tokens_decoder={"9": {"content": "<new>"}}),
        r"<new>",
    ),
    "another tokenizer": (
        lambda f: edit(f / "tokenizer_config.json", tokenizer_class="BertTokenizer"),
        r"BertTokenizer",
    ),
    "a missing SigLIP 2 vocabulary": (
        lambda f: edit(f / "tokenizer_config.json", tokenizer_class="GemmaTokenizer"),
        r"tokenizer\.json cannot be read",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_checkpoint_is_refused_and_nothing_is_written(checkpoint: Path, tmp_path: Path, name: str) -> None:
    damage, message = DAMAGE[name]
    damage(checkpoint)
    with pytest.raises(CheckpointError, match=f"(?s){message}"):
        export(checkpoint, tmp_path / "artifact", progress=quiet)
    assert not list(tmp_path.glob("*artifact*"))


def test_index_with_a_path_outside_the_folder_is_refused(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    index = {"weight_map": {"logit_scale": "../other.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="outside its folder"):
        Checkpoint.open(checkpoint)


def test_unavailable_hub_id_gives_one_paragraph(tmp_path: Path) -> None:
    run = cli("export", "nobody/no-such-model", tmp_path / "a", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hub"))
    assert run.code == CheckpointError.exit_code
    assert is_one_paragraph(run.err)
    assert "nobody/no-such-model" in run.err


@pytest.mark.gate
def test_cached_hub_id_is_found_offline(small: Path, tmp_path: Path) -> None:
    commit = "0" * 40
    repository = tmp_path / "hub" / "hub" / "models--me--emoji"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(small, repository / "snapshots" / commit)
    run = cli("export", "me/emoji", tmp_path / "a", "--json", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hub"))
    assert run.code == 0, run.err
    assert json.loads(run.out)["name"] == "me/emoji"


# --- unwritable folders and interruptions -----------------------------------------------------------------------


def test_existing_folder_is_kept_without_overwrite(tmp_path: Path, artifact: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ExportError, match="already exists"):
        export(CHECKPOINT, tmp_path / "mine", progress=quiet)
    with pytest.raises(ArtifactError, match="not an artifact"):
        export(CHECKPOINT, tmp_path / "mine", overwrite=True, progress=quiet)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_checkpoint_is_never_overwritten_by_its_artifact(checkpoint: Path) -> None:
    with pytest.raises(ExportError, match="would replace its own source"):
        export(checkpoint, checkpoint, overwrite=True, progress=quiet)


def test_file_as_parent_folder_gives_one_paragraph(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = cli("export", CHECKPOINT, tmp_path / "file" / "artifact")
    assert (run.code, is_one_paragraph(run.err)) == (ExportError.exit_code, True), run.err


def test_unwritable_folder_gives_one_paragraph() -> None:
    run = cli("export", CHECKPOINT, "/proc/siglip-artifact")  # not even root can write there
    assert (run.code, is_one_paragraph(run.err)) == (ExportError.exit_code, True), run.err


def test_too_little_disk_space_is_found_before_exporting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ExportError, match=r"only 0\.00 GB left"):
        export(CHECKPOINT, tmp_path / "artifact", progress=quiet)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gate
def test_full_disk_leaves_no_files(small: Path, tmp_path: Path) -> None:
    """A limit on file sizes stops the export while it writes weights, like a full disk."""
    run = subprocess.run(
        [sys.executable, "-m", "siglip_onnx", "export", small, tmp_path / "artifact"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == ExportError.exit_code, run.stderr
    assert is_one_paragraph(run.stderr)
    assert list(tmp_path.iterdir()) == []


def interrupted(checkpoint: Path, target: Path, sent: signal.Signals) -> int:
    """Export in another process, send it a signal while it writes weights, and return its exit code."""
    process = subprocess.Popen(
        [sys.executable, "-m", "siglip_onnx", "export", checkpoint, target],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        # tests that run in the background ignore SIGINT, and so would this process
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 120
    while not list(target.parent.glob(f".{target.name}.partial-*/onnx/vision_model.onnx_data")):
        assert process.poll() is None, "the export ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(sent)
    return process.wait(60)


@pytest.mark.gate
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_export_leaves_no_files(small: Path, tmp_path: Path, sent: signal.Signals, code: int) -> None:
    assert interrupted(small, tmp_path / "artifact", sent) == code
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gate
def test_killed_export_leaves_no_artifact_and_the_next_one_cleans_up(small: Path, tmp_path: Path) -> None:
    target = tmp_path / "artifact"
    assert interrupted(small, target, signal.SIGKILL) == -signal.SIGKILL
    assert not target.exists()
    export(small, target, progress=quiet)
    assert [path.name for path in tmp_path.iterdir()] == ["artifact"]
    Siglip.load(target).artifact.verify()
