"""Judge an artifact against its checkpoint and write the verdict down."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..runtime.artifact import REPORTS, Artifact
from ..runtime.contract import Contract, Parity, Precision, encode
from ..runtime.errors import InputError, ProviderError
from ..runtime.model import Siglip
from ..runtime.versions import installed_version
from .baseline import Baseline
from .gates import GATES
from .html import Made, page
from .ladder import Ladder, Progress
from .reference import Reference
from .report import DataRecord, Report, overall
from .rungs import climb
from .samples import Samples

if TYPE_CHECKING:
    from ..exporter.checkpoint import Checkpoint

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


def validate(
    model: Siglip,
    checkpoint: str | Path | None,
    data: Path | Samples | None = None,
    *,
    dialect: str | None = None,
    allow_unjudged: bool = False,
    made: Made | None = None,
    progress: Progress = print,
) -> tuple[Report, str]:
    """Climb the whole ladder; the report and the same as an HTML page.

    Args:
        model: What is judged, loaded with the precision and provider in question.
        checkpoint: What it was made from: a folder or a hub id. None compares it with the artifact's fp32 variant,
            which must itself have passed against its checkpoint.
        data: A folder with captions.jsonl and perhaps labels.txt, or what was read of it; None for the bundled photos.
        dialect: Whose names the checkpoint's weights have; None finds out.
        allow_unjudged: Accept an fp32 variant without a PASS.
        made: How the variant was made, for the page.
        progress: Told what is being done, in a few words, before each step.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        InputError: The data cannot be used.
        InconclusiveError: The fp32 variant is to be compared with and has no PASS.
        ProviderError: torch or transformers is missing.
    """
    started = time.monotonic()
    samples = data if isinstance(data, Samples) else Samples.read(data)
    progress("Opening the reference")
    source, reference = _yardstick(model, checkpoint, dialect, allow_unjudged)
    ladder = Ladder(model, source, reference, samples, GATES[model.precision], progress)
    ladder.prepare()
    checks = tuple(climb(ladder))
    report = Report(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started, 1),
        artifact=model.contract.name,
        contract_sha256=_fingerprint(model.contract),
        precision=model.precision,
        provider=model.options.provider,
        reference=source.name if source else f"fp32 variant of {model.contract.name}",
        reference_sha256=reference.sha256,
        data=DataRecord(samples.name, samples.sha256, len(samples.images), len(samples.texts), len(samples.pairs)),
        environment=_environment(),
        verdict=overall(checks, ladder.due),
        checks=checks,
        against=ladder.against,
    )
    return report, page(report, ladder, made)


def _yardstick(
    model: Siglip, checkpoint: str | Path | None, dialect: str | None, allow_unjudged: bool
) -> tuple[Checkpoint | None, Reference | Baseline]:
    if checkpoint is None:
        if model.precision is Precision.FP32:
            raise InputError(
                "The fp32 variant cannot be compared with itself.", "Name its checkpoint with --reference."
            )
        return None, Baseline(model.artifact.folder, allow_unjudged=allow_unjudged)
    try:
        from ..exporter.checkpoint import Checkpoint
        from ..exporter.dialects import Dialect
    except ImportError as error:
        raise ProviderError(
            f"Reading a checkpoint needs packages that are not installed ({error}).",
            "Run: pip install 'siglip-onnx[cpu,export]'.",
        ) from error
    source = Checkpoint.open(checkpoint, Dialect(dialect) if dialect else None)
    size = model.contract.image.height
    if not source.config.vision_config.naflex and size != source.config.vision_config.image_size:
        source = source.resized(size)  # exported so, by --image-size
    return source, Reference(source)


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


def _fingerprint(contract: Contract) -> str:
    """Hash of a contract without the verdicts on it."""
    return hashlib.sha256(encode(contract.without_verdicts())).hexdigest()


def _environment() -> dict[str, str]:
    versions = {tool: version for tool in _TOOLS if (version := installed_version(tool))}
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    return {**versions, "python": platform.python_version(), "system": platform.system(), "machine": machine}
