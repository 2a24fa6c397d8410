"""Optimum opens the artifact's folder, and a flat folder like its own exports."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from siglip_onnx.runtime import Artifact
from siglip_onnx.runtime.artifact.contract import Precision

from . import consumers, environments
from .compare import Comparison
from .consumers import ConsumerSamples, Json

CONSUMER: Final = "optimum-onnx"
LAYOUTS: Final = ("artifact folder", "flat folder")


@pytest.fixture(scope="module")
def flat(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Graphs, weights and configuration in one folder."""
    folder = tmp_path_factory.mktemp("flat")
    for source in [*artifact.folder.glob("*.*"), *(artifact.folder / "onnx").iterdir()]:
        os.link(source, folder / source.name)
    return folder


@pytest.fixture(scope="module", params=LAYOUTS)
def results(
    request: pytest.FixtureRequest,
    artifact: Artifact,
    graphs: Json,
    flat: Path,
    samples: ConsumerSamples,
    tmp_path_factory: pytest.TempPathFactory,
) -> Json:
    """Results for every variant, in each layout."""
    source = (
        {"model_id": str(flat)}
        if request.param == LAYOUTS[1]
        else {"model_id": str(artifact.folder), "subfolder": "onnx"}
    )
    variants = {name: {**source, "file_name": Path(of["joint"]["path"]).name} for name, of in graphs.items()}
    job = {**samples.job(), "variants": {**variants, "default": source}}
    result = consumers.python(
        environments.python("optimum"), "optimum_outputs.py", job, tmp_path_factory.mktemp("optimum")
    )
    return {**result, "consumer": f"{CONSUMER}, {request.param}"}


@pytest.mark.parametrize("precision", Precision)
def test_optimum_matches(results: Json, precision: Precision, comparison: Comparison) -> None:
    comparison.everything(results["consumer"], results["version"], precision, results["variants"][precision])


def test_default_file_is_the_fp32_graph(results: Json) -> None:
    assert results["variants"]["default"] == results["variants"]["fp32"]
