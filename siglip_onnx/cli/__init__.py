"""The command line. Each command is a module, imported when the command is called."""

from __future__ import annotations

import importlib
import io
import signal
import sys
import textwrap
import traceback
from types import FrameType
from typing import Final, NoReturn

import click

from .. import __version__
from ..runtime.errors import SiglipOnnxError

_COMMANDS: Final = {
    "classify": "Show the probability of labels for images.",
    "doctor": "Show installed packages and working providers.",
    "embed": "Embed a collection of images or texts.",
    "export": "Export a checkpoint to an ONNX artifact.",
    "freeze-labels": "Make a classifier with fixed labels and no text tower.",
    "inspect": "Show the graphs and verdicts of an artifact.",
    "layout": "Write an artifact in the layout of another server or library.",
    "quantize": "Derive a smaller or faster variant and validate it.",
    "search": "Search an embeddings file.",
    "validate": "Compare an artifact with the PyTorch reference.",
}
_INTERRUPTED: Final = 130  # 128 + SIGINT, as in shells
_BUG: Final = 70  # EX_SOFTWARE of sysexits.h
_PIPE: Final = 141  # 128 + SIGPIPE
_TERMINATED: Final = 143  # 128 + SIGTERM


class _LazyGroup(click.Group):
    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # click would exit with 1, which means a parity failure here
            sys.stderr.close()  # otherwise Python reports the broken pipe at exit
            sys.exit(_PIPE)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f".{cmd_name.replace('-', '_')}", __name__).command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name]) for name in self.list_commands(ctx)])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="siglip-onnx")
@click.option("--debug", is_flag=True, help="Show a traceback with an error.")
def cli(debug: bool) -> None:
    """Export SigLIP checkpoints to ONNX, run them without PyTorch, and prove that they match the PyTorch reference.

    \b
    Exit codes: 0 success or PASS, 1 parity FAIL, 2 wrong usage, 3 runtime or provider missing, 4 INCONCLUSIVE,
    5 checkpoint, 6 export, 7 artifact, 8 image, text or data, 9 quantization, 70 a bug in siglip-onnx,
    130 interrupted, 141 broken pipe, 143 terminated.
    """  # noqa: D301  click keeps the line breaks of a paragraph after \b


def main() -> NoReturn:
    """Run the command line; every error is printed as one paragraph and sets its exit code."""
    signal.signal(signal.SIGTERM, _terminate)
    _accept_every_character()
    debug = sys.argv[1:2] == ["--debug"]
    try:
        code = cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        _fail("Interrupted; no file is half-written.", _INTERRUPTED, debug)
    except SiglipOnnxError as error:
        _fail(f"Error: {error}", error.exit_code, debug)
    except Exception as error:  # a bug, which is also printed as one paragraph
        _fail(
            f"Error: unexpected {type(error).__name__} in siglip-onnx ({error}). "
            "Please report it with the output of siglip-onnx --debug …, followed by the same arguments.",
            _BUG,
            debug,
        )
    sys.exit(code or 0)


def _accept_every_character() -> None:
    """Print `?` for a character that the terminal's encoding lacks; as an exception it would change the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    """Raise SystemExit, so that half-written files are deleted."""
    sys.exit(_TERMINATED)


def _fail(message: str, code: int, debug: bool) -> NoReturn:
    if debug:
        traceback.print_exc()
    click.echo(textwrap.fill(message, width=100, break_long_words=False, break_on_hyphens=False), err=True)
    sys.exit(code)
