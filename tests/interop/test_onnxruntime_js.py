"""onnxruntime-node, and onnxruntime-web (WASM) in headless Chromium: the graphs themselves."""

from __future__ import annotations

import pytest

from siglip_onnx.runtime import Artifact
from siglip_onnx.runtime.artifact.contract import Precision

from . import consumers, environments
from .answers import Answers
from .compare import Comparison
from .consumers import Json, Samples


@pytest.fixture(scope="module")
def node(artifact: Artifact, graphs: Json, samples: Samples, tmp_path_factory: pytest.TempPathFactory) -> Json:
    """What onnxruntime-node says of every variant, asked once."""
    job = {**samples.job(), "folder": str(artifact.folder), "variants": graphs}
    return consumers.node("onnxruntime_node.mjs", job, tmp_path_factory.mktemp("node"))


@pytest.fixture(scope="module")
def page(artifact: Artifact, graphs: Json, samples: Samples, tmp_path_factory: pytest.TempPathFactory) -> Json:
    """What onnxruntime-web says of every variant, asked once."""
    job = {**samples.job(), "folder": str(artifact.folder), "variants": graphs}
    job["chromium"] = str(environments.browser())
    return consumers.node("onnxruntime_web.mjs", job, tmp_path_factory.mktemp("page"))


@pytest.mark.parametrize("precision", Precision)
def test_node_gives_our_answers(node: Json, precision: Precision, comparison: Comparison) -> None:
    answer = node["variants"][precision]
    assert "error" not in answer, answer["error"]
    comparison.graphs("onnxruntime-node", node["version"], precision, Answers.read(answer))


@pytest.mark.parametrize("precision", Precision)
def test_chromium_gives_our_answers(page: Json, precision: Precision, comparison: Comparison) -> None:
    answer = page["variants"][precision]
    assert "error" not in answer, answer["error"]
    assert answer["problems"] == []
    comparison.graphs("onnxruntime-web, Chromium", answer["version"], precision, Answers.read(answer))
