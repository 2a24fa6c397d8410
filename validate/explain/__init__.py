"""Explains why a variant fails: the first faulty node, the smallest fix, and a script that reproduces the fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from ...runtime.arrays import AnyArray
from ...runtime.artifact.artifact import Artifact
from ...runtime.artifact.contract import Role
from ...runtime.errors import ProviderError
from ...runtime.model import Siglip
from ..report.report import Report
from .explanation import Culprit, Explanation, MinimalFix, TowerState

__all__ = ["Culprit", "Explanation", "MinimalFix", "TowerState", "explain"]


def explain(
    model: Siglip,
    reference: Artifact,
    rows: Mapping[Role, AnyArray],
    report: Report,
    folder: Path,
    *,
    passes: Callable[[Role, AnyArray], bool],
    progress: Callable[[str], None] = print,
) -> Explanation:
    """Find the cause of a failing verdict and write the explanation to a folder.

    Args:
        model: The failing variant, on the provider that it fails on.
        reference: An artifact whose fp32 graphs are correct; they run on the CPU.
        rows: A few input rows for each tower, in the form that the graphs of both artifacts take: int64 ids
            [rows, length] for text, float32 pixels [rows, 3, height, width] for vision. Each row runs alone.
        report: The failing report.
        folder: Where to write explanation.json and, if nodes are at fault, replay/; an existing folder is replaced.
        passes: Whether a tower would pass with the given embeddings, float32 [rows, size], of its rows.
        progress: Called with a short message before each step.

    Raises:
        ProviderError: The onnx package is not installed.
        InputError: The folder cannot be written.
    """
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise ProviderError(
            f"Explaining a failure needs packages that are not installed ({error}).",
            "Run: pip install 'siglip-onnx[cpu,export]'.",
        ) from error
    from .diagnose import DiagnosisInput, diagnose

    return diagnose(DiagnosisInput(model, reference, rows, report, passes, progress), folder)
