"""Why a cell fails: what `explain` needs, from the same request that the cell was validated with."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...runtime.artifact.artifact import Artifact, verdict_of
from ...runtime.artifact.contract import Precision, Provider, Role, Verdict
from ..checks.context import CheckContext
from ..data.samples import Samples
from ..open_model import is_artifact, open_model
from ..open_reference import open_context
from ..progress import Progress
from ..report.report import Report
from ..request import ValidationRequest
from ..stats import metrics
from . import Explanation, explain

Array = NDArray[Any]
_WORST: Final = 4  # rows of each tower that are looked at


def explain_report(request: ValidationRequest, report: Report, folder: Path, *, progress: Progress) -> Explanation:
    """Look for the node that is to blame for a report's FAIL, and leave what shows it in a folder.

    Raises:
        SiglipOnnxError: As `validate`, and as `explain`.
    """
    subject = open_model(request, report.precision, report.provider)
    samples = Samples.read(request.data, request.data_options)
    context = open_context(subject.model, request, samples, progress=progress)
    worst = {role: _worst(context, role) for role in context.roles}

    def enough(role: Role, found: Array) -> bool:
        return _would_pass(context, worst[role], found)

    rows = {role: some.inputs for role, some in worst.items()}
    with _trusted(request, context, progress) as trusted:
        return explain(subject.model, trusted, rows, report, folder, enough=enough, progress=progress)


@dataclass(frozen=True)
class _Rows:
    """Rows of a tower that are furthest off.

    Attributes:
        inputs: As the graphs take them.
        wanted: The reference's embeddings of them, [rows, size].
        mean: The mean of the reference's embeddings of all rows, of length 1 each.
        normalized: Whether our graph scales its embeddings to length 1.
    """

    inputs: Array
    wanted: Array
    mean: Array
    normalized: bool


def _worst(context: CheckContext, role: Role) -> _Rows:
    try:
        tower = context.tower(role)
        cosines = metrics.row_cosines(tower.actual, tower.expected)
        chosen = np.argsort(np.nan_to_num(cosines, nan=-np.inf), kind="stable")[:_WORST].tolist()
    except Exception:  # a tower that does not run: then any rows will do to find out why
        chosen = list(range(_WORST))
    inputs, wanted = dict[int, Array](), list[Array]()
    for number, row in enumerate(context.inputs.rows(role)):
        wanted.append(context.reference.embeddings(role, row.reference[None])[0])
        if number in chosen:
            inputs[number] = row.fed
    every = np.stack(wanted)
    chosen = [row for row in chosen if row in inputs]
    mean, unit = metrics.unit(every).mean(0), context.model.embedding(role).normalized
    return _Rows(np.stack([inputs[row] for row in chosen]), every[chosen], mean, unit)


def _would_pass(context: CheckContext, rows: _Rows, found: Array) -> bool:
    """Whether embeddings are within the limits of EMBEDDINGS."""
    gate, wanted = context.limits, rows.wanted
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return False
    if rows.normalized:
        wanted = metrics.unit(wanted).astype(np.float32)
    return bool(
        metrics.row_cosines(found, wanted).min() >= gate.cosine
        and metrics.centered_cosines(found, wanted, rows.mean).min() >= gate.centered_cosine
        and metrics.relative_error(found, wanted) <= gate.relative_error
    )


@contextmanager
def _trusted(request: ValidationRequest, context: CheckContext, progress: Progress) -> Iterator[Artifact]:
    """The artifact itself where its fp32 graphs have passed on the CPU, else the checkpoint exported anew."""
    model = context.model
    base = model.contract.variant(Precision.FP32) if is_artifact(request.artifact) else None
    is_base = (model.precision, model.options.provider) == (Precision.FP32, Provider.CPU)
    passed = base is not None and verdict_of(base, model.contract, Provider.CPU) is Verdict.PASS
    if (passed and not is_base) or context.checkpoint is None:
        yield model.artifact
        return
    from ...exporter.export_artifact import export
    from ...exporter.options import ExportOptions, ImageInput

    contract = model.contract
    options = ExportOptions(
        dialect=context.checkpoint.weights.dialect,
        image_size=contract.image.height if contract.image.resize == "stretch" else None,
        batch=contract.batch,
        normalized=contract.embedding.normalized,
        image_input=ImageInput(contract.image.input),
    )
    with tempfile.TemporaryDirectory(prefix="siglip-onnx-trusted-") as folder:
        yield export(str(request.reference), Path(folder) / "artifact", options, progress=progress)
