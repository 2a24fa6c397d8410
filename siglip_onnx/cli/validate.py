"""`siglip-onnx validate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..runtime.artifact.artifact import Artifact
from ..runtime.artifact.contract import CONTRACT_FILE, Precision, Provider, Verdict
from ..runtime.errors import InputError, ProviderError, SiglipOnnxError
from ..runtime.files import write_file
from .console import artifact_argument, dialect_option, json_option, print_json, progress, session_options
from .validate_options import ALL, validate_options

if TYPE_CHECKING:
    from ..validate import MatrixPlan, MatrixResult, ValidationRequest

_EXIT = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 4}
_REPORT_FILES = tuple(f"parity{suffix}" for suffix in (".json", ".xml", ".md", ".html"))


@dataclass(frozen=True)
class _Output:
    """Where and how results are reported.

    Attributes:
        folder: Folder of the reports.
        store: Whether verdicts also go into the artifact.
        explain: Whether to search for the node at fault.
        as_json: Whether to print JSON.
    """

    folder: Path
    store: bool
    explain: bool
    as_json: bool


@click.command()
@artifact_argument
@validate_options
@dialect_option
@session_options(auto=False, with_provider=False)
@json_option
def command(
    artifact: Path,
    precisions: tuple[str, ...],
    providers: tuple[str, ...],
    allow_missing: tuple[str, ...],
    jobs: int | None,
    timeout: float,
    explain: bool,
    output_dir: Path | None,
    as_json: bool,
    baseline: Path | None,
    **arguments: Any,
) -> int:
    """Compare ARTIFACT with the PyTorch reference and give a verdict.

    ARTIFACT may also be an export by Optimum or for transformers.js, a model folder of Immich, or ONNX files with a
    --tower-map. Several precisions or providers make a matrix, which validates each cell in its own process. The
    results are parity.json, parity.xml (JUnit), parity.md and parity.html.

    The exit code is 0 for PASS, 1 for FAIL and 4 for INCONCLUSIVE.
    """
    _check_packages()
    _check_output(artifact, output_dir, baseline)
    _remove_old_reports(output_dir)
    request = _request(artifact, baseline, **arguments)
    plan = _plan(request, precisions, providers, allow_missing, jobs, timeout)
    result = _validate(request, plan)
    output = _Output(output_dir or artifact / "reports", output_dir is None, explain, as_json)
    _report(request, result, output)
    return _EXIT[result.matrix.verdict]


def _check_packages() -> None:
    try:
        from .. import validate  # noqa: F401
    except ImportError as error:
        raise ProviderError(
            f"Validation needs packages that are not installed ({error}).",
            "Run: pip install 'siglip-onnx[cpu,export]'.",
        ) from error


def _check_output(artifact: Path, output_dir: Path | None, baseline: Path | None) -> None:
    if not artifact.exists():
        Artifact.open(artifact)  # raises ArtifactError, before an option's file is blamed
    if output_dir is None and artifact.is_dir() and not (artifact / CONTRACT_FILE).exists():
        raise InputError(
            f"{artifact} has no {CONTRACT_FILE}, so reports cannot be stored in it.",
            "Name a folder for them with --output-dir.",
        )
    if output_dir is not None and baseline is not None and baseline.resolve().parent == output_dir.resolve():
        raise InputError(
            f"The baseline {baseline} lies in --output-dir, whose reports are replaced.", "Keep it in another folder."
        )


def _remove_old_reports(output_dir: Path | None) -> None:
    """Remove the reports of an earlier run, so that nobody takes them for this run's if it ends early."""
    if output_dir is None:
        return
    try:
        for name in _REPORT_FILES:
            (output_dir / name).unlink(missing_ok=True)
    except OSError as error:
        raise _not_writable(output_dir, error) from error


def _request(
    artifact: Path,
    baseline: Path | None,
    limits: Path | None,
    max_samples: int | None,
    seed: int,
    labels: Path | None,
    templates: tuple[str, ...],
    image_column: str | None,
    caption_column: str | None,
    class_column: str | None,
    **arguments: Any,
) -> ValidationRequest:
    from ..runtime import user_cache
    from ..validate import DataOptions, LimitTable, ValidationRequest, read_baseline

    columns = {"image_column": image_column, "caption_column": caption_column, "class_column": class_column}
    return ValidationRequest(
        artifact,
        data_options=DataOptions(
            sample=max_samples, seed=seed, labels=labels, templates=templates or ("{}",), **columns
        ),
        limits=LimitTable.read(limits) if limits else LimitTable(),
        baseline=tuple(read_baseline(baseline).values()) if baseline else (),
        cache=user_cache.folder("reference"),
        **arguments,
    )


def _plan(
    request: ValidationRequest,
    precisions: tuple[str, ...],
    providers: tuple[str, ...],
    allow_missing: tuple[str, ...],
    jobs: int | None,
    timeout: float,
) -> MatrixPlan:
    from ..validate import MatrixPlan

    columns = _providers(providers)
    if unused := set(allow_missing) - set(columns):
        raise click.UsageError(f"--allow-missing names {min(unused)}, which --provider does not name.")
    missing = frozenset(map(Provider, allow_missing))
    return MatrixPlan(_precisions(request, precisions), columns, missing, jobs, timeout)


def _precisions(request: ValidationRequest, names: tuple[str, ...]) -> tuple[Precision, ...]:
    """The named precisions; all are those of the artifact and those of the baseline."""
    from ..validate import available_precisions

    if ALL not in names:
        return tuple(map(Precision, names))
    accepted = (report.precision for report in request.baseline)
    return tuple(dict.fromkeys((*available_precisions(request), *accepted)))


def _providers(names: tuple[str, ...]) -> tuple[Provider, ...]:
    """The named providers; all are those that work on this machine."""
    from ..runtime.engines.preflight import check_provider

    if ALL not in names:
        return tuple(map(Provider, names))
    return tuple(provider for provider in Provider if provider in names or check_provider(provider) is None)


def _validate(request: ValidationRequest, plan: MatrixPlan) -> MatrixResult:
    """Validate a single cell in this process, which an error ends; a matrix in a process for each cell."""
    from ..validate import run_cell, run_matrix

    with progress() as step:
        if len(plan.cells) == 1 and not plan.allow_missing:
            return run_cell(request, *plan.cells[0], progress=step)
        return run_matrix(request, plan, progress=step)


def _report(request: ValidationRequest, result: MatrixResult, output: _Output) -> None:
    from ..validate import report_files, store_cells
    from .validate_output import print_result

    _write(output.folder, report_files(result))
    if output.store:
        store_cells(request.artifact, result)
    if output.as_json:
        print_json(result.matrix)
    else:
        print_result(result, output.folder)
    if output.explain:
        _explain(request, result, output.folder)


def _explain(request: ValidationRequest, result: MatrixResult, folder: Path) -> None:
    """Explain the first cell that fails, and leave a replay beside the report."""
    from ..validate.explain.from_report import explain_report

    failed = [cell.report for cell in result.matrix.cells if cell.report and cell.verdict is Verdict.FAIL]
    if not failed:
        return
    place = folder / f"why-{failed[0].precision}-{failed[0].provider}"
    try:
        with progress() as step:
            explanation = explain_report(request, failed[0], place, progress=step)
    except SiglipOnnxError as error:  # the verdict stands, and so does its exit code
        click.echo(f"The failure could not be explained: {error}", err=True)
    else:
        click.echo(explanation.describe(place), err=True)


def _write(folder: Path, files: dict[str, bytes]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_file(folder / name, data)
    except OSError as error:
        raise _not_writable(folder, error) from error


def _not_writable(folder: Path, error: OSError) -> InputError:
    return InputError(f"The reports cannot be written into {folder} ({error.strerror}).", "Name another folder.")
