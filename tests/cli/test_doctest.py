"""The examples in docstrings of the runtime run, and print what they say."""

from __future__ import annotations

import doctest
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from siglip_onnx.runtime import Siglip, model
from siglip_onnx.runtime.artifact.contract import Role
from siglip_onnx.runtime.bulk import embed as embed_function
from siglip_onnx.runtime.bulk import embeddings_file, inputs
from siglip_onnx.runtime.engines import options
from siglip_onnx.runtime.preprocessing import image, prompts

from ..conftest import EVAL

MODULES = [model, options, prompts, image, embeddings_file, inputs]


def run(module: ModuleType, names: dict[str, object]) -> int:
    """How many examples of a module were run; all must hold."""
    count = 0
    runner = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    for found in doctest.DocTestFinder().find(module, extraglobs=names):
        result = runner.run(found)
        assert result.failed == 0, found.name
        count += result.attempted
    return count


def test_examples_hold(passed: Path, tmp_path: Path) -> None:
    import sys

    bulk = [sys.modules[f"siglip_onnx.runtime.bulk.{name}"] for name in ("run", "retrieval")]
    assert bulk[0].embed is embed_function
    names = {
        "folder": str(passed),
        "image": str(EVAL / "distorted-noto-1f43b.webp"),
        "output": tmp_path / "o.parquet",
        "Siglip": Siglip,
        "Role": Role,
        "np": np,
    }
    assert sum(run(module, names) for module in [*MODULES, *bulk]) >= 20


@pytest.mark.parametrize("name", ["load", "encode_image", "encode_text", "encode_labels", "probabilities", "on_device"])
def test_what_is_called_most_has_an_example(name: str) -> None:
    assert ">>>" in str(getattr(Siglip, name).__doc__)
