"""Asking `validate` for a verdict; nothing else here knows how it is called."""

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
# A dozen pairs prove no margin of two percent; every other limit is the default.
DEFAULT_LIMITS: Final = LimitTable({("default",): {"margin": 0.25}}, "defaults but for the margin")


def judge(
    artifact: Path,
    data: Path | Samples | None,
    *,
    precision: Precision = Precision.FP32,
    options: SessionOptions | None = None,
    code: Callable[[Siglip], None] | None = None,
    checkpoint: Path | None = CHECKPOINT,
    answers: Path | None = None,
    release: Report | None = None,
) -> Report:
    """Run every check.

    Args:
        artifact: What is judged.
        data: On what; None for the bundled photos.
        precision: Which variant.
        options: How it is loaded.
        code: Changes the loaded model first.
        checkpoint: What it is compared with; None for its fp32 variant.
        answers: Where the reference's answers are kept.
        release: The report of the last release.

    Raises:
        SiglipOnnxError: There is nothing to judge, or nothing to judge by.
    """
    with Siglip(Artifact.open(artifact), precision, options) as model:
        if code is not None:
            code(model)
        result = validate(
            model,
            checkpoint,
            data,
            limits=DEFAULT_LIMITS,
            baseline=release,
            cache=answers,
            progress=lambda step: None,
        )
        return result.report


def keep(artifact: Path | Artifact, report: Report) -> None:
    """Store a report in an artifact; raises ArtifactError if the artifact has changed since it was opened."""
    store_verdict(Artifact.open(artifact) if isinstance(artifact, Path) else artifact, ValidationResult(report))


def report_file(artifact: Path, precision: Precision = Precision.FP32) -> Path:
    """Where the report of a variant on the CPU lies."""
    return artifact / "reports" / f"parity-{precision}-cpu.json"


def earlier(path: Path, precision: Precision) -> Report:
    """The report of an accepted release; errors as of `validate --baseline`."""
    return read_baseline(path)[precision, Provider.CPU]
