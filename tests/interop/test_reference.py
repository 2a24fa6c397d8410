"""transformers 4 and 5: both read the checkpoint, and what they compute is what the artifact computes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from siglip_onnx.runtime import Artifact, Siglip
from siglip_onnx.runtime.artifact.contract import Precision

from . import consumers, environments
from .answers import Answers, array, difference
from .compare import Comparison
from .conftest import CHECKPOINT, usual_texts
from .consumers import Json, Samples
from .ledger import Prove
from .table import EVERY

CONSUMER: Final = "transformers"
PYTHONS: Final[dict[str, Callable[[], Path]]] = {
    "4": lambda: environments.python("optimum"),
    "5": lambda: Path(sys.executable),
}


@pytest.fixture(scope="module", params=PYTHONS)
def said(request: pytest.FixtureRequest, samples: Samples, tmp_path_factory: pytest.TempPathFactory) -> Json:
    """What it says, asked once for each version."""
    job = {**samples.job(), "checkpoint": str(CHECKPOINT), "tokenizer_texts": usual_texts()}
    answer = consumers.python(
        PYTHONS[request.param](), "reference_answers.py", job, tmp_path_factory.mktemp("reference")
    )
    assert answer["version"].startswith(f"{request.param}.")
    return answer


def test_it_gives_our_answers(said: Json, comparison: Comparison) -> None:
    comparison.graphs(CONSUMER, said["version"], Precision.FP32, Answers.read(said))


def test_its_pixels_are_ours(said: Json, samples: Samples, prove: Prove) -> None:
    prove(CONSUMER, said["version"], EVERY, "pixels", 0, difference(said["pixels"], samples.pixels))


def test_its_ids_are_ours(said: Json, artifact: Artifact, prove: Prove) -> None:
    expected = Siglip.load(artifact.folder).tokenizer(usual_texts())
    prove(CONSUMER, said["version"], EVERY, "token ids", 0, difference(array(said["tokens"]), expected))
