"""Faults after the graph: wrong postprocessing in the runtime, and providers that do not run the graph."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np

from siglip_onnx.exporter.classifier import freeze_labels
from siglip_onnx.runtime import SessionOptions, Siglip
from siglip_onnx.runtime.arrays import FloatArray
from siglip_onnx.runtime.artifact.contract import SCHEMA_VERSION, Contract, Provider, Verdict
from siglip_onnx.runtime.errors import ArtifactError
from siglip_onnx.validate import CheckGroup, Report

from ..conftest import quiet, rewrite
from .edits import in_contract
from .fault import Fault, FaultArea, FaultFixture
from .validation import validate_artifact


def _scale_not_exponentiated(folder: Path) -> None:
    def change(contract: Contract) -> Contract:
        return replace(contract, logits=replace(contract.logits, scale=math.log(contract.logits.scale)))

    rewrite(folder, change)


def _scale_of_half_precision(folder: Path) -> None:
    """The scale is the exponential of a float16 logarithm."""

    def change(contract: Contract) -> Contract:
        scale = math.exp(float(np.float16(math.log(contract.logits.scale))))
        return replace(contract, logits=replace(contract.logits, scale=scale))

    rewrite(folder, change)


def _sum_of_one(model: Siglip) -> None:
    """A softmax over the labels, as in CLIP, instead of a sigmoid for each label."""

    def probabilities(images: FloatArray, texts: FloatArray) -> FloatArray:
        powers = np.exp(model.logits(images, texts))
        return np.asarray(powers / powers.sum(1, keepdims=True), np.float32)

    vars(model)["probabilities"] = probabilities


def _not_normalized(model: Siglip) -> None:
    """`normalize` is ignored: users get embeddings with the graph's lengths."""
    encode = model.encode_image
    vars(model)["encode_image"] = lambda images, **options: encode(images, **options, normalize=False)


def _cached_text(model: Siglip) -> None:
    """A text cache keyed by the number of words, so most texts get another text's embedding."""
    encode, known = model.encode_text, dict[int, FloatArray]()

    def encode_text(texts: tuple[str, ...], batch_size: int) -> FloatArray:
        rows = [known.setdefault(len(text.split()), encode([text], batch_size=batch_size)) for text in texts]
        return np.concatenate(rows)

    vars(model)["encode_text"] = encode_text


def _labels_swapped(fixture: FaultFixture, fault: Fault) -> Report:
    """Validate a classifier whose graph and contract order two labels differently."""
    classifier = fixture.folder / "classifier"
    labels = (fixture.data / "labels.txt").read_text("utf-8").splitlines()[:_LABELS]
    freeze_labels(fixture.artifact, labels, classifier, progress=quiet)
    labels[0], labels[1] = labels[1], labels[0]
    in_contract("labels", labels=tuple(labels))(classifier)
    return validate_artifact(classifier, fixture.data, options=fault.options, cache=fixture.cache)


def _silently_on(provider: Provider) -> Callable[[Siglip], None]:
    """The requested provider is available, but every node runs on another."""

    def patch(model: Siglip) -> None:
        vars(model)["session"] = Siglip(model.artifact, model.precision, SessionOptions(provider, threads=1)).session

    return patch


def _older_schema(folder: Path) -> None:
    path = folder / "siglip.json"
    content = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps({**content, "schema_version": SCHEMA_VERSION - 1}), "utf-8")


def _fault(name: str, make: Callable[[Path], None], caught_by: CheckGroup) -> Fault:
    return Fault(name, FaultArea.RUNTIME, caught_by, make)


def _patched(name: str, patch: Callable[[Siglip], None], caught_by: CheckGroup) -> Fault:
    return Fault(name, FaultArea.RUNTIME, caught_by, patch=patch)


_LABELS: Final = 20
# OpenVINO itself runs on every x86-64 machine; its plugin for ONNX Runtime does not.
_FALLBACK: Final = SessionOptions(Provider.OPENVINO, threads=1, allow_fallback=True)

FAULTS: Final = (
    _fault("logit bias dropped", in_contract("logits", bias=0.0), CheckGroup.LOGITS),
    _fault("logit scale not exponentiated", _scale_not_exponentiated, CheckGroup.LOGITS),
    _fault("logit scale rounded to float16", _scale_of_half_precision, CheckGroup.LOGITS),
    _fault("embeddings declared normalized", in_contract("embedding", normalized=True), CheckGroup.EMBEDDINGS),
    _fault(
        "another output declared the embedding",
        in_contract("embedding", output="last_hidden_state"),
        CheckGroup.EMBEDDINGS,
    ),
    _fault("wrong embedding size declared", in_contract("embedding", size=191), CheckGroup.EMBEDDINGS),
    _patched("softmax instead of sigmoid", _sum_of_one, CheckGroup.PROBABILITIES),
    _patched("embeddings not normalized", _not_normalized, CheckGroup.PROBABILITIES),
    _patched("text cache returns other texts' embeddings", _cached_text, CheckGroup.PROBABILITIES),
    Fault("two frozen labels swapped", FaultArea.RUNTIME, CheckGroup.LOGITS, run=_labels_swapped),
    Fault("contract of an older schema", FaultArea.RUNTIME, ArtifactError, _older_schema),
    Fault(
        "provider that runs no node",
        FaultArea.PROVIDER,
        CheckGroup.PROVIDER,
        patch=_silently_on(Provider.CPU),
        options=_FALLBACK,
    ),
    Fault(
        "provider with unreported CPU fallback",
        FaultArea.PROVIDER,
        CheckGroup.PROVIDER,
        options=_FALLBACK,
        verdict=Verdict.INCONCLUSIVE,
    ),
)
