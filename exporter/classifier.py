"""Classifiers with frozen labels: images to probabilities, without a text tower or tokenizer."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import onnx_ir as ir

from .. import __version__
from ..runtime.arrays import FloatArray
from ..runtime.artifact.artifact import Artifact, record_files, write_contract
from ..runtime.artifact.contract import Contract, EmbeddingSpec, Graph, LabelSpec, Precision, Role, Variant
from ..runtime.errors import InputError
from ..runtime.model import PROBABILITIES, Siglip
from ..runtime.preprocessing.prompts import format_prompts
from ..runtime.preprocessing.tokenizer import Truncation
from ..runtime.progress import Progress
from .graph.builder import NodeBuilder, append_unit_length, dimensions
from .graph.load import load_graph
from .graph.naming import base_name, data_path, describe, graph_path
from .output_folder import new_artifact

EMBEDS, LOGITS = "image_embeds", "logits"
_FILES: Final = ("config.json", "preprocessor_config.json")


def freeze_labels(
    artifact: str | Path,
    labels: Sequence[str],
    target: str | Path,
    *,
    templates: Sequence[str] = ("{}",),
    precisions: Sequence[Precision] = (Precision.FP32,),
    overwrite: bool = False,
    progress: Progress = print,
) -> Artifact:
    """Write a classifier with fixed labels; the runtime opens it like any artifact.

    The fp32 text tower embeds the labels at every precision of the vision tower, since this costs no run time.

    Args:
        artifact: Folder of the artifact.
        labels: The classes.
        target: Folder of the classifier.
        templates: Prompts with `{}` for the label; the embeddings of several templates are averaged.
        precisions: Variants of the vision tower to include.
        overwrite: Replace `target` if it is an artifact.
        progress: Called with a short description before each step.

    Raises:
        InputError: There are no labels, two labels are the same to the model, or a label is longer than its input.
        ArtifactError: The artifact lacks a precision, or is damaged.
        ExportError: The classifier cannot be written.
    """
    folder = Path(target).resolve()
    model = Siglip.load(artifact)
    for precision in precisions:
        model.artifact.graph(Role.VISION, precision)
    spec = LabelSpec(tuple(labels), tuple(templates), model.contract.name)
    _check_labels(model, spec)
    size = sum(model.contract.files[path].bytes for p in precisions for path in _tower_files(model.artifact, p))
    with new_artifact(folder, overwrite=overwrite, source=model.artifact.folder, needed=size) as partial:
        progress("Embedding the labels")
        embeddings = model.encode_labels(spec.labels, spec.templates)
        variants = []
        for precision in precisions:
            progress(f"Writing the {precision} classifier")
            variants.append(_write_variant(model.artifact, precision, embeddings, spec, partial))
        for name in _FILES:
            model.artifact.verify((name,))
            shutil.copyfile(model.artifact.path(name), partial / name)
        progress("Hashing")
        write_contract(partial, _contract(model.contract, spec, variants, partial))
        Artifact.open(partial).verify()
    return Artifact.open(folder)


def _check_labels(model: Siglip, spec: LabelSpec) -> None:
    if not spec.labels:
        raise InputError("labels is empty.", "Pass at least one label; in a file, write one label per line.")
    prompts, labels_by_ids = format_prompts(spec.templates, spec.labels), dict[bytes, str]()
    for label, texts in zip(spec.labels, prompts, strict=True):
        ids = model.tokenizer(texts, on_truncated=_refuse).tobytes()
        if ids in labels_by_ids:
            other = labels_by_ids[ids]
            problem = "appears twice" if other == label else f"has the same token ids as {other!r}"
            raise InputError(f"The label {label!r} {problem}.", "Keep one of them.")
        labels_by_ids[ids] = label


def _refuse(truncation: Truncation) -> None:
    raise InputError(
        f"{truncation.text[:60]!r} has {truncation.tokens} tokens, but at most {truncation.max_tokens} are read: "
        f"the text would be truncated after {truncation.last_words!r}.",
        "Shorten the label or the template.",
    )


def _tower_files(artifact: Artifact, precision: Precision) -> tuple[str, ...]:
    graph = artifact.graph(Role.VISION, precision)
    return graph.path, *graph.data


def _write_variant(
    artifact: Artifact, precision: Precision, embeddings: FloatArray, spec: LabelSpec, folder: Path
) -> Variant:
    artifact.verify(_tower_files(artifact, precision))
    source = artifact.contract.variant(precision)
    assert source is not None  # noqa: S101  `freeze_labels` has looked up its graph
    prompts = hashlib.sha256("\0".join((*spec.labels, *spec.templates)).encode()).hexdigest()
    provenance = {**source.provenance, "frozen by": f"siglip-onnx {__version__}", "labels": prompts}
    return Variant(precision, {Role.VISION: _write_graph(artifact, precision, embeddings, folder)}, provenance)


def _write_graph(artifact: Artifact, precision: Precision, embeddings: FloatArray, folder: Path) -> Graph:
    model = load_graph(artifact.path(artifact.graph(Role.VISION, precision).path))
    _append_classifier(model, artifact.contract, embeddings)
    path = graph_path(Role.VISION, precision)
    (folder / path).parent.mkdir(exist_ok=True)
    ir.save(model, folder / path, external_data=base_name(data_path(path)))
    return describe(model, path, (data_path(path),))


def _append_classifier(model: ir.Model, contract: Contract, embeddings: FloatArray) -> None:
    """Replace a vision tower's outputs by probabilities and logits [batch, labels] and image_embeds [batch, size].

    Args:
        model: The vision tower; it is changed in place.
        contract: The tower's contract.
        embeddings: The labels, float32 [labels, size].
    """
    graph = model.graph
    pooled = next(value for value in graph.outputs if value.name == contract.embedding.output)
    pixels = [value for value in graph.outputs if value.name == "pixel_values"]  # of a graph that resizes images
    graph.outputs.clear()
    unit = pooled if contract.embedding.normalized else append_unit_length(graph, pooled, EMBEDS)
    unit.name = EMBEDS
    builder, shape = NodeBuilder(graph), (dimensions(pooled)[0], len(embeddings))

    def op(op_type: str, name: str, *inputs: ir.Value) -> ir.Value:
        return builder.op(op_type, name, *inputs, shape=shape, node_name=f"classifier/{op_type}")

    labels = builder.constant("labels", embeddings.T * np.float32(contract.logits.scale))
    cosines = op("MatMul", "scaled_cosines", unit, labels)
    bias = builder.constant("logit_bias", np.array([contract.logits.bias], np.float32))
    logits = op("Add", LOGITS, cosines, bias)
    graph.outputs.extend([op("Sigmoid", PROBABILITIES, logits), logits, unit, *pixels])


def _contract(source: Contract, spec: LabelSpec, variants: list[Variant], folder: Path) -> Contract:
    return replace(
        source,
        tokenizer=None,
        labels=spec,
        embedding=EmbeddingSpec(EMBEDS, source.embedding.size, normalized=True),
        files=record_files(folder),
        variants=tuple(variants),
    )
