"""What README.md and docs/*.md show: Python blocks, commands, options in the text, links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..layers import ROOT

PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
SHELLS = ("console", "bash", "sh")
# These blocks also hold files and output, so a line of them is a command only if it begins with a known program.
MIXED = ("indented", "text")
PROGRAMS = (
    "siglip-onnx",
    "python",
    "PYTHON",
    "pip",
    "make",
    "npm",
    "export",
    "time",
    "optimum-cli",
    "docker",
    "git",
    "cd",
)
_OPERATORS = ("&&", ";", "|", "||")
_FENCE = re.compile(r"^```(\w*)")
_CODE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z_-]*")


@dataclass(frozen=True)
class DocBlock:
    """A fenced or indented block of a page.

    Attributes:
        page: The page's path below the repository.
        line: Its first line of content, counted from 1.
        language: What stands behind the fence; "indented" for an indented block.
        text: Its content.
    """

    page: str
    line: int
    language: str
    text: str


@dataclass(frozen=True)
class DocCommand:
    """One command of a page; `words` are split as a shell splits them."""

    page: str
    line: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line} {shlex.join(self.words)}"


def page_name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path) -> Iterator[DocBlock]:
    """The blocks of a page, in order."""
    language, start, lines = "", 0, []
    for number, line in enumerate([*path.read_text("utf-8").splitlines(), ""], 1):
        fence = _FENCE.match(line)
        if language not in ("", "indented"):
            if fence:
                yield DocBlock(page_name(path), start, language, "\n".join(lines))
                language = ""
            else:
                lines.append(line)
        elif fence:
            language, start, lines = fence[1] or "text", number + 1, []
        elif line.startswith("    "):
            if not language:
                language, start, lines = "indented", number, []
            lines.append(line[4:])
        elif language:
            yield DocBlock(page_name(path), start, language, "\n".join(lines))
            language = ""


def python_blocks(path: Path) -> list[DocBlock]:
    return [block for block in blocks(path) if block.language == "python"]


def commands(path: Path) -> Iterator[DocCommand]:
    """Every command of a page's shell blocks; `a && b` is two commands."""
    for block in blocks(path):
        if block.language in (*SHELLS, *MIXED):
            for line, text in _command_lines(block):
                for words in _split(text):
                    yield DocCommand(block.page, line, words)


def _command_lines(block: DocBlock) -> Iterator[tuple[int, str]]:
    """Lines that are commands, with those joined that end in a backslash."""
    lines = iter(enumerate(block.text.splitlines(), block.line))
    for number, line in lines:
        text = line.removeprefix("$ ")
        if block.language == "console" and text == line:
            continue  # output
        if block.language in MIXED and text.split(" ")[0] not in PROGRAMS:
            continue  # a file, a tree of folders, or output
        while text.endswith("\\"):
            text = text[:-1] + next(lines)[1].strip()
        if text.strip():
            yield number, text


def _split(text: str) -> Iterator[tuple[str, ...]]:
    words: list[str] = []
    lexer = shlex.shlex(text, posix=True, punctuation_chars="&;|")
    lexer.whitespace_split = True
    for word in [*lexer, ";"]:
        if word in _OPERATORS:
            if words:
                yield tuple(words[1:] if words[0] == "time" else words)
            words = []
        else:
            words.append(word)


def options_in_text(path: Path) -> set[str]:
    """Every `--option` that a page mentions between backticks."""
    return {option for code in _CODE.findall(path.read_text("utf-8")) for option in _OPTION.findall(code)}


def links(path: Path) -> list[str]:
    """Every target of a link that is not on the web."""
    return [target for target in _LINK.findall(path.read_text("utf-8")) if "://" not in target]


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
