"""transformers 4 and 5 read the checkpoint and compute the same outputs as the artifact."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

from siglip_onnx.runtime import Artifact, Siglip
from siglip_onnx.runtime.artifact.contract import Precision
from tests.conftest import CHECKPOINT

from . import consumers, environments
from .compare import Comparison
from .conftest import usual_texts
from .consumers import ConsumerSamples, Json
from .outputs import ConsumerOutputs, array, difference
from .proofs import Prove
from .table import EVERY

CONSUMER: Final = "transformers"
PYTHONS: Final[dict[str, Callable[[], Path]]] = {
    "4": lambda: environments.python("optimum"),
    "5": lambda: Path(sys.executable),
}


@pytest.fixture(scope="module", params=PYTHONS)
def result(request: pytest.FixtureRequest, samples: ConsumerSamples, tmp_path_factory: pytest.TempPathFactory) -> Json:
    """Results of each version."""
    job = {**samples.job(), "checkpoint": str(CHECKPOINT), "tokenizer_texts": usual_texts()}
    result = consumers.python(
        PYTHONS[request.param](), "transformers_outputs.py", job, tmp_path_factory.mktemp("transformers")
    )
    assert result["version"].startswith(f"{request.param}.")
    return result


def test_outputs_match(result: Json, comparison: Comparison) -> None:
    comparison.graphs(CONSUMER, result["version"], Precision.FP32, ConsumerOutputs.read(result))


def test_pixels_match(result: Json, samples: ConsumerSamples, prove: Prove) -> None:
    prove(CONSUMER, result["version"], EVERY, "pixels", 0, difference(result["pixels"], samples.pixels))


def test_token_ids_match(result: Json, artifact: Artifact, prove: Prove) -> None:
    expected = Siglip.load(artifact.folder).tokenizer(usual_texts())
    prove(CONSUMER, result["version"], EVERY, "token ids", 0, difference(array(result["tokens"]), expected))
