"""Options and console output that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Any

import click
import rich.box
import rich.console
import rich.table
import rich.text

from ..exporter.options import Dialect
from ..runtime import ImageOptions
from ..runtime.artifact.contract import Precision, Provider, Verdict
from ..runtime.artifact.input_specs import Orientation, Transparency
from ..runtime.auto_select import AUTO
from ..runtime.engines.options import OpenVinoPerformance, OpenVinoPrecision, SessionOptions
from ..runtime.files import as_json
from ..runtime.model import Siglip

COLORS = {Verdict.PASS: "green", Verdict.FAIL: "bold red", Verdict.INCONCLUSIVE: "yellow"}


def choice(kind: type[StrEnum]) -> click.Choice[str]:
    """The type of an option whose values are those of an enum."""
    return click.Choice([member.value for member in kind])


artifact_argument = click.argument("artifact", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
precision_option = click.option(
    "--precision",
    type=choice(Precision),
    default="fp32",
    show_default=True,
    help="Variant to use.",
)
auto_precision_option = click.option(
    "--precision",
    type=click.Choice([*(p.value for p in Precision), AUTO]),
    default="fp32",
    show_default=True,
    help="Variant to use; auto selects the fastest one here that carries a PASS.",
)
_SESSION_OPTIONS = (
    click.option(
        "--threads", type=click.IntRange(1), help="Threads per run (default: all cores this process may use)."
    ),
    click.option("--allow-fallback", is_flag=True, help="Let the CPU run nodes that the provider does not support."),
    click.option("--device", type=click.IntRange(0), default=0, help="Number of the device, if there are several."),
    click.option("--memory-limit", type=click.IntRange(1), help="Device memory of CUDA or TensorRT in MiB."),
    click.option("--cuda-graphs", is_flag=True, help="Replay recorded CUDA graphs for small batches."),
    click.option(
        "--openvino-precision",
        type=choice(OpenVinoPrecision),
        help="Precision that OpenVINO computes in (default: the variant's).",
    ),
    click.option(
        "--openvino-performance",
        type=choice(OpenVinoPerformance),
        default="latency",
        show_default=True,
        help="Goal that OpenVINO is tuned for.",
    ),
    click.option("--cache", is_flag=True, help="Cache compiled models for the next start."),
)
_SESSION_NAMES = (
    "threads",
    "allow_fallback",
    "device",
    "memory_limit",
    "cuda_graphs",
    "openvino_precision",
    "openvino_performance",
    "cache",
)


template_option = click.option(
    "--template",
    "templates",
    multiple=True,
    default=["{}"],
    show_default=True,
    help='Prompt template, as in "a photo of {}"; several are averaged.',
)

dialect_option = click.option(
    "--dialect",
    type=choice(Dialect),
    help="Library whose tensor names and orientation the weights follow (default: detected).",
)


def session_options(
    *, auto: bool, default: str | None = "cpu", with_provider: bool = True
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options of a command that runs graphs, which gets `provider` and `options`, the SessionOptions.

    Args:
        auto: Whether the provider may be `auto`.
        default: Default provider.
        with_provider: Whether to add `--provider`; a command without it has an option of its own.
    """
    names = [p.value for p in Provider] + ([AUTO] if auto else [])
    text = "Provider to run on" + ("; auto selects the fastest one here that carries a PASS." if auto else ".")

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_options(**arguments: Any) -> Any:
            chosen = {name: arguments.pop(name) for name in _SESSION_NAMES}
            provider = arguments["provider"] if with_provider else None
            return command(options=_options(provider, **chosen), **arguments)

        provider_option = click.option(
            "--provider", type=click.Choice(names), default=default, show_default=True, help=text
        )
        decorated = provider_option(with_options) if with_provider else with_options
        return functools.reduce(lambda function, option: option(function), reversed(_SESSION_OPTIONS), decorated)

    return decorate


def _options(
    provider: str | None,
    memory_limit: int | None,
    openvino_precision: str | None,
    openvino_performance: str,
    **others: Any,
) -> SessionOptions:
    """SessionOptions from the command line; for `auto`, `Siglip.load` selects the provider later."""
    return SessionOptions(
        provider=Provider.CPU if provider in (AUTO, None) else Provider(provider),
        memory_limit=None if memory_limit is None else memory_limit * 2**20,
        openvino_precision=None if openvino_precision is None else OpenVinoPrecision(openvino_precision),
        openvino_performance=OpenVinoPerformance(openvino_performance),
        **others,
    )


_IMAGE_OPTIONS = (
    click.option(
        "--orientation",
        type=choice(Orientation),
        help="Images to turn as their EXIF orientation says (default: the artifact's choice, usually files).",
    ),
    click.option(
        "--transparency",
        type=choice(Transparency),
        help="Background of transparent images; drop ignores alpha (default: the artifact's choice, usually white).",
    ),
    click.option("--reduced-jpeg", is_flag=True, help="Decode large JPEGs at reduced size: faster, not exact."),
)


def image_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a command that decodes images, which gets `image_options`, the ImageOptions."""

    @functools.wraps(command)
    def with_options(orientation: str | None, transparency: str | None, reduced_jpeg: bool, **arguments: Any) -> Any:
        chosen = ImageOptions(
            None if orientation is None else Orientation(orientation),
            None if transparency is None else Transparency(transparency),
            reduced_jpeg=reduced_jpeg,
        )
        return command(image_options=chosen, **arguments)

    return functools.reduce(lambda function, option: option(function), reversed(_IMAGE_OPTIONS), with_options)


class _Console(rich.console.Console):
    def on_broken_pipe(self) -> None:
        """Raise the error, because rich would exit with 1, which means a parity failure here."""
        raise BrokenPipeError


def stdout() -> rich.console.Console:
    """A console as wide as the terminal, or wide enough for every table if there is no terminal."""
    console = _Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 160
    return console


def table(*headers: str) -> rich.table.Table:
    """An empty table in the plain style of all commands."""
    return rich.table.Table(*headers, box=rich.box.SIMPLE_HEAD, pad_edge=False, show_edge=False)


def colored(verdict: Verdict | None) -> rich.text.Text:
    """A verdict in its color; None is "not validated"."""
    return rich.text.Text("not validated", "dim") if verdict is None else rich.text.Text(verdict, COLORS[verdict])


def tell_choice(model: Siglip, precision: str, provider: str) -> None:
    """Print to standard error the variant and provider that `auto` selected."""
    if AUTO in (precision, provider):
        click.echo(f"Selected {model.precision} on {model.options.provider}.", err=True)


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    click.echo(as_json(value), nl=False)


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A function that shows the current step on a terminal, and prints nothing without one."""
    console = rich.console.Console(stderr=True)
    with console.status("") as status:
        yield lambda step: status.update(f"{step} …")
