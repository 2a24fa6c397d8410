"""An artifact and a list of labels to a classifier: images in, probabilities out, and no text tower or tokenizer."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from .. import __version__
from ..runtime.artifact.artifact import Artifact, record_files, write_contract
from ..runtime.artifact.contract import Contract, EmbeddingSpec, Graph, LabelSpec, Precision, Role, Variant
from ..runtime.errors import InputError
from ..runtime.model import PROBABILITIES, Siglip
from ..runtime.preprocessing.prompts import format_prompts
from .graph.builder import append_unit, constant
from .graph.naming import base_name, data_path, describe, graph_path
from .output_folder import Progress, new_artifact

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
    """Write a classifier of fixed labels, which the runtime opens like any artifact.

    The fp32 text tower embeds the labels, whatever the precision of the vision tower, for it costs nothing later.

    Args:
        artifact: The artifact's folder.
        labels: What the classifier tells apart.
        target: The classifier's folder.
        templates: What the model reads for a label, `{}` standing for it; several make an ensemble.
        precisions: Which variants of the vision tower to take.
        overwrite: Replace `target` if it is an artifact already.
        progress: Told what is being done, in a few words, before each step.

    Raises:
        InputError: There is no label, one is there twice, or one is longer than the model reads.
        ArtifactError: The artifact lacks a precision, or is damaged.
        ExportError: The classifier cannot be written.
    """
    folder = Path(target).resolve()
    model = Siglip.load(artifact)
    for precision in precisions:
        model.artifact.graph(Role.VISION, precision)
    spec = LabelSpec(tuple(labels), tuple(templates), model.contract.name)
    _check_labels(model, spec)
    size = sum(model.contract.files[path].bytes for p in precisions for path in _paths(model.artifact, p))
    with new_artifact(folder, overwrite=overwrite, source=model.artifact.folder, needed=size) as partial:
        progress("Embedding the labels")
        embeddings = model.encode_labels(spec.labels, spec.templates)
        variants = []
        for precision in precisions:
            progress(f"Writing the {precision} classifier")
            variants.append(_variant(model.artifact, precision, embeddings, spec, partial))
        for name in _FILES:
            model.artifact.verify((name,))
            shutil.copyfile(model.artifact.path(name), partial / name)
        progress("Hashing")
        write_contract(partial, _contract(model.contract, spec, variants, partial))
        Artifact.open(partial).verify()
    return Artifact.open(folder)


def _check_labels(model: Siglip, spec: LabelSpec) -> None:
    if not spec.labels:
        raise InputError("There is no label to freeze.", "Write a label on each line of the file.")
    prompts, seen = format_prompts(spec.templates, spec.labels), dict[bytes, str]()
    for label, texts in zip(spec.labels, prompts, strict=True):
        key = model.tokenizer(texts, on_truncated=_refuse).tobytes()
        if key in seen:
            again = "is there twice" if seen[key] == label else f"reads the same as {seen[key]!r} to the model"
            raise InputError(f"The label {label!r} {again}.", "Keep one of them.")
        seen[key] = label


def _refuse(cut: Any) -> None:
    raise InputError(
        f"{cut.text[:60]!r} has {cut.tokens} pieces, and the model reads {cut.max_tokens}: it would be cut behind "
        f"{cut.last_words!r}.",
        "Shorten the label or the template.",
    )


def _paths(artifact: Artifact, precision: Precision) -> tuple[str, ...]:
    graph = artifact.graph(Role.VISION, precision)
    return graph.path, *graph.data


def _variant(
    artifact: Artifact, precision: Precision, embeddings: NDArray[np.float32], spec: LabelSpec, folder: Path
) -> Variant:
    artifact.verify(_paths(artifact, precision))
    source = artifact.contract.variant(precision)
    assert source is not None  # noqa: S101  its graph was asked for before
    prompts = hashlib.sha256("\0".join((*spec.labels, *spec.templates)).encode()).hexdigest()
    made = {**source.provenance, "frozen by": f"siglip-onnx {__version__}", "labels": prompts}
    return Variant(precision, {Role.VISION: _write(artifact, precision, embeddings, folder)}, made)


def _write(artifact: Artifact, precision: Precision, embeddings: NDArray[np.float32], folder: Path) -> Graph:
    model = ir.load(artifact.path(artifact.graph(Role.VISION, precision).path))
    _classify(model, artifact.contract, embeddings)
    path = graph_path(Role.VISION, precision)
    (folder / path).parent.mkdir(exist_ok=True)
    ir.save(model, folder / path, external_data=base_name(data_path(path)))
    return describe(model, path, (data_path(path),))


def _classify(model: ir.Model, contract: Contract, embeddings: NDArray[np.float32]) -> None:
    """Let a vision tower end in image_embeds [batch, size], logits and probabilities [batch, labels]."""
    graph = model.graph
    pooled = next(value for value in graph.outputs if value.name == contract.embedding.output)
    assert pooled.shape is not None  # noqa: S101  outputs of ours are shaped
    batch = pooled.shape[0]
    kept = [value for value in graph.outputs if value.name == "pixel_values"]  # what a resizing graph shows
    graph.outputs.clear()

    def op(kind: str, name: str, inputs: list[ir.Value], width: int) -> ir.Value:
        value = ir.Value(name=name, shape=ir.Shape([batch, width]), type=ir.TensorType(ir.DataType.FLOAT))
        graph.append(ir.node(kind, inputs, outputs=[value], name=f"classifier/{kind}"))
        return value

    def held(name: str, array: NDArray[np.float32]) -> ir.Value:
        value = constant(name, array)
        graph.register_initializer(value)
        return value

    unit = pooled if contract.embedding.normalized else append_unit(graph, pooled, EMBEDS)
    unit.name = EMBEDS
    labels = held("labels", embeddings.T * np.float32(contract.logits.scale))
    cosines = op("MatMul", "scaled_cosines", [unit, labels], len(embeddings))
    logits = op(
        "Add", LOGITS, [cosines, held("logit_bias", np.array([contract.logits.bias], np.float32))], len(embeddings)
    )
    graph.outputs.extend([op("Sigmoid", PROBABILITIES, [logits], len(embeddings)), logits, unit, *kept])


def _contract(source: Contract, spec: LabelSpec, variants: list[Variant], folder: Path) -> Contract:
    return replace(
        source,
        tokenizer=None,
        labels=spec,
        embedding=EmbeddingSpec(EMBEDS, source.embedding.size, normalized=True),
        files=record_files(folder),
        variants=tuple(variants),
    )
