"""Numbers that are right in the graph and wrong in what is made of them, and providers that are not who they say."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from siglip_onnx.exporter.classifier import freeze_labels
from siglip_onnx.runtime import SessionOptions, Siglip
from siglip_onnx.runtime.artifact.contract import Contract, Provider, Verdict
from siglip_onnx.runtime.errors import ArtifactError
from siglip_onnx.runtime.vectors import FloatArray
from siglip_onnx.validate import CheckGroup, Report

from ..conftest import quiet, rewrite
from .edits import in_contract
from .fault import Bench, Fault, FaultArea
from .judge import judge


def _scale_not_exponentiated(folder: Path) -> None:
    def change(contract: Contract) -> Contract:
        return replace(contract, logits=replace(contract.logits, scale=math.log(contract.logits.scale)))

    rewrite(folder, change)


def _scale_of_half_precision(folder: Path) -> None:
    """exp of a logarithm that was rounded to float16."""

    def change(contract: Contract) -> Contract:
        scale = math.exp(float(np.float16(math.log(contract.logits.scale))))
        return replace(contract, logits=replace(contract.logits, scale=scale))

    rewrite(folder, change)


def _sum_of_one(model: Siglip) -> None:
    """A softmax over the labels, as CLIP has it, where SigLIP has a sigmoid for each."""

    def probabilities(images: FloatArray, texts: FloatArray) -> FloatArray:
        powers = np.exp(model.logits(images, texts))
        return np.asarray(powers / powers.sum(1, keepdims=True), np.float32)

    vars(model)["probabilities"] = probabilities


def _not_normalized(model: Siglip) -> None:
    """Users get embeddings as the graph gives them, where `normalize` promises length 1."""
    encode = model.encode_image
    vars(model)["encode_image"] = lambda images, **options: encode(images, **options, normalize=False)


def _cached_text(model: Siglip) -> None:
    """A cache of texts that looks at the number of words alone, so that most texts get another's embedding."""
    encode, known = model.encode_text, dict[int, FloatArray]()

    def encode_text(texts: tuple[str, ...], batch_size: int) -> FloatArray:
        rows = [known.setdefault(len(text.split()), encode([text], batch_size=batch_size)) for text in texts]
        return np.concatenate(rows)

    vars(model)["encode_text"] = encode_text


def _labels_exchanged(bench: Bench, fault: Fault) -> Report:
    """The verdict on a classifier whose graph has its labels in an order of its own."""
    classifier = bench.folder / "classifier"
    labels = (bench.data / "labels.txt").read_text("utf-8").splitlines()[:_LABELS]
    freeze_labels(bench.artifact, labels, classifier, progress=quiet)
    labels[0], labels[1] = labels[1], labels[0]
    in_contract("labels", labels=tuple(labels))(classifier)
    return judge(classifier, bench.data, options=fault.options, answers=bench.answers)


def _silently_on(provider: Provider) -> Callable[[Siglip], None]:
    """The provider that was asked for is there, and every node runs elsewhere."""

    def code(model: Siglip) -> None:
        vars(model)["session"] = Siglip(model.artifact, model.precision, SessionOptions(provider, threads=1)).session

    return code


def _older_schema(folder: Path) -> None:
    path = folder / "siglip.json"
    path.write_text(path.read_text("utf-8").replace('"schema_version": 1', '"schema_version": 0'), "utf-8")


def _fault(name: str, make: Callable[[Path], None], caught: CheckGroup) -> Fault:
    return Fault(name, FaultArea.RUNTIME, caught, make)


def _code(name: str, code: Callable[[Siglip], None], caught: CheckGroup) -> Fault:
    return Fault(name, FaultArea.RUNTIME, caught, code=code)


_LABELS: Final = 20
# OpenVINO itself, which runs on every x86-64 machine; its plugin for ONNX Runtime does not.
_FALLBACK: Final = SessionOptions(Provider.OPENVINO, threads=1, allow_fallback=True)

FAULTS: Final = (
    _fault("logit bias dropped", in_contract("logits", bias=0.0), CheckGroup.LOGITS),
    _fault("logit scale not exponentiated", _scale_not_exponentiated, CheckGroup.LOGITS),
    _fault("logit scale rounded to float16", _scale_of_half_precision, CheckGroup.LOGITS),
    _fault("embeddings called normalized", in_contract("embedding", normalized=True), CheckGroup.EMBEDDINGS),
    _fault(
        "another output called the embedding",
        in_contract("embedding", output="last_hidden_state"),
        CheckGroup.EMBEDDINGS,
    ),
    _fault("another size of the embedding claimed", in_contract("embedding", size=191), CheckGroup.EMBEDDINGS),
    _code("softmax in the place of sigmoid", _sum_of_one, CheckGroup.PROBABILITIES),
    _code("embeddings not normalized", _not_normalized, CheckGroup.PROBABILITIES),
    _code("embeddings of other texts from a cache", _cached_text, CheckGroup.PROBABILITIES),
    Fault("two frozen labels exchanged", FaultArea.RUNTIME, CheckGroup.LOGITS, ask=_labels_exchanged),
    Fault("contract of an older schema", FaultArea.RUNTIME, ArtifactError, _older_schema),
    Fault(
        "a provider that runs nothing",
        FaultArea.PROVIDER,
        CheckGroup.PROVIDER,
        code=_silently_on(Provider.CPU),
        options=_FALLBACK,
    ),
    Fault(
        "a provider that may leave nodes to the CPU and does not tell",
        FaultArea.PROVIDER,
        CheckGroup.PROVIDER,
        options=_FALLBACK,
        verdict=Verdict.INCONCLUSIVE,
    ),
)
