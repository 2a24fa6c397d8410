"""`siglip-onnx validate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import rich.text

from ..runtime import SessionOptions
from ..runtime.artifact.contract import CONTRACT_FILE, Precision, Provider, Verdict
from ..runtime.errors import InputError, ProviderError, SiglipOnnxError
from ..runtime.files import write_file
from .console import (
    artifact_argument,
    colored,
    dialect_option,
    json_option,
    precision_option,
    print_json,
    progress,
    session_options,
    stdout,
    table,
)

if TYPE_CHECKING:
    from ..validate.matrix.runner import MatrixPlan, MatrixResult
    from ..validate.matrix.worker import Job
    from ..validate.report.report import Check, Report

_EXIT = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 4}
_SUFFIXES = (".json", ".xml", ".md", ".html")
_PATH = click.Path(path_type=Path)


def _several_of(known: Sequence[str], *more: str) -> Callable[..., tuple[str, ...]]:
    """Reads names behind commas."""

    def read(context: click.Context, option: click.Parameter, value: str | None) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(name.strip() for name in (value or "").split(",") if name.strip()))
        for name in names:
            if name not in (*known, *more):
                raise click.BadParameter(f"{name!r} is none of {', '.join([*more, *known])}.", context, option)
        return names

    return read


_PRECISIONS = _several_of(list(Precision), "all")
_PROVIDERS = _several_of(list(Provider))
_NAMES = "NAME[,NAME…]"


@click.command()
@artifact_argument
@click.option(
    "--reference",
    "checkpoint",
    help="The checkpoint that it was exported from; without it a derived variant is compared with the fp32 one.",
)
@click.option("--precisions", metavar=_NAMES, callback=_PRECISIONS, help="Several variants, or all: a cell for each.")
@click.option("--providers", metavar=_NAMES, callback=_PROVIDERS, help="What runs them: a cell for each.")
@click.option("--optional", metavar=_NAMES, callback=_PROVIDERS, help="Providers whose cells may be missing.")
@click.option("--data", type=_PATH, help="Your images; by default a few photos that come with siglip-onnx.")
@click.option("--sample", type=click.IntRange(1), help="So many images of them, drawn at random.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of what is drawn at random.")
@click.option("--labels", type=_PATH, help="A file with a label a line to choose among.")
@click.option("--template", "templates", multiple=True, help='What is read for a label, as in "a photo of {}".')
@click.option("--image-column", help="Of a table, where its name does not tell.")
@click.option("--caption-column", help="Likewise.")
@click.option("--class-column", help="Likewise.")
@click.option("--gates", type=_PATH, help="A TOML file with limits of your own.")
@click.option("--baseline", type=_PATH, help="The report of the last accepted release; nothing may become worse.")
@click.option("--mapping", type=_PATH, help="A TOML file that says which of your files is which tower.")
@click.option("--jobs", type=click.IntRange(1), help="Cells at a time, as memory allows; by default one for 4 cores.")
@click.option("--timeout", type=click.FloatRange(1), default=3600.0, show_default=True, help="Seconds for a cell.")
@click.option("--explain", is_flag=True, help="Where a cell fails, look for the node that is to blame.")
@click.option(
    "--report",
    "folder",
    type=_PATH,
    help="Write the reports into this folder and leave the artifact as it is; by default into ARTIFACT/reports.",
)
@dialect_option
@precision_option
@session_options(auto=False)
@json_option
def command(
    artifact: Path,
    checkpoint: str | None,
    precisions: tuple[str, ...],
    providers: tuple[str, ...],
    optional: tuple[str, ...],
    jobs: int | None,
    timeout: float,
    explain: bool,
    folder: Path | None,
    precision: str,
    provider: str,
    as_json: bool,
    **asked: Any,
) -> int:
    """Compare ARTIFACT with the PyTorch reference and give a verdict.

    ARTIFACT may also be an export by Optimum or for transformers.js, a pair of towers as Immich has them, or bare files
    with a --mapping. With --precisions or --providers each cell is judged in a process of its own, and parity.json,
    parity.xml (JUnit), parity.md and parity.html are written.

    The exit code is 0 for PASS, 1 for FAIL and 4 for INCONCLUSIVE.
    """
    try:
        from ..validate.matrix.runner import MatrixPlan
        from ..validate.open_model import is_artifact
    except ImportError as error:
        raise ProviderError(
            f"Validating needs packages that are not installed ({error}).",
            "Run: pip install 'siglip-onnx[cpu,export]'.",
        ) from error
    job = _job(artifact, checkpoint, **asked)
    if folder is None and artifact.is_dir() and not is_artifact(artifact):
        raise InputError(
            f"{artifact} has no {CONTRACT_FILE}, so there is no place in it for a report.",
            "Name a folder for it with --report.",
        )
    if unused := set(optional) - set(providers):
        raise click.UsageError(f"--optional names {min(unused)}, which is none of --providers.")
    if not precisions and not providers:
        if jobs is not None:
            raise click.UsageError("--jobs is for --precisions and --providers; there is one cell here.")
        _forget(job, folder, f"parity-{precision}-{provider}")
        return _one(job, Precision(precision), Provider(provider), folder, explain=explain, as_json=as_json)
    _forget(job, folder)
    plan = MatrixPlan(
        precisions=_precisions(job, precisions or (precision,)),
        providers=tuple(map(Provider, providers or (provider,))),
        optional=frozenset(map(Provider, optional)),
        jobs=jobs,
        timeout=timeout,
    )
    return _several(job, plan, folder, explain=explain, as_json=as_json)


def _job(
    artifact: Path,
    checkpoint: str | None,
    sample: int | None,
    seed: int,
    labels: Path | None,
    templates: tuple[str, ...],
    image_column: str | None,
    caption_column: str | None,
    class_column: str | None,
    options: SessionOptions,
    **asked: Any,
) -> Job:
    from ..runtime import user_cache
    from ..validate.data.samples import DataOptions
    from ..validate.matrix.worker import Job

    columns = {"image_column": image_column, "caption_column": caption_column, "class_column": class_column}
    chosen = DataOptions(sample=sample, seed=seed, labels=labels, templates=templates or ("{}",), **columns)
    return Job(artifact, checkpoint, user_cache.folder("answers"), data_options=chosen, options=options, **asked)


def _forget(job: Job, folder: Path | None, *names: str) -> None:
    """Remove the reports of an earlier run: should this one end early, nobody may take them for its own."""
    if folder is None:
        return
    if job.baseline is not None and job.baseline.resolve().parent == folder.resolve():
        raise InputError(f"The baseline {job.baseline} lies in the folder of the report.", "Keep it somewhere else.")
    old = (folder / f"{name}{suffix}" for name in ("parity", *names) for suffix in _SUFFIXES)
    try:
        for path in filter(Path.exists, old):
            path.unlink()
    except OSError as error:
        raise _unwritable(folder, error) from error


def _precisions(job: Job, asked: tuple[str, ...]) -> tuple[Precision, ...]:
    """Those that were asked for; all are those that there are, and those that the baseline had."""
    from ..validate.checks.regression import accepted
    from ..validate.open_model import precisions_of

    if "all" not in asked:
        return tuple(map(Precision, asked))
    there = precisions_of(job)
    before = [precision for precision, _ in accepted(job.baseline)] if job.baseline else []
    return tuple(dict.fromkeys((*there, *before)))


def _one(
    job: Job, precision: Precision, provider: Provider, folder: Path | None, *, explain: bool, as_json: bool
) -> int:
    """A single cell, in this process."""
    from ..validate import report_path, store, validate
    from ..validate.data.samples import Samples
    from ..validate.open_model import open_model

    with progress() as step:
        subject = open_model(job, precision, provider)
        samples = Samples.read(job.data, job.data_options)
        terms = job.terms(precision, provider, subject.without)
        report, html, _ = validate(subject.model, job.checkpoint, samples, terms, progress=step)
    if folder is None:
        path = store(subject.model.artifact, report, html).path(report_path(report))
    else:
        path = folder / f"parity-{report.precision}-{report.provider}.json"
        _write(folder, {path.name: report.to_json(), path.with_suffix(".html").name: html.encode()})
    if as_json:
        print_json(report)
    else:
        _print(report, path, subject.notes)
    if explain and report.verdict is Verdict.FAIL:
        _explain(job, report, path.parent)
    return _EXIT[report.verdict]


def _several(job: Job, plan: MatrixPlan, folder: Path | None, *, explain: bool, as_json: bool) -> int:
    """A gate of many cells."""
    from ..validate.matrix.output_files import matrix_files, store_cells
    from ..validate.matrix.runner import run_matrix

    with progress() as step:
        outcome = run_matrix(job, plan, progress=step)
    place = job.artifact / "reports" if folder is None else folder
    _write(place, matrix_files(outcome))
    if folder is None:
        store_cells(job.artifact, outcome)
    if as_json:
        print_json(outcome.matrix)
    else:
        _print_matrix(outcome, place)
    failed = [cell.report for cell in outcome.matrix.cells if cell.report and cell.verdict is Verdict.FAIL]
    if explain and failed:
        _explain(job, failed[0], place)
    return _EXIT[outcome.matrix.verdict]


def _explain(job: Job, report: Report, folder: Path) -> None:
    """Say why a cell fails, and leave what shows it beside the report."""
    from ..validate.explain.from_report import explain_report

    place = folder / f"why-{report.precision}-{report.provider}"
    try:
        with progress() as step:
            explanation = explain_report(job, report, place, progress=step)
    except SiglipOnnxError as error:  # the verdict stands, and so does its exit code
        click.echo(f"It could not be explained: {error}", err=True)
    else:
        click.echo(explanation.describe(place), err=True)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_file(folder / name, data)
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> InputError:
    return InputError(f"The report cannot be written into {folder} ({error.strerror}).", "Name another folder.")


def _print(report: Report, path: Path, notes: tuple[str, ...]) -> None:
    console = stdout()
    for note in notes:
        console.print(note, soft_wrap=True)
    console.print(_checks(report.checks))
    judged = f" {report.artifact} at {report.precision} on {report.provider}, on {report.data.images} images and "
    console.print(colored(report.verdict), f"{judged}{report.data.texts} texts of {report.data.name}, ", sep="", end="")
    console.print(f"against {report.reference}.")
    if report.data.scope:
        console.print(f"Note: {report.data.scope}.", soft_wrap=True)
    console.print(f"Report: {path.with_suffix('.html')} (and .json)", soft_wrap=True)


def _checks(checks: tuple[Check, ...]) -> Any:
    from ..validate.report import formatting

    rows = table("group", "check", "required", "allowed", "noise", "verdict", "on")
    for check in checks:
        numbers = formatting.measured(check), formatting.limit(check), formatting.noise(check)
        rows.add_row(check.group, check.name, *numbers, colored(check.verdict), rich.text.Text(check.detail))
    return rows


def _print_matrix(outcome: MatrixResult, folder: Path) -> None:
    from ..validate.report import formatting

    matrix, console = outcome.matrix, stdout()
    rows = table("precision", "provider", "verdict", "first problem", "required", "allowed", "seconds")
    for cell in matrix.cells:
        problem = cell.report.first_problem() if cell.report else None
        name = f"{problem.group}: {problem.name}" if problem else cell.problem or formatting.NOTHING
        numbers = (formatting.measured(problem), formatting.limit(problem)) if problem else (formatting.NOTHING,) * 2
        optional = "" if cell.required else " (optional)"
        row = (cell.precision, cell.provider + optional, colored(cell.verdict), rich.text.Text(name), *numbers)
        rows.add_row(*row, f"{cell.seconds:.0f}")
    console.print(rows)
    data = f"{matrix.data.images} images and {matrix.data.texts} texts of {matrix.data.name}"
    console.print(colored(matrix.verdict), f" {matrix.artifact} on {data}, against {matrix.reference}.", sep="")
    if matrix.data.scope:
        console.print(f"Note: {matrix.data.scope}.", soft_wrap=True)
    console.print(f"Report: {folder / 'parity.html'} (and .json, .xml, .md)", soft_wrap=True)
