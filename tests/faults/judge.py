"""Asking `validate` for a verdict; nothing else here knows how it is called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from siglip_onnx.runtime import Artifact, SessionOptions, Siglip
from siglip_onnx.runtime.artifact.contract import Precision, Provider
from siglip_onnx.validate import LimitTable, Report, Terms, store, validate
from siglip_onnx.validate.checks.regression import accepted
from siglip_onnx.validate.data.samples import Samples

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
    """Climb the whole ladder.

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
        terms = Terms(limits=DEFAULT_LIMITS, accepted=release, answers=answers)
        return validate(model, checkpoint, data, terms, progress=lambda step: None).report


def keep(artifact: Path | Artifact, report: Report) -> None:
    """Store a report in an artifact, without its page; raises ArtifactError where that is another one by now."""
    store(Artifact.open(artifact) if isinstance(artifact, Path) else artifact, report, "")


def report_file(artifact: Path, precision: Precision = Precision.FP32) -> Path:
    """Where the report of a variant on the CPU lies."""
    return artifact / "reports" / f"parity-{precision}-cpu.json"


def earlier(path: Path, precision: Precision) -> Report:
    """The report of an accepted release; errors as of `validate --baseline`."""
    return accepted(path)[precision, Provider.CPU]
