"""`siglip-onnx validate`."""

from __future__ import annotations

from pathlib import Path

import click
import rich.text

from ..runtime import SessionOptions, Siglip
from ..runtime.contract import Precision, Verdict
from ..runtime.errors import InputError, ProviderError
from ..runtime.files import write_file
from .console import (
    artifact_argument,
    coloured,
    dialect_option,
    json_option,
    precision_option,
    print_json,
    progress,
    session_options,
    stdout,
    table,
)

_EXIT = {Verdict.PASS: 0, Verdict.FAIL: 1, Verdict.INCONCLUSIVE: 4}


@click.command()
@artifact_argument
@click.option(
    "--reference",
    "checkpoint",
    help="The checkpoint that it was exported from; without it a derived variant is compared with the fp32 one.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="A folder with captions.jsonl and perhaps labels.txt; by default a few photos that come with siglip-onnx.",
)
@click.option(
    "--report",
    "folder",
    type=click.Path(path_type=Path),
    help="Write the report into this folder and leave the artifact as it is; by default into ARTIFACT/reports.",
)
@dialect_option
@precision_option
@session_options(auto=False)
@json_option
def command(
    artifact: Path,
    checkpoint: str | None,
    data: Path | None,
    folder: Path | None,
    dialect: str | None,
    precision: Precision,
    provider: str,
    options: SessionOptions,
    as_json: bool,
) -> int:
    """Compare ARTIFACT with the PyTorch reference and give a verdict.

    The exit code is 0 for PASS, 1 for FAIL and 4 for INCONCLUSIVE.
    """
    try:
        from ..validate import report_path, store, validate
    except ImportError as error:
        raise ProviderError(
            f"Validating needs packages that are not installed ({error}).",
            "Run: pip install 'siglip-onnx[cpu,export]'.",
        ) from error
    model = Siglip.load(artifact, precision, provider, options=options)
    with progress() as step:
        report, html = validate(model, checkpoint, data, dialect=dialect, progress=step)
    if folder is None:
        path = store(model.artifact, report, html).path(report_path(report))
    else:
        path = folder / f"parity-{report.precision}-{report.provider}.json"
        _write(path, report.to_json(), html.encode())
    if as_json:
        print_json(report)
    else:
        _print(report, path)
    return _EXIT[report.verdict]


def _write(path: Path, data: bytes, html: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, data)
        write_file(path.with_suffix(".html"), html)
    except OSError as error:
        raise InputError(f"The report {path} cannot be written ({error.strerror}).", "Name another folder.") from error


def _print(report, path: Path) -> None:  # type: ignore[no-untyped-def]  # its module needs [export]
    console, checks = stdout(), table("rung", "check", "found", "allowed", "verdict", "on")
    for check in report.checks:
        found = "–" if check.value is None else f"{check.value:.7g}"
        allowed = "–" if check.limit is None else f"{check.sense} {check.limit:.7g}"
        checks.add_row(check.rung, check.name, found, allowed, coloured(check.verdict), rich.text.Text(check.detail))
    console.print(checks)
    judged = f" {report.artifact} at {report.precision} on {report.provider}, on {report.data.images} pictures and "
    console.print(
        coloured(report.verdict), f"{judged}{report.data.texts} texts of {report.data.name}, ", sep="", end=""
    )
    console.print(f"against {report.reference}.")
    console.print(f"Report: {path.with_suffix('.html')} (and .json)", soft_wrap=True)
