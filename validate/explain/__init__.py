"""When a variant fails, why: the first node that is off, the fewest that must be mended, and a script that shows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ...runtime.artifact.artifact import Artifact
from ...runtime.artifact.contract import Role
from ...runtime.errors import ProviderError
from ...runtime.model import Siglip
from ..report.report import Report
from .explanation import Culprit, Explanation, Remedy, TowerState

__all__ = ["Culprit", "Explanation", "Remedy", "TowerState", "explain"]


def explain(
    model: Siglip,
    trusted: Artifact,
    rows: Mapping[Role, NDArray[Any]],
    report: Report,
    folder: Path,
    *,
    enough: Callable[[Role, NDArray[Any]], bool],
    progress: Callable[[str], None] = print,
) -> Explanation:
    """Find out why a variant fails, and leave what shows it in a folder.

    Args:
        model: The variant that fails, on the provider that it fails on.
        trusted: An artifact whose fp32 graphs are right; they run on the CPU.
        rows: For each tower a few rows of its input, as the graphs of both take them; each is run alone.
        report: Why it is said to fail.
        folder: Will have explanation.json and, where nodes are to blame, replay/; it is replaced if it is there.
        enough: Whether a tower would pass with these embeddings, float32 [rows, size], of its rows.
        progress: Told what is being done, in a few words, before each step.

    Raises:
        ProviderError: The onnx package is missing.
        InputError: The folder cannot be written.
    """
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise ProviderError(
            f"Looking into graphs needs packages that are not installed ({error}).",
            "Run: pip install 'siglip-onnx[cpu,export]'.",
        ) from error
    from .diagnose import Case, walk

    return walk(Case(model, trusted, rows, report, enough, progress), folder)
