"""Judge an artifact against its checkpoint and write the verdict down."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ..exporter.checkpoint import Checkpoint
from ..runtime.artifact import REPORTS, Artifact
from ..runtime.contract import Contract, Parity, encode
from ..runtime.model import Siglip
from ..runtime.versions import installed_version
from .gates import GATES
from .html import page
from .ladder import Ladder, Progress
from .reference import Reference
from .report import DataRecord, Report, overall
from .samples import Samples

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
    checkpoint: str | Path,
    data: Path | None = None,
    *,
    progress: Progress = print,
) -> tuple[Report, str]:
    """Climb the whole ladder; the report and the same as an HTML page.

    Args:
        model: What is judged, loaded with the precision and provider in question.
        checkpoint: What it was made from: a folder or a hub id.
        data: A folder with captions.jsonl and perhaps labels.txt; None for the bundled photos.
        progress: Told what is being done, in a few words, before each step.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        InputError: The data cannot be used.
        ProviderError: torch or transformers is missing.
    """
    started = time.monotonic()
    samples = Samples.read(data)
    progress("Opening the reference")
    source = Checkpoint.open(checkpoint)
    reference = Reference(source.folder, source.tokenizer)
    ladder = Ladder(model, source, reference, samples, GATES[model.precision], progress)
    ladder.prepare()
    checks = tuple(ladder.climb())
    report = Report(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - started, 1),
        artifact=model.contract.name,
        contract_sha256=_fingerprint(model.contract),
        precision=model.precision,
        provider=model.options.provider,
        reference=source.name,
        reference_sha256=reference.sha256,
        data=DataRecord(samples.name, samples.sha256, len(samples.images), len(samples.texts), len(samples.pairs)),
        environment=_environment(),
        verdict=overall(checks),
        checks=checks,
    )
    return report, page(report, ladder)


def store(artifact: Artifact, report: Report, html: str) -> Path:
    """Write a report into an artifact, as JSON and as a page, and its verdict into the contract; the JSON's path.

    Raises:
        ArtifactError: The artifact cannot be written.
    """
    name = f"{REPORTS}/parity-{report.precision}-{report.provider}"
    data = report.to_json()
    parity = Parity(report.verdict, report.provider, f"{name}.json", hashlib.sha256(data).hexdigest())
    artifact.with_report(report.precision, parity, {f"{name}.json": data, f"{name}.html": html.encode()})
    return artifact.path(f"{name}.json")


def _fingerprint(contract: Contract) -> str:
    """Hash of a contract without the verdicts on it."""
    return hashlib.sha256(encode(contract.without_verdicts())).hexdigest()


def _environment() -> dict[str, str]:
    versions = {tool: version for tool in _TOOLS if (version := installed_version(tool))}
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    return {**versions, "python": platform.python_version(), "system": platform.system(), "machine": machine}
