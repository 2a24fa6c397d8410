"""`siglip-onnx quantize`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
import rich.text

from ..runtime.artifact.contract import Precision, Provider, Role
from ..runtime.errors import InputError, ProviderError
from .console import artifact_argument, colored, json_option, print_json, progress, stdout, table

if TYPE_CHECKING:
    from ..quantize import Goal, QuantizeResult, Recipe, Record
    from ..validate import Report

_PRECISIONS = [p.value for p in Precision if p is not Precision.FP32]


@click.command()
@artifact_argument
@click.option("--precision", type=click.Choice(_PRECISIONS), required=True, help="Precision of the variant.")
@click.option(
    "--tower", type=click.Choice([Role.VISION.value, Role.TEXT.value]), help="Quantize only this tower (default: both)."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="Folder with images and captions, to calibrate with and to validate on; see docs/data.md (default: a few "
    "photos that come with siglip-onnx).",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    help="Number of pairs to calibrate with (default: depends on the precision); the others validate.",
)
@click.option("--skip-unreadable", is_flag=True, help="Leave out images that cannot be read.")
@click.option("--search", is_flag=True, help="Search for the sites to leave at higher precision to meet --target.")
@click.option(
    "--target",
    type=float,
    help="Target of --search (default: 0.999, 0.2 or 0.005, in the order of the metrics).",
)
@click.option(
    "--metric",
    type=click.Choice(["centered-cosine", "logit-sigma", "retrieval-drop"]),
    help="Metric of --target (default: centered-cosine).",
)
@click.option("--max-trials", type=int, help="Largest number of towers that --search may try (default: 160).")
@click.option(
    "--exclude", multiple=True, metavar="SITE", help="Leave a site such as layers.0.mlp.fc2 at higher precision."
)
@click.option(
    "--set",
    "options",
    multiple=True,
    metavar="NAME=VALUE",
    help="Set an option of the precision; see docs/quantization.md.",
)
@click.option("--cuda", is_flag=True, help="Write graphs with fused operators for CUDA, too (fp16 alone).")
@click.option(
    "--reference", help="Compare with this checkpoint (default: with the fp32 variant, which must have passed)."
)
@click.option("--limits", "limits_file", type=click.Path(path_type=Path), help="TOML file with limits of your own.")
@click.option("--overwrite", is_flag=True, help="Replace the variant if it exists.")
@click.option("--keep-failing", is_flag=True, help="Keep the variant, whatever the verdict is.")
@json_option
def command(
    artifact: Path,
    precision: str,
    tower: str | None,
    search: bool,
    target: float | None,
    metric: str | None,
    max_trials: int | None,
    exclude: tuple[str, ...],
    options: tuple[str, ...],
    limits_file: Path | None,
    as_json: bool,
    **request: Any,
) -> int:
    """Add a smaller or faster variant to ARTIFACT.

    The variant is kept only if it passes validation; its verdict is noted in the artifact. Exit codes are those of
    validate, and 9 if no variant can be made.
    """
    try:
        from ..quantize import RECIPES, QuantizeRequest, quantize
        from ..validate import LimitTable
    except ImportError as error:
        raise ProviderError(
            f"Quantizing needs packages that are not installed ({error}).",
            "Run: pip install 'siglip-onnx[cpu,export]'.",
        ) from error
    recipe = _recipe(RECIPES[Precision(precision)], exclude, options)
    request["goal"] = _goal(search, target, metric, max_trials)
    if tower:
        request["towers"] = (Role(tower),)
    if limits_file is not None:
        request["limits"] = LimitTable.read(limits_file)
    with progress() as step:
        result = quantize(artifact, recipe, QuantizeRequest(**request), progress=step)
    if as_json:
        print_json({"record": result.record, "reports": result.reports})
    else:
        _print(result)
    return _exit_code(result)


def _goal(search: bool, target: float | None, metric_name: str | None, max_trials: int | None) -> Goal | None:
    from ..quantize import DEFAULT_TARGETS, Goal, Metric

    if not search:
        if (target, metric_name, max_trials) != (None, None, None):
            raise click.UsageError("--target, --metric and --max-trials need --search.")
        return None
    metric = Metric(metric_name) if metric_name else Metric.CENTERED_COSINE
    target = DEFAULT_TARGETS[metric] if target is None else target
    return Goal(target, metric) if max_trials is None else Goal(target, metric, max_trials)


def _exit_code(result: QuantizeResult) -> int:
    verdicts = {report.verdict for report in result.reports}
    if verdicts <= {"PASS"}:
        return 0
    return 1 if "FAIL" in verdicts else 4


def _recipe(recipe_class: type[Recipe], exclude: tuple[str, ...], options: tuple[str, ...]) -> Recipe:
    """The recipe with its options, whose text msgspec converts to the types of the dataclass."""
    fields = {f.name: f for f in dataclasses.fields(recipe_class) if f.name != "exclude"}
    defaults = ", ".join(f"{name}={_as_text(field.default)}" for name, field in fields.items()) or "none"
    values: dict[str, object] = {"exclude": exclude}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or name not in fields:
            raise InputError(f"{recipe_class.precision} has no option {option!r}.", f"Its options are: {defaults}.")
        values[name] = tuple(value.split(",")) if isinstance(fields[name].default, tuple) else value
    try:
        return msgspec.convert(values, recipe_class, strict=False)
    except msgspec.ValidationError as error:
        raise InputError(f"{' '.join(options)} cannot be used: {error}.", f"The defaults are {defaults}.") from error


def _as_text(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value).lower()


def _print(result: QuantizeResult) -> None:
    _print_towers(result.record)
    for report in result.reports:
        _print_verdict(report)
    if result.record.fused and all(report.provider is not Provider.CUDA for report in result.reports):
        stdout().print(
            "The CUDA graphs were compared with the portable ones in float32 and have no verdict yet. Run siglip-onnx "
            f"validate --precision {result.record.precision} --provider cuda on a machine with a GPU.",
            soft_wrap=True,
        )


def _print_towers(record: Record) -> None:
    console = stdout()
    rows = table("tower", "MB", "of fp32", "at higher precision", "calibration", "seconds")
    for role, tower in record.towers.items():
        excluded = rich.text.Text(", ".join(tower.excluded) or "nothing")
        notes = f"{len(tower.notes)} notes" if tower.notes else "–"
        share = f"{tower.bytes / tower.fp32_bytes:.3f}"
        rows.add_row(role, f"{tower.bytes / 1e6:,.1f}", share, excluded, notes, f"{tower.seconds:.1f}")
    console.print(rows)
    for role, tower in record.towers.items():
        for name, note in tower.notes.items():
            if note.startswith("float32"):
                console.print(f"{role}: {name} stays {note}", soft_wrap=True)
    for name in record.skipped:
        console.print(f"Left out as unreadable: {name}", soft_wrap=True)


def _print_verdict(report: Report) -> None:
    console = stdout()
    variant = f" {report.artifact} at {report.precision} on {report.provider}, on {report.data.images} images and "
    data = f"{report.data.texts} texts of {report.data.name}, against {report.reference}."
    console.print(colored(report.verdict), variant + data, sep="", soft_wrap=True)
    if problem := report.first_problem():
        console.print(f"First problem: {problem.group} / {problem.name}. {problem.detail}", soft_wrap=True)
