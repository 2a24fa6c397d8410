"""Options of `siglip-onnx validate`."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from ..runtime.artifact.contract import Precision, Provider

ALL = "all"
_PATH = click.Path(path_type=Path)


def _names(known: Sequence[str]) -> Callable[..., tuple[str, ...]]:
    """A callback that splits names at commas and refuses an unknown one with a suggestion."""

    def split(context: click.Context, option: click.Parameter, value: str | None) -> tuple[str, ...]:
        names = tuple(dict.fromkeys(name.strip() for name in (value or "").split(",") if name.strip()))
        for name in names:
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                advice = f"Did you mean {close[0]}?" if close else f"Choose from {', '.join(known)}."
                raise click.BadParameter(f"unknown name {name!r}. {advice}", context, option)
        if value is not None and not names:
            raise click.BadParameter("expected at least one name.", context, option)
        return names

    return split


_METAVAR = "NAME[,NAME…]"
_OPTIONS = (
    click.option(
        "--reference",
        metavar="CHECKPOINT",
        help="Checkpoint that ARTIFACT was exported from. Without it, other variants are compared with the fp32 one.",
    ),
    click.option(
        "--precision",
        "precisions",
        metavar=_METAVAR,
        callback=_names([*Precision, ALL]),
        default="fp32",
        show_default=True,
        help="Variants to validate, or all.",
    ),
    click.option(
        "--provider",
        "providers",
        metavar=_METAVAR,
        callback=_names([*Provider, ALL]),
        default="cpu",
        show_default=True,
        help="Providers to validate on, or all that work on this machine.",
    ),
    click.option(
        "--allow-missing",
        metavar=_METAVAR,
        callback=_names(list(Provider)),
        help="Providers that may be missing here.",
    ),
    click.option("--data", type=_PATH, help="Your images. Without it, a few bundled photos."),
    click.option("--max-samples", type=click.IntRange(1), help="Validate a random subset of this many images."),
    click.option("--seed", type=int, default=0, show_default=True, help="Random seed of the subset."),
    click.option("--labels", type=_PATH, help="File with the labels to choose among, one per line."),
    click.option("--template", "templates", multiple=True, help='Prompt for a label, such as "a photo of {}".'),
    click.option("--image-column", help="Column with images (default: detected)."),
    click.option("--caption-column", help="Column with captions (default: detected)."),
    click.option("--class-column", help="Column with classes (default: detected)."),
    click.option("--limits", type=_PATH, help="TOML file with your own limits."),
    click.option("--baseline", type=_PATH, help="parity.json of the last release; no number may become worse."),
    click.option("--tower-map", type=_PATH, help="TOML file that names the towers of an external model."),
    click.option("--jobs", type=click.IntRange(1), help="Cells to run at once (default: one per four cores)."),
    click.option("--timeout", type=click.FloatRange(1), default=3600.0, show_default=True, help="Seconds per cell."),
    click.option("--explain", is_flag=True, help="If a cell fails, search for the node at fault."),
    click.option(
        "--output-dir",
        type=_PATH,
        help="Write the reports here and leave ARTIFACT unchanged (default: ARTIFACT/reports).",
    ),
)


def validate_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of `siglip-onnx validate` to a command."""
    return functools.reduce(lambda decorated, option: option(decorated), reversed(_OPTIONS), command)
