"""Compare one variant on one provider with the reference, and give a verdict."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from ..runtime.artifact.contract import Precision, Provider
from ..runtime.engines import host
from ..runtime.engines.preflight import ensure_provider
from ..runtime.model import Siglip
from ..runtime.progress import Progress
from .checks.context import CheckContext
from .checks.registry import expected_groups, run_checks
from .checks.regression import compare_latency, compare_with_baseline
from .collect_plot_data import collect
from .data.samples import Samples
from .environment import environment, peak_memory
from .limits.toml_file import LimitTable
from .open_model import open_model
from .open_reference import open_context
from .report.plot_data import PlotData
from .report.report import Check, CheckGroup, Cost, DataRecord, Report, overall
from .request import KnownHashes, ValidationRequest
from .store_verdict import ValidationResult, contract_hash


def validate(
    model: Siglip,
    reference: str | Path | None,
    data: Path | Samples | None = None,
    *,
    limits: LimitTable | None = None,
    baseline: Report | None = None,
    dialect: str | None = None,
    cache: Path | None = None,
    allow_unvalidated: bool = False,
    exclude_groups: frozenset[CheckGroup] = frozenset(),
    progress: Progress = print,
) -> ValidationResult:
    """Run every check on a loaded model and give a verdict.

    Args:
        model: The candidate, loaded with a precision and provider.
        reference: Folder or hub id of the checkpoint that it was made from; None compares it with the artifact's fp32
            variant, which must itself carry a PASS against its checkpoint.
        data: Images in one of the forms of docs/data.md, or samples that were read from them; None takes the bundled
            photos.
        limits: The limits; None takes the defaults.
        baseline: Accepted report of the last release, which the candidate may not be worse than.
        dialect: Dialect of the checkpoint's weights; None detects it.
        cache: Folder of the reference cache; None keeps reference outputs in memory only.
        allow_unvalidated: Accept an fp32 variant without a PASS as the reference.
        exclude_groups: Check groups to leave out.
        progress: Receives a short description of each step.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        InputError: The data cannot be used.
        InconclusiveError: The fp32 variant is the reference and has no PASS.
        ProviderError: The provider is missing, or torch or transformers is.
    """
    started = time.monotonic()
    ensure_provider(model.options.provider, model.options)
    progress("Reading the data")
    samples = data if isinstance(data, Samples) else Samples.read(data)
    request = ValidationRequest(
        artifact=model.artifact.folder,
        reference=None if reference is None else str(reference),
        limits=limits or LimitTable(),
        dialect=dialect,
        cache=cache,
        options=model.options,
        allow_unvalidated=allow_unvalidated,
        exclude_groups=exclude_groups,
    )
    context = open_context(model, request, samples, progress=progress)
    return _verdict(context, request.limits, baseline, samples.sha256, started)


def validate_cell(
    request: ValidationRequest,
    precision: Precision,
    provider: Provider,
    *,
    hashes: KnownHashes | None = None,
    progress: Progress = print,
) -> ValidationResult:
    """Open the candidate of a request with a precision and provider, run every check, and give a verdict.

    Args:
        request: The request.
        precision: Precision of the variant.
        provider: Provider that runs it.
        hashes: Hashes of data and reference that are already known; None computes them.
        progress: Receives a short description of each step.

    Raises:
        SiglipOnnxError: As `open_model`, `ValidationRequest.accepted_report` and `validate`.
    """
    started = time.monotonic()
    opened = open_model(request, precision, provider)
    accepted = request.accepted_report(precision, provider)
    progress("Reading the data")
    samples = Samples.read(request.data, request.data_options)
    ensure_provider(provider, opened.model.options)
    request = replace(request, exclude_groups=request.exclude_groups | opened.exclude_groups)
    context = open_context(opened.model, request, samples, hashes=hashes, progress=progress)
    data_hash = hashes.data if hashes else samples.sha256
    return _verdict(context, request.limits, accepted, data_hash, started)._replace(notes=opened.notes)


def _verdict(
    context: CheckContext, limits: LimitTable, baseline: Report | None, data_hash: str, started: float
) -> ValidationResult:
    model, groups = context.model, expected_groups(context)
    checks = list(run_checks(context, groups))
    cost, versions = _measure_cost(context), environment()
    if baseline is not None:
        more = _compare(context, checks, baseline, data_hash, cost, versions["machine"])
        checks += [check for group in more.values() for check in group]
        groups |= more.keys()
    report = Report(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started, 1),
        artifact=model.contract.name,
        contract_sha256=contract_hash(model.contract),
        precision=model.precision,
        provider=model.options.provider,
        reference=context.checkpoint.name if context.checkpoint else f"fp32 variant of {model.contract.name}",
        reference_sha256=context.reference.oracle.sha256,
        data=record_data(context.samples, data_hash, frozen=context.has_frozen_labels),
        environment=versions,
        verdict=overall(checks, groups),
        checks=tuple(checks),
        against=context.against,
        expected=tuple(group for group in CheckGroup if group in groups),
        limits=limits.source,
        cost=cost,
    )
    return ValidationResult(report, _plot_data(context))


def _compare(
    context: CheckContext, checks: list[Check], baseline: Report, data_hash: str, cost: Cost, machine: str
) -> dict[CheckGroup, list[Check]]:
    """The checks against the accepted report, by group."""
    ratio = context.limits.latency
    compared = compare_with_baseline(checks, baseline, data_hash, context.against)
    groups = {CheckGroup.BASELINE: list(compared)}
    if ratio is not None:
        groups[CheckGroup.LATENCY] = list(compare_latency(cost, baseline, machine, ratio))
    return groups


def record_data(samples: Samples, sha256: str, *, frozen: bool) -> DataRecord:
    """Describe the data for a report; with frozen labels, captions and classes are not compared.

    Args:
        samples: The data.
        sha256: Hash of the data.
        frozen: Whether the candidate's labels are frozen.
    """
    return DataRecord(
        name=samples.name,
        sha256=sha256,
        images=len(samples.images),
        texts=len(samples.texts),
        pairs=0 if frozen else len(samples.pairs),
        classes=0 if frozen else len(set(samples.classes)),
        sample=samples.sample,
        bundled=samples.bundled,
    )


def _plot_data(context: CheckContext) -> PlotData | None:
    try:
        return collect(context)
    except Exception:  # a check group has reported it
        return None


def _measure_cost(context: CheckContext) -> Cost:
    """Size and speed; a tower that does not run has no speed."""
    model, seconds = context.model, dict[str, float]()
    graphs = [model.artifact.graph(role, model.precision, model.options.provider) for role in context.roles]
    size = sum(model.contract.files[path].bytes for graph in graphs for path in (graph.path, *graph.data))
    for role in context.roles:
        with contextlib.suppress(Exception):  # a check group has reported it
            seconds[str(role)] = context.tower(role).seconds
    return Cost(size, seconds, peak_memory(), model.options.threads or host.cores())
