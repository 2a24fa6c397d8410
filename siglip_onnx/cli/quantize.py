"""`siglip-onnx quantize`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec
import rich.text

from ..runtime.artifact.contract import Precision, Provider, Role
from ..runtime.errors import InputError, ProviderError
from .console import artifact_argument, colored, json_option, print_json, progress, stdout, table

if TYPE_CHECKING:
    from ..quantize import Goal, QuantizeResult, Recipe

_PRECISIONS = [p.value for p in Precision if p is not Precision.FP32]


@click.command()
@artifact_argument
@click.option("--precision", type=click.Choice(_PRECISIONS), required=True, help="Which variant to derive.")
@click.option("--tower", type=click.Choice([Role.VISION.value, Role.TEXT.value]), help="Only this one.")
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    help="A folder with captions.jsonl and perhaps labels.txt, to calibrate with and to judge by; by default a few "
    "photos that come with siglip-onnx.",
)
@click.option("--samples", type=click.IntRange(min=1), help="Pairs of it to calibrate with; the others judge.")
@click.option("--skip-unreadable", is_flag=True, help="Leave out images that cannot be read.")
@click.option("--auto", is_flag=True, help="Search for what to leave at higher precision until --target is met.")
@click.option("--target", type=float, help="What --auto has to reach; by default 0.999, 0.2 or 0.005 of the metric.")
@click.option(
    "--metric",
    type=click.Choice(["centered-cosine", "logit-sigma", "retrieval-drop"]),
    help="What --target is about; by default centered-cosine.",
)
@click.option("--evaluations", type=int, help="The most towers that --auto may try; by default 160.")
@click.option("--keep", multiple=True, metavar="SITE", help="Leave this at higher precision, as in layers.0.mlp.fc2.")
@click.option(
    "--set",
    "options",
    multiple=True,
    metavar="NAME=VALUE",
    help="An option of the precision; see docs/quantization.md.",
)
@click.option("--cuda", is_flag=True, help="With fp16: write graphs with fused operators for CUDA, too.")
@click.option(
    "--reference", help="Judge by this checkpoint instead of the fp32 variant (which must have passed by its own)."
)
@click.option(
    "--limits", "limits_file", type=click.Path(path_type=Path), help="A TOML file with limits of your own to judge by."
)
@click.option("--overwrite", is_flag=True, help="Replace a variant that is there already.")
@click.option("--keep-failing", is_flag=True, help="Keep the variant, whatever the verdict is.")
@json_option
def command(
    artifact: Path,
    precision: str,
    tower: str | None,
    auto: bool,
    target: float | None,
    metric: str | None,
    evaluations: int | None,
    keep: tuple[str, ...],
    options: tuple[str, ...],
    limits_file: Path | None,
    as_json: bool,
    **job: object,
) -> int:
    """Add a smaller or faster variant to ARTIFACT, and judge it.

    The variant is kept only if it passes; its verdict is noted in the artifact. Exit codes are those of validate, and
    9 where no variant can be made.
    """
    try:
        from ..quantize import RECIPES, QuantizeRequest, quantize
        from ..validate import LimitTable
    except ImportError as error:
        raise ProviderError(
            f"Quantizing needs packages that are not installed ({error}).",
            "Run: pip install 'siglip-onnx[cpu,export]'.",
        ) from error
    recipe = _recipe(RECIPES[Precision(precision)], keep, options)
    goal = _goal(auto, target, metric, evaluations)
    towers = {"towers": (Role(tower),)} if tower else {}
    if limits_file is not None:
        job["limits"] = LimitTable.read(limits_file)
    with progress() as step:
        result = quantize(artifact, recipe, QuantizeRequest(**job, **towers, goal=goal), progress=step)  # type: ignore[arg-type]
    if as_json:
        print_json({"record": result.record, "reports": result.reports})
    else:
        _print(result)
    return 0 if all(report.verdict == "PASS" for report in result.reports) else _exit(result)


def _goal(auto: bool, target: float | None, metric: str | None, evaluations: int | None) -> Goal | None:
    from ..quantize import DEFAULT_TARGETS, Goal, Metric

    if not auto:
        if (target, metric, evaluations) != (None, None, None):
            raise click.UsageError("--target, --metric and --evaluations are for --auto.")
        return None
    about = Metric(metric) if metric else Metric.CENTRED_COSINE
    reached = DEFAULT_TARGETS[about] if target is None else target
    return Goal(reached, about) if evaluations is None else Goal(reached, about, evaluations)


def _exit(result: QuantizeResult) -> int:
    return 1 if any(report.verdict == "FAIL" for report in result.reports) else 4


def _recipe(kind: type[Recipe], keep: tuple[str, ...], options: tuple[str, ...]) -> Recipe:
    """The recipe with its options; msgspec turns their text into what the dataclass says."""
    known = [f"{f.name}={_shown(f.default)}" for f in dataclasses.fields(kind) if f.name != "keep"]
    values: dict[str, object] = {"keep": keep}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or name not in {entry.partition("=")[0] for entry in known}:
            raise InputError(f"{kind.precision} has no option {option!r}.", f"It has: {', '.join(known) or 'none'}.")
        values[name] = tuple(value.split(",")) if name == "float32" else value
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise InputError(
            f"{' '.join(options)} does not fit ({error}).", f"The defaults are {', '.join(known)}."
        ) from error


def _shown(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value).lower()


def _print(result: QuantizeResult) -> None:
    record, console = result.record, stdout()
    rows = table("tower", "MB", "of fp32", "kept at higher precision", "calibration", "seconds")
    for role, tower in record.towers.items():
        kept = ", ".join(tower.kept) or "nothing"
        notes = f"{len(tower.notes)} notes" if tower.notes else "–"
        share = f"{tower.bytes / tower.fp32_bytes:.3f}"
        rows.add_row(role, f"{tower.bytes / 1e6:,.1f}", share, rich.text.Text(kept), notes, f"{tower.seconds:.1f}")
    console.print(rows)
    for role, tower in record.towers.items():
        for name, note in tower.notes.items():
            if note.startswith("float32"):
                console.print(f"{role}: {name} stays {note}", soft_wrap=True)
    for name in record.skipped:
        console.print(f"Left out as unreadable: {name}", soft_wrap=True)
    for report in result.reports:
        judged = f" {report.artifact} at {report.precision} on {report.provider}, on {report.data.images} images and "
        tail = f"{report.data.texts} texts of {report.data.name}, against {report.reference}."
        console.print(colored(report.verdict), judged + tail, sep="", soft_wrap=True)
        if problem := report.first_problem():
            console.print(f"First problem: {problem.group} / {problem.name}. {problem.detail}", soft_wrap=True)
    if record.fused and all(report.provider is not Provider.CUDA for report in result.reports):
        console.print(
            "The CUDA graphs were compared with the plain ones in float32 and carry no verdict yet: run "
            f"siglip-onnx validate --precision {record.precision} --provider cuda where there is a GPU.",
            soft_wrap=True,
        )
