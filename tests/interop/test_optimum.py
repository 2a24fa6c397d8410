"""Optimum: the artifact's folder as it is, and a flat folder as Optimum writes its own exports."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import pytest

from siglip_onnx.runtime import Artifact
from siglip_onnx.runtime.artifact.contract import Precision

from . import consumers, environments
from .compare import Comparison
from .consumers import Json, Samples

CONSUMER: Final = "optimum-onnx"
LAYOUTS: Final = ("the folder", "a flat folder")


@pytest.fixture(scope="module")
def flat(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Graphs, weights and configuration side by side."""
    folder = tmp_path_factory.mktemp("flat")
    for source in [*artifact.folder.glob("*.*"), *(artifact.folder / "onnx").iterdir()]:
        os.link(source, folder / source.name)
    return folder


@pytest.fixture(scope="module", params=LAYOUTS)
def said(
    request: pytest.FixtureRequest,
    artifact: Artifact,
    graphs: Json,
    flat: Path,
    samples: Samples,
    tmp_path_factory: pytest.TempPathFactory,
) -> Json:
    """What it says of every variant, asked once for each layout."""
    place = (
        {"model_id": str(flat)}
        if request.param == LAYOUTS[1]
        else {"model_id": str(artifact.folder), "subfolder": "onnx"}
    )
    variants = {name: {**place, "file_name": Path(of["joint"]["path"]).name} for name, of in graphs.items()}
    job = {**samples.job(), "variants": {**variants, "default": place}}
    answer = consumers.python(
        environments.python("optimum"), "optimum_answers.py", job, tmp_path_factory.mktemp("optimum")
    )
    return {**answer, "consumer": f"{CONSUMER}, {request.param}"}


@pytest.mark.parametrize("precision", Precision)
def test_it_gives_our_answers(said: Json, precision: Precision, comparison: Comparison) -> None:
    comparison.everything(said["consumer"], said["version"], precision, said["variants"][precision])


def test_without_a_name_it_takes_the_float32_graph(said: Json) -> None:
    assert said["variants"]["default"] == said["variants"]["fp32"]
