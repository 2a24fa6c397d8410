"""Fixtures: an artifact with every variant, samples, our own outputs, and the record of what was proved."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from numpy.typing import ArrayLike
from PIL import Image

from siglip_onnx.quantize import RECIPES, QuantizeRequest, quantize
from siglip_onnx.runtime import Artifact, Siglip
from siglip_onnx.runtime.arrays import Float64Array
from siglip_onnx.runtime.artifact.contract import Precision, Role
from tests.conftest import EVAL, quiet
from tests.support.shared import is_worker, shared_folder

from . import table
from .compare import Comparison
from .consumers import ConsumerSamples, Json
from .outputs import ConsumerOutputs, array, sigmoid
from .proofs import Prove, ProveUnsupported, proving, proving_unsupported

SAMPLES: Final = 8
TEMPLATE: Final = "an emoji of {}"


def pytest_sessionstart() -> None:
    """Forget the rows of the last run, before the workers of this one add theirs."""
    if not is_worker():
        table.RECORD.unlink(missing_ok=True)


def usual_texts() -> list[str]:
    """Every label of the evaluation set, and texts as users type them; every tokenizer must give the same ids."""
    typed = ["", " ", "A Photo of a BEAR!", "it's  a\ttab,   or two\n", "x", "</s>", "the end</s> of", "ab-cd_ef (gh)"]
    return [*(EVAL / "labels.txt").read_text().splitlines(), *typed]


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory, passed: Path, pairs: Path) -> Artifact:
    """The bundled checkpoint, exported with every variant; tests must not change it."""

    def build(folder: Path) -> None:
        shutil.copytree(passed, folder)
        for kind in RECIPES.values():
            quantize(folder, kind(), QuantizeRequest(data=pairs), progress=quiet)

    return Artifact.open(shared_folder(tmp_path_factory, "variants", build))


@pytest.fixture(scope="session")
def samples(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> ConsumerSamples:
    """Images of exactly the model's size with their captions."""
    folder = tmp_path_factory.mktemp("samples")
    spec = artifact.contract.image
    lines = [json.loads(line) for line in (EVAL / "captions.jsonl").read_text().splitlines()]
    chosen = lines[:: len(lines) // SAMPLES][:SAMPLES]
    for number, line in enumerate(chosen):
        with Image.open(EVAL / line["image"]) as image:
            resized = image.convert("RGB").resize((spec.width, spec.height), Image.Resampling.BICUBIC)
        resized.save(folder / f"{number}.png")
    images = tuple(folder / f"{number}.png" for number in range(len(chosen)))
    texts = tuple(line["text"] for line in chosen)
    assert len(set(texts)) == SAMPLES
    model = Siglip.load(artifact.folder)
    pixels = np.stack([model.images.one(path) for path in images])
    return ConsumerSamples(images, texts, TEMPLATE, pixels, model.tokenizer(texts), folder)


@pytest.fixture(scope="session")
def ours(artifact: Artifact, samples: ConsumerSamples) -> Callable[[Precision], ConsumerOutputs]:
    """Our outputs at a precision, for the samples as one batch."""

    @cache
    def outputs(precision: Precision) -> ConsumerOutputs:
        with Siglip.load(artifact.folder, precision) as model:
            images, texts = model.encode(Role.VISION, samples.pixels), model.encode(Role.TEXT, samples.ids)
        return ConsumerOutputs(array(images), array(texts), probabilities(artifact, images, texts))

    return outputs


@pytest.fixture(scope="session")
def classified(artifact: Artifact, samples: ConsumerSamples) -> Callable[[Precision], Float64Array]:
    """Our probabilities at a precision, of the texts in the template, image by image as pipelines run."""

    @cache
    def outputs(precision: Precision) -> Float64Array:
        with Siglip.load(artifact.folder, precision) as model:
            images = np.concatenate([model.encode(Role.VISION, pixels[None]) for pixels in samples.pixels])
            filled = [samples.template.replace("{}", text) for text in samples.texts]
            texts = model.encode(Role.TEXT, model.tokenizer(filled))
        return probabilities(artifact, images, texts)

    return outputs


def probabilities(artifact: Artifact, images: ArrayLike, texts: ArrayLike) -> Float64Array:
    """Sigmoid of the contract's logits, [images, texts], in float64."""
    logits = artifact.contract.logits
    one, other = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (array(images), array(texts)))
    return sigmoid(logits.scale * (one @ other.T) + logits.bias)


@pytest.fixture(scope="session")
def graphs(artifact: Artifact) -> Json:
    """The portable graphs of each variant, with their data files."""
    return {
        variant.precision.value: {
            role.value: {"path": graph.path, "data": list(graph.data)} for role, graph in variant.graphs.items()
        }
        for variant in artifact.contract.variants
        if variant.target_provider is None
    }


@pytest.fixture(scope="session", autouse=True)
def record() -> Iterator[list[table.CompatibilityRow]]:
    """The rows of the table, added to the file when the session ends."""
    rows: list[table.CompatibilityRow] = []
    yield rows
    table.add(rows)


@pytest.fixture(scope="session")
def prove(record: list[table.CompatibilityRow]) -> Prove:
    """Assert that a difference is within its limit, and record it."""
    return proving(record)


@pytest.fixture(scope="session")
def unsupported(record: list[table.CompatibilityRow]) -> ProveUnsupported:
    """Assert that a consumer refuses a variant, and record it."""
    return proving_unsupported(record)


@pytest.fixture(scope="session")
def comparison(
    samples: ConsumerSamples,
    ours: Callable[[Precision], ConsumerOutputs],
    classified: Callable[[Precision], Float64Array],
    prove: Prove,
) -> Comparison:
    """Compare a consumer's outputs with ours."""
    return Comparison(samples, ours, classified, prove)
