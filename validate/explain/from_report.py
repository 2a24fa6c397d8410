"""Explains the failing report of a cell, from the request that the cell was validated with."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from ...runtime.arrays import AnyArray
from ...runtime.artifact.artifact import Artifact, verdict_of
from ...runtime.artifact.contract import Precision, Provider, Role, Verdict
from ...runtime.progress import Progress
from ..checks.context import CheckContext
from ..data.samples import Samples
from ..open_model import is_artifact, open_model
from ..open_reference import open_context
from ..report.report import Report
from ..request import ValidationRequest
from ..stats import metrics
from . import Explanation, explain

_WORST: Final = 4  # rows of each tower to examine


def explain_report(request: ValidationRequest, report: Report, folder: Path, *, progress: Progress) -> Explanation:
    """Find the nodes that cause a report's FAIL, and write the explanation to a folder.

    Raises:
        SiglipOnnxError: See `validate` and `explain`.
    """
    subject = open_model(request, report.precision, report.provider)
    samples = Samples.read(request.data, request.data_options)
    context = open_context(subject.model, request, samples, progress=progress)
    worst = {role: _worst(context, role) for role in context.roles}

    def passes(role: Role, embeddings: AnyArray) -> bool:
        return _would_pass(context, worst[role], embeddings)

    inputs = {role: rows.inputs for role, rows in worst.items()}
    with _reference_artifact(request, context, progress) as reference:
        return explain(subject.model, reference, inputs, report, folder, passes=passes, progress=progress)


@dataclass(frozen=True)
class _WorstRows:
    """The rows of a tower with the largest errors.

    Attributes:
        inputs: Input rows as the graphs take them.
        expected: The reference embeddings of these rows, float32 [rows, size].
        mean: Mean of the reference embeddings of all rows, each scaled to length 1.
        normalized: Whether the candidate graph scales its embeddings to length 1.
    """

    inputs: AnyArray
    expected: AnyArray
    mean: AnyArray
    normalized: bool


def _worst(context: CheckContext, role: Role) -> _WorstRows:
    try:
        tower = context.tower(role)
        cosines = metrics.row_cosines(tower.actual, tower.expected)
        chosen = np.argsort(np.nan_to_num(cosines, nan=-np.inf), kind="stable")[:_WORST].tolist()
    except Exception:  # the tower does not run; any rows show why
        chosen = list(range(_WORST))
    inputs, embeddings = dict[int, AnyArray](), list[AnyArray]()
    for number, row in enumerate(context.inputs.rows(role)):
        embeddings.append(context.reference.embeddings(role, row.reference[None])[0])
        if number in chosen:
            inputs[number] = row.fed
    expected = np.stack(embeddings)
    chosen = [row for row in chosen if row in inputs]
    mean, normalized = metrics.unit_rows(expected).mean(0), context.model.embedding(role).normalized
    return _WorstRows(np.stack([inputs[row] for row in chosen]), expected[chosen], mean, normalized)


def _would_pass(context: CheckContext, rows: _WorstRows, actual: AnyArray) -> bool:
    """Whether embeddings are within the limits of EMBEDDINGS."""
    limits, expected = context.limits, rows.expected
    if actual.shape != expected.shape or not np.isfinite(actual).all():
        return False
    if rows.normalized:
        expected = metrics.unit_rows(expected).astype(np.float32)
    return bool(
        metrics.row_cosines(actual, expected).min() >= limits.cosine
        and metrics.centered_cosines(actual, expected, rows.mean).min() >= limits.centered_cosine
        and metrics.relative_error(actual, expected) <= limits.relative_error
    )


@contextmanager
def _reference_artifact(request: ValidationRequest, context: CheckContext, progress: Progress) -> Iterator[Artifact]:
    """The artifact itself if its fp32 graphs passed on the CPU, else a new export of the checkpoint."""
    model = context.model
    base = model.contract.variant(Precision.FP32) if is_artifact(request.artifact) else None
    is_base = (model.precision, model.options.provider) == (Precision.FP32, Provider.CPU)
    passed = base is not None and verdict_of(base, model.contract, Provider.CPU) is Verdict.PASS
    if (passed and not is_base) or context.checkpoint is None:
        yield model.artifact
        return
    from ...exporter.export_artifact import export
    from ...exporter.options import ExportOptions, GraphInput

    contract = model.contract
    options = ExportOptions(
        dialect=context.checkpoint.weights.dialect,
        image_size=contract.image.height if contract.image.resize == "stretch" else None,
        batch=contract.batch,
        normalized=contract.embedding.normalized,
        image_input=GraphInput(contract.image.input),
        transparency=contract.image.transparency,
        orientation=contract.image.orientation,
    )
    with tempfile.TemporaryDirectory(prefix="siglip-onnx-reference-") as folder:
        yield export(str(request.reference), Path(folder) / "artifact", options, progress=progress)
