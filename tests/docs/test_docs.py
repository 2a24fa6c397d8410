"""Every Python block, command, option and link of README.md and docs/*.md works, or says here why it is not run."""

from __future__ import annotations

import os
import re
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import pytest

from siglip_onnx.cli import cli
from siglip_onnx.quantize import QuantizeResult
from siglip_onnx.runtime import Artifact
from siglip_onnx.runtime.artifact.artifact import write_contract
from siglip_onnx.runtime.artifact.contract import Precision

from ..conftest import Command
from ..layers import ROOT
from . import pages
from .pages import PAGES, DocBlock, DocCommand, page_name
from .workspace import VARIANTS, make_workspace

COMMANDS: Final = [command for path in PAGES for command in pages.commands(path)]
OURS: Final = [command for command in COMMANDS if command.words[0] == "siglip-onnx"]

# Commands of other programs are not run; what can be checked of them is checked below.
NOT_RUN: Final = {
    "pip": "installs from the network",
    "npm": "installs from the network",
    "docker": "needs a Docker daemon",
    "git": "needs the network",
    "optimum-cli": "lives in an environment of its own; make interop runs it",
    "export": "sets a variable of the shell",
    "ls": "shows sizes",
    "cd": "changes the shell's folder",
    "echo": "shows an exit code",
    "make": "runs for minutes; its target is checked",
    "python": "runs for minutes; script and options are checked",
    "PYTHON": "a Python with another package; script and options are checked",
}
# Of ours, these parts of a command cannot work here; such a command is only parsed.
NEEDS_MORE: Final = {
    "node": "ONNX Runtime for Node is not installed by pip",
    "node,web": "ONNX Runtime for JavaScript is not installed by pip",
    "cpu,openvino,node": "ONNX Runtime for Node is not installed by pip",
    "cuda": "needs a GPU",
    "ray": "starts a Ray cluster; make test-cluster does",
    "classifier": "is made by freeze-labels of the same page, in the same order",
    "last-release/parity.json": "is the report of a release of the user's own",
    "my-models": "is written by the user; tests/validate/test_external.py writes one",
}
QUICK: Final = ("classify", "doctor", "embed", "freeze-labels", "inspect", "layout", "search")
VERDICTS: Final = (0, 1, 4)  # of validate and quantize; on a dozen pairs a verdict is often INCONCLUSIVE
QUANTIZE_FAILED: Final = 9
# Options that pages mention and that belong to other programs, or to scripts of this repository.
FOREIGN_OPTIONS: Final = {"--index-url", "--ignore-scripts", "--prefix", "--task", "--opt_in"}
EXPORTING: Final = ("docs/checkpoints.md", "docs/layouts.md")  # pages whose blocks export, which takes a while
# Python blocks that are not run: (page, first line) and why.
BLOCKS_NOT_RUN: Final[dict[tuple[str, str], str]] = {}


@pytest.fixture(scope="session")
def prepared(every: dict[Precision, QuantizeResult], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model with a PASS for fp32 and a few variants, taken from the artifact with all of them."""
    source = every[Precision.FP16].artifact.folder
    folder = Path(shutil.copytree(source, tmp_path_factory.mktemp("prepared") / "emoji"))
    contract = Artifact.open(folder).contract
    kept = tuple(v for v in contract.variants if v.precision in (Precision.FP32, *VARIANTS) and not v.target_provider)
    unused = {path for v in contract.variants for path in v.files} - {path for v in kept for path in v.files}
    for path in unused:
        (folder / path).unlink()
    files = {path: record for path, record in contract.files.items() if path not in unused}
    write_contract(folder, replace(contract, variants=kept, files=files))
    return folder


@pytest.fixture(scope="session")
def shared_workspace(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_workspace(tmp_path_factory.mktemp("docs"), prepared)


@pytest.fixture
def workspace(shared_workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with everything that pages name, as the working directory."""
    monkeypatch.chdir(shared_workspace)
    return shared_workspace


@pytest.fixture
def fresh(shared_workspace: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the workspace for commands that change what others read."""
    folder = Path(shutil.copytree(shared_workspace, tmp_path / "docs", symlinks=True))
    shutil.rmtree(folder / "models", ignore_errors=True)  # a layout of that name, which another page writes
    shutil.copytree(prepared, folder / "models" / "siglip-large")
    monkeypatch.chdir(folder)
    return folder


def blocks_with_python() -> list[Any]:
    return [
        pytest.param(path, id=page_name(path), marks=[pytest.mark.gate] if page_name(path) in EXPORTING else [])
        for path in PAGES
        if pages.python_blocks(path)
    ]


@pytest.mark.parametrize("path", blocks_with_python())
def test_python_blocks_of_a_page_run_in_order(path: Path, workspace: Path) -> None:
    namespace: dict[str, Any] = {"__name__": "docs", "pixels": np.zeros((1, 3, 64, 64), np.float32)}
    for block in pages.python_blocks(path):
        if not _not_run(block):
            code = "\n" * (block.line - 1) + block.text
            exec(compile(code, block.page, "exec"), namespace)  # noqa: S102  it is our own page


def _not_run(block: DocBlock) -> bool:
    return (block.page, block.text.splitlines()[0]) in BLOCKS_NOT_RUN


def context_of(command: DocCommand) -> click.Context:
    """Parse a command with click's own parser; raises click.UsageError for an unknown option or a bad choice."""
    parent = click.Context(cli, info_name="siglip-onnx")
    name, found, rest = cli.resolve_command(parent, [word for word in command.words[1:] if word != "--debug"])
    assert found is not None
    return found.make_context(name, rest, parent=parent)


@pytest.mark.parametrize("command", OURS, ids=str)
def test_a_command_parses(command: DocCommand, workspace: Path) -> None:
    try:
        context_of(command)
    except click.exceptions.Exit:  # --help
        pass
    except click.ClickException as error:
        pytest.fail(f"{command}: {error.format_message()}")


def is_runnable(command: DocCommand) -> bool:
    return not set(command.words) & NEEDS_MORE.keys()


def runs(path: Path, *, quick: bool) -> Iterator[DocCommand]:
    """The commands of a page that run here: quick ones, or all that are not quick."""
    for command in pages.commands(path):
        if command.words[0] == "siglip-onnx" and (command.words[1] in QUICK) is quick:
            yield command


def with_overwrite(command: DocCommand) -> list[str]:
    """The arguments, and --overwrite where the command has it: pages write into the same names again and again."""
    context = context_of(command)
    overwrite = any("--overwrite" in option.opts for option in context.command.params)
    return [*command.words[1:], *(["--overwrite"] if overwrite and "--overwrite" not in command.words else [])]


def pages_with(*, quick: bool) -> list[Any]:
    return [pytest.param(path, id=page_name(path)) for path in PAGES if any(runs(path, quick=quick))]


@pytest.mark.parametrize("path", pages_with(quick=True))
def test_quick_commands_of_a_page_run(path: Path, workspace: Path, command: Command) -> None:
    frozen = False  # whether this page has made the classifier that later commands read
    for doc in runs(path, quick=True):
        frozen = frozen or doc.words[1] == "freeze-labels"
        if is_runnable(doc) or frozen:
            done = command(*with_overwrite(doc))
            assert done.code == 0, f"{doc}\n{done.err}"


@pytest.mark.gate
@pytest.mark.parametrize("path", pages_with(quick=False))
def test_slow_commands_of_a_page_run(path: Path, fresh: Path, command: Command) -> None:
    for doc in filter(is_runnable, runs(path, quick=False)):
        done = command(*with_overwrite(doc))
        expected = {"validate": VERDICTS, "quantize": (*VERDICTS, QUANTIZE_FAILED)}.get(doc.words[1], (0,))
        assert done.code in expected, f"{doc}\n{done.err}"


def test_every_other_command_is_of_a_program_that_is_known() -> None:
    programs = {command.words[0] for command in COMMANDS} - {"siglip-onnx"}
    assert programs <= NOT_RUN.keys()


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.words[0] in ("python", "PYTHON")], ids=str)
def test_a_script_exists_and_has_the_options(command: DocCommand) -> None:
    script = command.words[1]
    if script == "-m":
        module = ROOT / command.words[2].replace(".", "/")
        sources = [module.with_suffix(".py"), module / "__main__.py"]
    else:
        sources = [ROOT / script]
    if "replay" in script:
        return  # validate --explain writes it
    text = "".join(path.read_text() for path in sources if path.exists())
    assert text, f"{command}: there is no such script"
    options = [word.split("=")[0] for word in command.words if word.startswith("--")]
    assert [option for option in options if option not in text] == []


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.words[0] == "make"], ids=str)
def test_a_make_target_exists(command: DocCommand) -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [word for word in command.words[1:] if "=" not in word and word not in targets] == []


def known_options() -> set[str]:
    """Options of all commands, and of the scripts and workflows in this repository."""
    context = click.Context(cli)
    found = {option for parameter in cli.params for option in parameter.opts} | {"--help"}
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command is not None
        found |= {option for parameter in command.params for option in parameter.opts}
    scripts = [path for folder in ("benchmarks", "examples", "tests") for path in (ROOT / folder).glob("**/*.py")]
    for path in scripts:
        found |= set(re.findall(r"\"(--[a-z-]+)\"", path.read_text()))
    return found | FOREIGN_OPTIONS


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_options_in_the_text_exist(path: Path) -> None:
    assert pages.options_in_text(path) - known_options() == set()


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_links_lead_somewhere(path: Path) -> None:
    for link in pages.links(path):
        name, _, anchor = link.partition("#")
        target = path.parent / name if name else path
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in pages.anchors(target), link


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_modules_that_a_page_names_exist(path: Path) -> None:
    names = re.findall(
        r"`((?:runtime|exporter|validate|quantize|siglip_onnx|tests|benchmarks|examples)/[\w./]*)`", path.read_text()
    )
    assert [name for name in names if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_blocks_of_toml_are_toml(path: Path) -> None:
    for block in pages.blocks(path):
        if block.language == "toml":
            tomllib.loads(block.text)


def test_no_command_of_the_docs_reads_a_place_outside_of_the_workspace(workspace: Path) -> None:
    absolute = [str(c) for c in OURS if any(word.startswith(("/", "~", os.pardir)) for word in c.words)]
    assert absolute == []
