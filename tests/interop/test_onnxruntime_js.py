"""onnxruntime-node, and onnxruntime-web (WASM) in headless Chromium: the graphs themselves."""

from __future__ import annotations

import pytest

from siglip_onnx.runtime import Artifact
from siglip_onnx.runtime.artifact.contract import Precision

from . import consumers, environments
from .compare import Comparison
from .consumers import ConsumerSamples, Json
from .outputs import ConsumerOutputs


@pytest.fixture(scope="module")
def node(artifact: Artifact, graphs: Json, samples: ConsumerSamples, tmp_path_factory: pytest.TempPathFactory) -> Json:
    """Results of onnxruntime-node for every variant."""
    job = {**samples.job(), "folder": str(artifact.folder), "variants": graphs}
    return consumers.node("onnxruntime_node.mjs", job, tmp_path_factory.mktemp("node"))


@pytest.fixture(scope="module")
def page(artifact: Artifact, graphs: Json, samples: ConsumerSamples, tmp_path_factory: pytest.TempPathFactory) -> Json:
    """Results of onnxruntime-web for every variant."""
    job = {**samples.job(), "folder": str(artifact.folder), "variants": graphs}
    job["chromium"] = str(environments.browser())
    return consumers.node("onnxruntime_web.mjs", job, tmp_path_factory.mktemp("page"))


@pytest.mark.parametrize("precision", Precision)
def test_node_matches(node: Json, precision: Precision, comparison: Comparison) -> None:
    result = node["variants"][precision]
    assert "error" not in result, result["error"]
    comparison.graphs("onnxruntime-node", node["version"], precision, ConsumerOutputs.read(result))


@pytest.mark.parametrize("precision", Precision)
def test_chromium_matches(page: Json, precision: Precision, comparison: Comparison) -> None:
    result = page["variants"][precision]
    assert "error" not in result, result["error"]
    assert result["problems"] == []
    comparison.graphs("onnxruntime-web, Chromium", result["version"], precision, ConsumerOutputs.read(result))
