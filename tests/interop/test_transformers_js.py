"""transformers.js 4 and 3 open the artifact's folder, in Node and in Chromium.

In Node the folder needs no options. In a browser ONNX Runtime cannot read a graph's data file by itself: towers need
the option use_external_data_format, and the joint model needs both data files in session_options.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from siglip_onnx.runtime import Artifact, Siglip
from siglip_onnx.runtime.artifact.contract import Precision

from . import consumers, environments
from .compare import Comparison
from .conftest import usual_texts
from .consumers import ConsumerSamples, Json
from .outputs import array, difference
from .proofs import Prove, ProveUnsupported
from .table import EVERY

NODE: Final = "transformers.js, Node"
BROWSER: Final = "transformers.js, Chromium"
PACKAGES: Final = ("@huggingface/transformers", "transformers-js-3")

# Precisions that transformers.js has a dtype for; other graphs are opened by file name.
DTYPES: Final = {Precision.FP32: "fp32", Precision.FP16: "fp16", Precision.INT8: "int8", Precision.INT4: "q4"}
# Precisions that the ONNX Runtime of a version cannot run.
REFUSED: Final = {("transformers-js-3", Precision.INT8_WEIGHTS): "nbits_ == 4 was false"}
# The same in Chromium, where an exception from WebAssembly is a number without a message.
REFUSED_IN_CHROMIUM: Final = {
    ("@huggingface/transformers", Precision.BF16): "Could not find an implementation for Cast(19)",
    ("transformers-js-3", Precision.INT8_WEIGHTS): "page.evaluate: ",
}
# An additional variant in the page: towers without any option except the dtype.
PLAIN: Final = "plain"
# Texts that transformers.js tokenizes differently; see docs/artifact.md.
BYTES, LONG, JOINER = "a ꙮ", "a red apple " * 30, "man\u200dfarmer"


@pytest.fixture(scope="module", params=PACKAGES)
def package(request: pytest.FixtureRequest) -> str:
    """The package of each version."""
    return str(request.param)


def graph_options(precision: Precision, path: str) -> Json:
    """Options that select a graph by dtype or by file name."""
    if precision in DTYPES:
        return {"dtype": DTYPES[precision]}
    return {"dtype": "fp32", "model_file_name": Path(path).stem}


def in_node(precision: Precision, graphs: Json) -> Json:
    """Options for each graph of a variant."""
    return {role: {"device": "cpu", **graph_options(precision, graph["path"])} for role, graph in graphs.items()}


def in_browser(precision: Precision, graphs: Json) -> Json:
    """Options for each graph of a variant, including its data files."""
    options: dict[str, dict[str, Any]] = {}
    for role, graph in graphs.items():
        options[role] = {"device": "wasm", "use_external_data_format": role != "joint"}
        options[role] |= graph_options(precision, graph["path"])
    data = [{"path": Path(file).name, "data": file} for file in graphs["joint"]["data"]]
    options["joint"]["session_options"] = {"externalData": data}
    return options


@pytest.fixture(scope="module")
def node(
    package: str, artifact: Artifact, graphs: Json, samples: ConsumerSamples, tmp_path_factory: pytest.TempPathFactory
) -> Json:
    """Results for every variant in Node."""
    variants = {precision.value: in_node(precision, graphs[precision]) for precision in Precision}
    variants["q8"] = {role: {"dtype": "q8"} for role in ("vision", "text", "joint")}
    job = {**samples.job(), "package": package, "folder": str(artifact.folder), "variants": variants}
    job["tokenizer_texts"] = [*usual_texts(), BYTES, LONG, JOINER]
    return consumers.node("transformers_js.mjs", job, tmp_path_factory.mktemp("node"))


@pytest.fixture(scope="module")
def page(
    package: str, artifact: Artifact, graphs: Json, samples: ConsumerSamples, tmp_path_factory: pytest.TempPathFactory
) -> Json:
    """Results for every variant in Chromium."""
    variants = {precision.value: in_browser(precision, graphs[precision]) for precision in Precision}
    joint = variants[Precision.FP32]["joint"]
    plain = {"device": "wasm", "dtype": "fp32"}
    variants[PLAIN] = {"vision": plain, "text": plain, "joint": joint}
    job = {**samples.job(), "package": package, "folder": str(artifact.folder), "variants": variants}
    job["chromium"] = str(environments.browser())
    return consumers.node("transformers_js_web.mjs", job, tmp_path_factory.mktemp("page"))


@pytest.mark.parametrize("precision", Precision)
def test_node_matches(
    package: str, node: Json, precision: Precision, comparison: Comparison, unsupported: ProveUnsupported
) -> None:
    result, version = node["variants"][precision], node["version"]
    if reason := REFUSED.get((package, precision)):
        for what in ("embeddings", "probabilities", "pipeline"):
            unsupported(NODE, version, precision, what, reason, result["error"])
    else:
        comparison.everything(NODE, version, precision, result)


@pytest.mark.parametrize("precision", Precision)
def test_chromium_matches(
    package: str, page: Json, node: Json, precision: Precision, comparison: Comparison, unsupported: ProveUnsupported
) -> None:
    result, version = page["variants"][precision], node["version"]
    if reason := REFUSED_IN_CHROMIUM.get((package, precision)):
        for what in ("embeddings", "probabilities", "pipeline"):
            unsupported(BROWSER, version, precision, what, reason, result["error"])
    else:
        assert result["problems"] == []
        comparison.everything(BROWSER, version, precision, result)


def test_towers_in_chromium_need_an_option(page: Json, node: Json, unsupported: ProveUnsupported) -> None:
    reason = "Module.MountedFiles is not available"
    message = page["variants"][PLAIN]["error"]
    unsupported(BROWSER, node["version"], EVERY, "towers without use_external_data_format", reason, message)


def test_token_ids_match(node: Json, artifact: Artifact, prove: Prove) -> None:
    texts = usual_texts()
    actual, expected = array(node["tokens"][: len(texts)]), Siglip.load(artifact.folder).tokenizer(texts)
    prove(NODE, node["version"], EVERY, "token ids", 0, difference(actual, expected))


def test_token_ids_differ_only_as_documented(node: Json, artifact: Artifact) -> None:
    tokenizer = Siglip.load(artifact.folder).tokenizer
    unknown = tokenizer.spec.special_pieces[tokenizer.spec.unk_piece]
    octets, long, joined = (array(row) for row in node["tokens"][-3:])
    ours = tokenizer([BYTES, LONG, JOINER], on_truncated=lambda truncation: None)
    assert unknown in octets  # no bytes to fall back on
    assert unknown not in ours[0]
    assert long[-1] != tokenizer.spec.eos_id == ours[1][-1]  # it truncates without the end token
    assert np.array_equal(long[:-1], ours[1][:-1])
    assert len(np.flatnonzero(joined != tokenizer.spec.pad_id)) < len(np.flatnonzero(ours[2] != tokenizer.spec.pad_id))


def test_missing_dtype_is_an_error(node: Json) -> None:
    assert "model_quantized.onnx" in node["variants"]["q8"]["error"]
