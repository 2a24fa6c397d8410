"""Judge an artifact against its checkpoint and write the verdict down."""

from __future__ import annotations

import contextlib
import hashlib
import platform
import sys
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from ..exporter.options import Dialect
from ..runtime.artifact.artifact import REPORTS, Artifact
from ..runtime.artifact.contract import Contract, Parity, Precision, encode
from ..runtime.engines import host
from ..runtime.engines.host import installed_version
from ..runtime.engines.preflight import ensure_provider
from ..runtime.errors import InputError, ProviderError
from ..runtime.model import Siglip
from .checks.context import CheckContext, Progress
from .checks.registry import expected_groups, run_checks
from .checks.regression import latency, ratchet
from .collect_plot_data import collect
from .data.samples import Samples
from .limits.toml_file import LimitTable
from .reference.cache import ReferenceCache
from .reference.fp32_variant import Fp32Reference
from .reference.pytorch import PyTorchReference
from .report.html import VariantRecord, cell_page
from .report.plot_data import PlotData
from .report.report import CheckGroup, Cost, DataRecord, Report, overall

if TYPE_CHECKING:
    from ..exporter.checkpoint.checkpoint import Checkpoint

_TOOLS: Final = (
    "siglip-onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "transformers",
    "numpy",
    "pillow",
    "sentencepiece",
)


class ValidationResult(NamedTuple):
    """A verdict, and what can be drawn of it.

    Attributes:
        report: The verdict and everything that it stands on.
        html: The same as a page.
        evidence: What the page is drawn from; None where the artifact could not run that far.
    """

    report: Report
    html: str
    evidence: PlotData | None


@dataclass(frozen=True)
class Terms:
    """What a verdict depends on besides the artifact, its reference and the data.

    Attributes:
        limits: The limits.
        accepted: The report of the last accepted release, which nothing may be worse than.
        dialect: Whose names the checkpoint's weights have; None finds out.
        allow_unjudged: Accept an fp32 variant without a PASS to compare with.
        without: Check groups for which the judged files bring nothing of their own.
        answers: Where the reference's answers are kept for the next run; None keeps them for this one alone.
    """

    limits: LimitTable = field(default_factory=LimitTable)
    accepted: Report | None = None
    dialect: str | None = None
    allow_unjudged: bool = False
    without: frozenset[CheckGroup] = frozenset()
    answers: Path | None = None


def validate(
    model: Siglip,
    checkpoint: str | Path | None,
    data: Path | Samples | None = None,
    terms: Terms | None = None,
    *,
    made: VariantRecord | None = None,
    progress: Progress = print,
) -> ValidationResult:
    """Climb the whole ladder and give a verdict.

    Args:
        model: What is judged, loaded with the precision and provider in question.
        checkpoint: What it was made from: a folder or a hub id. None compares it with the artifact's fp32 variant,
            which must itself have passed against its checkpoint.
        data: Images in one of the forms of docs/data.md, or what was read of them; None for the bundled photos.
        terms: What else the verdict depends on.
        made: How the variant was made, for the page.
        progress: Told what is being done, in a few words, before each step.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        InputError: The data cannot be used.
        InconclusiveError: The fp32 variant is to be compared with and has no PASS.
        ProviderError: The provider is missing, or torch or transformers is.
    """
    started, terms = time.monotonic(), terms or Terms()
    ensure_provider(model.options.provider, model.options)
    context = prepared(model, checkpoint, data, terms, progress=progress)
    due = expected_groups(context)
    checks = list(run_checks(context, due))
    cost, here = _cost(context), environment()
    if terms.accepted is not None:
        checks += ratchet(checks, terms.accepted, context.samples.sha256, context.against)
        due |= {CheckGroup.BASELINE}
        if context.gate.latency is not None:
            checks += latency(cost, terms.accepted, here["machine"], context.gate.latency)
            due |= {CheckGroup.LATENCY}
    report = Report(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started, 1),
        artifact=model.contract.name,
        contract_sha256=contract_hash(model.contract),
        precision=model.precision,
        provider=model.options.provider,
        reference=context.source.name if context.source else f"fp32 variant of {model.contract.name}",
        reference_sha256=context.answers.oracle.sha256,
        data=record(context.samples, frozen=context.frozen is not None),
        environment=here,
        verdict=overall(checks, due),
        checks=tuple(checks),
        against=context.against,
        expected=tuple(group for group in CheckGroup if group in due),
        limits=terms.limits.source,
        cost=cost,
    )
    evidence = _evidence(context)
    return ValidationResult(report, cell_page(report, evidence, made), evidence)


def prepared(
    model: Siglip, checkpoint: str | Path | None, data: Path | Samples | None, terms: Terms, *, progress: Progress
) -> CheckContext:
    """A ladder to climb, whose reference has answered everything; errors as of `validate`."""
    progress("Reading the data")
    samples = data if isinstance(data, Samples) else Samples.read(data)
    progress("Opening the reference")
    source, oracle = _yardstick(model, checkpoint, terms)
    answers = ReferenceCache(oracle, samples.sha256, terms.answers)
    gate = terms.limits.limits_for(model.precision, model.options.provider)
    context = CheckContext(model, source, answers, samples, gate, progress, terms.without)
    context.prepare()
    return context


def record(samples: Samples, *, frozen: bool) -> DataRecord:
    """What a report says of its data; an artifact of frozen labels reads no captions and has classes of its own."""
    return DataRecord(
        name=samples.name,
        sha256=samples.sha256,
        images=len(samples.images),
        texts=len(samples.texts),
        pairs=0 if frozen else len(samples.pairs),
        classes=0 if frozen else len(set(samples.classes)),
        sample=samples.sample,
        bundled=samples.bundled,
    )


def _evidence(context: CheckContext) -> PlotData | None:
    try:
        return collect(context)
    except Exception:  # a group of the ladder has said so already
        return None


def _cost(context: CheckContext) -> Cost:
    """Size and speed; of a tower that does not run there is no speed."""
    contract, seconds = context.model.contract, {}
    graphs = [
        context.model.artifact.graph(r, context.model.precision, context.model.options.provider) for r in context.towers
    ]
    size = sum(contract.files[path].bytes for graph in graphs for path in (graph.path, *graph.data))
    for role in context.towers:
        with contextlib.suppress(Exception):  # a group of the ladder has said so already
            seconds[str(role)] = context.tower(role).seconds
    return Cost(size, seconds, _peak(), context.model.options.threads or host.cores())


def _peak() -> int | None:
    """Most bytes that this process held (getrusage; Linux counts kilobytes, macOS bytes)."""
    try:
        import resource
    except ImportError:  # Windows has none
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _yardstick(
    model: Siglip, checkpoint: str | Path | None, terms: Terms
) -> tuple[Checkpoint | None, PyTorchReference | Fp32Reference]:
    if checkpoint is None:
        if model.precision is Precision.FP32:
            raise InputError(
                "The fp32 variant cannot be compared with itself.", "Name its checkpoint with --reference."
            )
        return None, Fp32Reference(model.artifact.folder, allow_unjudged=terms.allow_unjudged)
    source = open_checkpoint(checkpoint, terms.dialect)
    size = model.contract.image.height
    if not source.config.vision_config.naflex and size != source.config.vision_config.image_size:
        source = source.resized(size)  # exported so, by --image-size
    return source, PyTorchReference(source)


def open_checkpoint(checkpoint: str | Path, dialect: str | None) -> Checkpoint:
    """A checkpoint by its folder or hub id; raises CheckpointError, or ProviderError where packages are missing."""
    try:
        from ..exporter.checkpoint.checkpoint import Checkpoint
    except ImportError as error:
        raise ProviderError(
            f"Reading a checkpoint needs packages that are not installed ({error}).",
            "Run: pip install 'siglip-onnx[cpu,export]'.",
        ) from error
    return Checkpoint.open(checkpoint, Dialect(dialect) if dialect else None)


def store(artifact: Artifact, report: Report, html: str) -> Artifact:
    """Write a report into an artifact, as JSON and as a page, and its verdict into the contract.

    Raises:
        ArtifactError: The artifact cannot be written.
    """
    name = report_path(report)
    data = report.to_json()
    parity = Parity(report.verdict, report.provider, name, hashlib.sha256(data).hexdigest(), report.against)
    files = {name: data, name.removesuffix(".json") + ".html": html.encode()}
    return artifact.with_report(report.precision, parity, files)


def report_path(report: Report) -> str:
    """Where `store` puts a report inside an artifact."""
    return f"{REPORTS}/parity-{report.precision}-{report.provider}.json"


def contract_hash(contract: Contract) -> str:
    """Hash of a contract without the verdicts on it."""
    return hashlib.sha256(encode(contract.without_verdicts())).hexdigest()


def environment() -> dict[str, str]:
    """Versions of the tools, and the machine."""
    versions = {tool: version for tool in _TOOLS if (version := installed_version(tool))}
    computer = f"{host.processor().name}, {host.cores()} cores"
    return {**versions, "python": platform.python_version(), "system": platform.system(), "machine": computer}
