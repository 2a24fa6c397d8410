"""Why a cell fails: what `explain` needs, from the same job that the cell was judged by."""

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
from ..checks.context import CheckContext, Progress
from ..data.samples import Samples
from ..matrix.worker import Job
from ..open_model import is_artifact, open_model
from ..report.report import Report
from ..stats import metrics
from ..validate_variant import Terms, prepared
from . import Explanation, explain

Array = NDArray[Any]
_WORST: Final = 4  # rows of each tower that are looked at


def explain_report(job: Job, report: Report, folder: Path, *, progress: Progress) -> Explanation:
    """Look for the node that is to blame for a report's FAIL, and leave what shows it in a folder.

    Raises:
        SiglipOnnxError: As `validate`, and as `explain`.
    """
    subject = open_model(job, report.precision, report.provider)
    terms = Terms(job.limits, dialect=job.dialect, without=subject.without, answers=job.answers)
    samples = Samples.read(job.data, job.data_options)
    context = prepared(subject.model, job.checkpoint, samples, terms, progress=progress)
    worst = {role: _worst(context, role) for role in context.towers}

    def enough(role: Role, found: Array) -> bool:
        return _would_pass(context, worst[role], found)

    rows = {role: some.inputs for role, some in worst.items()}
    with _trusted(job, context, progress) as trusted:
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
        cosines = metrics.row_cosines(tower.found, tower.wanted)
        chosen = np.argsort(np.nan_to_num(cosines, nan=-np.inf), kind="stable")[:_WORST].tolist()
    except Exception:  # a tower that does not run: then any rows will do to find out why
        chosen = list(range(_WORST))
    inputs, wanted = dict[int, Array](), list[Array]()
    for number, (theirs, given, _) in enumerate(context.inputs(role)):
        wanted.append(context.answers.embeddings(role, theirs[None])[0])
        if number in chosen:
            inputs[number] = given
    every = np.stack(wanted)
    chosen = [row for row in chosen if row in inputs]
    mean, unit = metrics.unit_rows(every).mean(0), context.model.embedding(role).normalized
    return _Rows(np.stack([inputs[row] for row in chosen]), every[chosen], mean, unit)


def _would_pass(context: CheckContext, rows: _Rows, found: Array) -> bool:
    """Whether embeddings are within the limits of EMBEDDINGS."""
    gate, wanted = context.gate, rows.wanted
    if found.shape != wanted.shape or not np.isfinite(found).all():
        return False
    if rows.normalized:
        wanted = metrics.unit_rows(wanted).astype(np.float32)
    return bool(
        metrics.row_cosines(found, wanted).min() >= gate.cosine
        and metrics.centered_cosines(found, wanted, rows.mean).min() >= gate.centered_cosine
        and metrics.relative_error(found, wanted) <= gate.relative_error
    )


@contextmanager
def _trusted(job: Job, context: CheckContext, progress: Progress) -> Iterator[Artifact]:
    """The artifact itself where its fp32 graphs have passed on the CPU, else the checkpoint exported anew."""
    model = context.model
    base = model.contract.variant(Precision.FP32) if is_artifact(job.artifact) else None
    is_base = (model.precision, model.options.provider) == (Precision.FP32, Provider.CPU)
    passed = base is not None and verdict_of(base, model.contract, Provider.CPU) is Verdict.PASS
    if (passed and not is_base) or context.source is None:
        yield model.artifact
        return
    from ...exporter.export_artifact import export
    from ...exporter.options import ExportOptions, GraphInput

    contract = model.contract
    options = ExportOptions(
        dialect=context.source.weights.dialect,
        image_size=contract.image.height if contract.image.resize == "stretch" else None,
        batch=contract.batch,
        normalized=contract.embedding.normalized,
        image_input=GraphInput(contract.image.input),
    )
    with tempfile.TemporaryDirectory(prefix="siglip-onnx-trusted-") as folder:
        yield export(str(job.checkpoint), Path(folder) / "artifact", options, progress=progress)
