"""What the commands share: progress on a terminal, and options."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import rich.box
import rich.console
import rich.table
import rich.text

from ..runtime import ImageOptions
from ..runtime.artifact.contract import Precision, Provider, Verdict
from ..runtime.auto_select import AUTO
from ..runtime.engines.options import OpenVinoPerformance, OpenVinoPrecision, SessionOptions
from ..runtime.files import as_json
from ..runtime.model import Siglip
from ..runtime.preprocessing.image import Transparency

COLORS = {Verdict.PASS: "green", Verdict.FAIL: "bold red", Verdict.INCONCLUSIVE: "yellow"}

artifact_argument = click.argument("artifact", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program to read.")
precision_option = click.option(
    "--precision",
    type=click.Choice([p.value for p in Precision]),
    default="fp32",
    show_default=True,
    help="Which variant.",
)
auto_precision_option = click.option(
    "--precision",
    type=click.Choice([*(p.value for p in Precision), AUTO]),
    default="fp32",
    show_default=True,
    help="Which variant; auto takes the fastest here that carries a PASS.",
)
_SESSION_OPTIONS = (
    click.option("--threads", type=click.IntRange(1), help="Threads of one run; by default what this process may use."),
    click.option("--allow-fallback", is_flag=True, help="Let the CPU run what the provider cannot."),
    click.option("--device", type=click.IntRange(0), default=0, help="Number of the device, where there are several."),
    click.option("--memory-limit", type=click.IntRange(1), help="MiB of device memory for CUDA or TensorRT."),
    click.option("--cuda-graphs", is_flag=True, help="Replay recorded CUDA graphs for small batches."),
    click.option(
        "--hint",
        type=click.Choice([h.value for h in OpenVinoPrecision]),
        help="OpenVINO's arithmetic; by default the variant's.",
    ),
    click.option(
        "--mode",
        type=click.Choice([m.value for m in OpenVinoPerformance]),
        default="latency",
        help="What OpenVINO is tuned for.",
    ),
    click.option("--cache", is_flag=True, help="Keep what a provider compiled for the next start."),
)
_CHOSEN = ("threads", "allow_fallback", "device", "memory_limit", "cuda_graphs", "hint", "mode", "cache")


template_option = click.option(
    "--template",
    "templates",
    multiple=True,
    default=["{}"],
    show_default=True,
    help='What the model reads, as in "a photo of {}"; given several times, their mean.',
)

dialect_option = click.option(
    "--dialect",
    type=click.Choice(["transformers", "paddle", "open_clip", "big_vision"]),
    help="Whose names and orientation the weights have; by default found out from the file.",
)


def session_options(
    *, auto: bool, default: str | None = "cpu", with_provider: bool = True
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Options of a command that runs graphs, as `options`; and `provider`, unless the command has its own."""
    names = [p.value for p in Provider] + ([AUTO] if auto else [])
    told = "What runs it; auto takes the fastest here that carries a PASS." if auto else "What runs it."

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def with_options(**arguments: Any) -> Any:
            chosen = {name: arguments.pop(name) for name in _CHOSEN}
            provider = arguments["provider"] if with_provider else None
            return command(options=_options(provider, **chosen), **arguments)

        provider_option = click.option(
            "--provider", type=click.Choice(names), default=default, show_default=True, help=told
        )
        decorated = provider_option(with_options) if with_provider else with_options
        return functools.reduce(lambda so_far, option: option(so_far), reversed(_SESSION_OPTIONS), decorated)

    return decorate


def _options(
    provider: str | None,
    memory_limit: int | None,
    openvino_precision: str | None,
    openvino_performance: str,
    **others: Any,
) -> SessionOptions:
    """What the command line said; the provider may still be chosen when the model is loaded."""
    return SessionOptions(
        provider=Provider.CPU if provider in (AUTO, None) else Provider(provider),
        memory_limit=None if memory_limit is None else memory_limit * 2**20,
        openvino_precision=None if openvino_precision is None else OpenVinoPrecision(openvino_precision),
        openvino_performance=OpenVinoPerformance(openvino_performance),
        **others,
    )


_IMAGE_OPTIONS = (
    click.option("--exif-orientation", is_flag=True, help="Turn photos as their EXIF orientation says."),
    click.option(
        "--transparency",
        type=click.Choice([t.value for t in Transparency]),
        default="drop",
        show_default=True,
        help="Of alpha channels.",
    ),
    click.option("--reduced-jpeg", is_flag=True, help="Decode large JPEGs at a part of their size: faster, not exact."),
)


def image_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Options of a command that looks at images: `image_options`."""

    @functools.wraps(command)
    def with_options(exif_orientation: bool, transparency: str, reduced_jpeg: bool, **arguments: Any) -> Any:
        chosen = ImageOptions(exif_orientation, Transparency(transparency), reduced_jpeg=reduced_jpeg)
        return command(image_options=chosen, **arguments)

    return functools.reduce(lambda so_far, option: option(so_far), reversed(_IMAGE_OPTIONS), with_options)


class _Console(rich.console.Console):
    def on_broken_pipe(self) -> None:
        """Let the command line end with its own exit code; rich's is 1, which here means a parity failure."""
        raise BrokenPipeError


def stdout() -> rich.console.Console:
    """A console as wide as the terminal; wide enough for every table where there is none."""
    console = _Console(highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = 160
    return console


def table(*headers: str) -> rich.table.Table:
    """An empty table in the tool's plain style."""
    return rich.table.Table(*headers, box=rich.box.SIMPLE_HEAD, pad_edge=False, show_edge=False)


def colored(verdict: Verdict | None) -> rich.text.Text:
    """A verdict in its color."""
    return rich.text.Text("not judged", "dim") if verdict is None else rich.text.Text(verdict, COLORS[verdict])


def tell_choice(model: Siglip, precision: str, provider: str) -> None:
    """Say on standard error what `auto` chose."""
    if AUTO in (precision, provider):
        click.echo(f"Chose {model.precision} on {model.options.provider}.", err=True)


def print_json(value: object) -> None:
    """A value as indented JSON on standard output."""
    click.echo(as_json(value), nl=False)


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Somewhere to tell what is being done; shown on a terminal, silent elsewhere."""
    console = rich.console.Console(stderr=True)
    with console.status("") as status:
        yield lambda step: status.update(f"{step} …")
