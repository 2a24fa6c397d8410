"""The users' API, without PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from siglip_onnx.runtime import Label, Siglip
from siglip_onnx.runtime.artifact.contract import Role
from siglip_onnx.runtime.errors import ArtifactError, InputError

from ..conftest import EVAL

PAIRS = [json.loads(line) for line in (EVAL / "captions.jsonl").read_text("utf-8").splitlines()]
SEEN = [row for row in PAIRS if row["image"].startswith("distorted")]
UNSEEN = [row for row in PAIRS if row["image"].startswith("held-out")]
LABELS = (EVAL / "labels.txt").read_text("utf-8").splitlines()


def test_importing_the_runtime_does_not_import_torch_transformers_or_onnx() -> None:
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import siglip_onnx.runtime"],
        capture_output=True,
        text=True,
        check=True,
    )
    names = {line.rpartition("|")[2].strip().partition(".")[0] for line in run.stderr.splitlines()}
    assert "siglip_onnx" in names
    assert not names & {"torch", "transformers", "onnx", "onnx_ir", "onnxscript", "huggingface_hub", "jinja2", "scipy"}


def test_classifying_does_not_import_torch_transformers_or_onnx(artifact: Path) -> None:
    code = (
        "import sys; from siglip_onnx.runtime import Siglip; from pathlib import Path;"
        f"Siglip.load({str(artifact)!r}).classify([{str(EVAL / PAIRS[0]['image'])!r}], ['a', 'b']);"
        "print(sorted({'torch', 'transformers', 'onnx', 'onnx_ir'} & set(sys.modules)))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_cold_start_takes_less_than_two_seconds(artifact: Path) -> None:
    command = [sys.executable, "-m", "siglip_onnx", "classify", artifact, EVAL / PAIRS[0]["image"], "--label", "bear"]
    times = []
    for _ in range(3):
        started = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.monotonic() - started)
    assert min(times) < 2


def top1(model: Siglip, rows: list[dict[str, str]]) -> float:
    texts = model.encode_text(LABELS)
    logits = model.logits(model.encode_image([EVAL / row["image"] for row in rows]), texts)
    return float(np.mean([LABELS[best] == row["text"] for best, row in zip(logits.argmax(1), rows, strict=True)]))


def test_trained_model_classifies_images(model: Siglip) -> None:
    assert top1(model, SEEN) >= 0.8
    assert top1(model, UNSEEN) >= 0.1  # 200 times chance, on a style that is not in the training data


def test_classify_sorts_labels_by_probability(model: Siglip) -> None:
    image, answer = EVAL / SEEN[0]["image"], SEEN[0]["text"]
    ranked = model.classify([image, image], [*LABELS[:20], answer])
    assert ranked[0] == ranked[1]
    assert isinstance(ranked[0][0], Label)
    assert ranked[0][0].label == answer
    probabilities = [label.probability for label in ranked[0]]
    assert probabilities == sorted(probabilities, reverse=True)
    assert all(0 <= p <= 1 for p in probabilities)


def test_template_changes_the_prompt(model: Siglip) -> None:
    image = EVAL / SEEN[0]["image"]
    plain, framed = (model.classify([image], ["bear"], template=t)[0][0] for t in ("{}", "an emoji of {}"))
    assert plain.label == framed.label == "bear"
    assert plain.probability != framed.probability
    with pytest.raises(InputError, match=r"has no \{\}"):
        model.classify([image], ["bear"], template="an emoji")


def test_embeddings_have_length_one_by_default(model: Siglip) -> None:
    images = [EVAL / row["image"] for row in PAIRS[:3]]
    unit, raw = model.encode_image(images), model.encode_image(images, normalize=False)
    assert unit.shape == raw.shape == (3, 192)
    assert unit.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    assert not np.allclose(np.linalg.norm(raw, axis=1), 1, atol=1e-3)


def test_logits_are_scaled_cosines_and_probabilities_their_sigmoid(model: Siglip) -> None:
    images, texts = model.encode_image([EVAL / PAIRS[0]["image"]]), model.encode_text(LABELS[:50])
    scale, bias = model.contract.logits.scale, model.contract.logits.bias
    np.testing.assert_allclose(model.logits(images, texts), scale * (images @ texts.T) + bias, rtol=1e-5)
    np.testing.assert_allclose(
        model.probabilities(images, texts), 1 / (1 + np.exp(-model.logits(images, texts))), rtol=1e-5
    )


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_batch_size_does_not_change_embeddings(model: Siglip, batch_size: int) -> None:
    texts = LABELS[:20]
    np.testing.assert_allclose(model.encode_text(texts, batch_size=batch_size), model.encode_text(texts), atol=1e-6)


def test_threads_share_a_model(artifact: Path) -> None:
    model = Siglip.load(artifact)  # the towers are not loaded yet, so the threads race
    expected = Siglip.load(artifact).encode_text(LABELS[:8])
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: model.encode_text(LABELS[:8]), range(16)))
    assert all(np.array_equal(result, expected) for result in results)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.encode_text([]), "got an empty one"),
        (lambda m: m.encode_text("a cat"), "list of texts, got str"),
        (lambda m: m.encode_image(EVAL / "labels.txt"), "list of images, got PosixPath"),
        (lambda m: m.encode_image(np.zeros((64, 64, 3), np.uint8)), "list of images, got ndarray"),
        (lambda m: m.classify([EVAL / "x"], "cat"), "list of labels, got str"),
        (lambda m: m.classify([EVAL / "x"], [1, 2]), "must be a string, got int"),
        (lambda m: m.encode_text(["a"], batch_size=0), "batch_size must be at least 1, got 0"),
        (lambda m: m.encode_text([None]), "must be a string"),
        (lambda m: m.encode_image([EVAL / "nowhere.png"]), "nowhere.png cannot be read"),
        (lambda m: m.encode(Role.VISION, np.zeros((1, 3, 32, 32), np.float32)), r"got float32 \[1, 3, 32, 32\]"),
        (lambda m: m.encode(Role.VISION, np.zeros((1, 3, 64, 64))), "got float64"),
        (lambda m: m.encode(Role.TEXT, np.zeros((1, 63), np.int64)), r"got int64 \[1, 63\]"),
        (lambda m: m.session(Role.TEXT).run({}), "got nothing"),
    ],
)
def test_invalid_input_is_refused(model: Siglip, call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(InputError, match=message):
        call(model)


def test_unknown_names_list_the_known_ones(artifact: Path) -> None:
    with pytest.raises(InputError, match="Use one of: fp32, fp16"):
        Siglip.load(artifact, precision="fp23")
    with pytest.raises(InputError, match="Use one of: cpu"):
        Siglip.load(artifact, provider="gpu")
    with pytest.raises(ArtifactError, match="no vision graph at fp16"):
        Siglip.load(artifact, precision="fp16")


def test_importing_bulk_does_not_import_torch_arrow_or_ray() -> None:
    code = "import sys, siglip_onnx.runtime.bulk, siglip_onnx.cli.embed, siglip_onnx.cli.search;"
    code += "print(sorted({'torch', 'transformers', 'onnx', 'pyarrow', 'ray', 'faiss', 'pandas'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
