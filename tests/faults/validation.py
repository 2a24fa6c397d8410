"""Calls `validate`; no other module of this package knows its signature."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from siglip_onnx.runtime import Artifact, SessionOptions, Siglip
from siglip_onnx.runtime.artifact.contract import Precision, Provider
from siglip_onnx.validate import (
    LimitTable,
    Report,
    Samples,
    ValidationResult,
    read_baseline,
    store_verdict,
    validate,
)

ROOT: Final = Path(__file__).parents[2]
CHECKPOINT: Final = ROOT / "examples" / "emoji" / "checkpoint"
EVAL: Final = ROOT / "examples" / "emoji" / "eval"
# A dozen pairs cannot prove a margin of two percent; every other limit is the default.
LIMITS: Final = LimitTable({("default",): {"margin": 0.25}}, "defaults but for the margin")


def validate_artifact(
    artifact: Path,
    data: Path | Samples | None,
    *,
    precision: Precision = Precision.FP32,
    options: SessionOptions | None = None,
    patch: Callable[[Siglip], None] | None = None,
    checkpoint: Path | None = CHECKPOINT,
    cache: Path | None = None,
    release: Report | None = None,
) -> Report:
    """Run all checks.

    Args:
        artifact: The artifact to validate.
        data: The data to validate on; None for the bundled photos.
        precision: The variant to validate.
        options: Its session options.
        patch: Changes the loaded model before validation.
        checkpoint: The checkpoint to compare with; None to compare with the fp32 variant.
        cache: Folder of the reference cache.
        release: The report of the last release.

    Raises:
        SiglipOnnxError: The artifact, the data or the checkpoint cannot be used.
    """
    with Siglip(Artifact.open(artifact), precision, options) as model:
        if patch is not None:
            patch(model)
        result = validate(
            model, checkpoint, data, limits=LIMITS, baseline=release, cache=cache, progress=lambda step: None
        )
        return result.report


def store_report(artifact: Path | Artifact, report: Report) -> None:
    """Store a report in an artifact, without its HTML; raise ArtifactError if the artifact has changed since."""
    store_verdict(Artifact.open(artifact) if isinstance(artifact, Path) else artifact, ValidationResult(report))


def report_file(artifact: Path, precision: Precision = Precision.FP32) -> Path:
    """Path of a variant's report for the CPU."""
    return artifact / "reports" / f"parity-{precision}-cpu.json"


def accepted_report(path: Path, precision: Precision) -> Report:
    """Read the report of an accepted release; raises the errors of `validate --baseline`."""
    return read_baseline(path)[precision, Provider.CPU]
