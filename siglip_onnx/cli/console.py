"""What the commands share: progress on a terminal, and options."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec
import rich.box
import rich.console
import rich.table
import rich.text

from ..runtime.contract import Precision, Provider, Verdict

COLOURS = {Verdict.PASS: "green", Verdict.FAIL: "bold red", Verdict.INCONCLUSIVE: "yellow"}

artifact_argument = click.argument("artifact", type=click.Path(path_type=Path))
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program to read.")
precision_option = click.option(
    "--precision",
    type=click.Choice([p.value for p in Precision]),
    default="fp32",
    show_default=True,
    help="Which variant.",
)
provider_option = click.option(
    "--provider", type=click.Choice([p.value for p in Provider]), default="cpu", show_default=True, help="What runs it."
)


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


def coloured(verdict: Verdict | None) -> rich.text.Text:
    """A verdict in its colour."""
    return rich.text.Text("not judged", "dim") if verdict is None else rich.text.Text(verdict, COLOURS[verdict])


def print_json(value: object) -> None:
    """A value as indented JSON on standard output."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


@contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """Somewhere to tell what is being done; shown on a terminal, silent elsewhere."""
    console = rich.console.Console(stderr=True)
    with console.status("") as status:
        yield lambda step: status.update(f"{step} …")
