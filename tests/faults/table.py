"""The table of faults in docs/parity.md: what found each here, and what other tools say to the same graphs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from .fault import Fault, Found
from .judge import ROOT

PAGE: Final = ROOT / "docs" / "parity.md"
ELSEWHERE: Final = ROOT / "build" / "interop" / "elsewhere.json"  # written by tests/interop/faults_elsewhere.py
BEGIN, END = "<!-- faults -->", "<!-- /faults -->"
TOOLS: Final = ("optimum", "Polygraphy", "torch.onnx")
CONTROL: Final = "none"
_OURS: Final = 3  # columns that need no other tool
_INTRODUCTION: Final = """\
## Seeded faults

Each of these {count} defects is put into a copy of the bundled model's artifact, of its data or reports, or into the
loaded runtime (tests/faults), and a verdict is asked for on a dozen images. The third column is the group that found
it first, or the error that refused it. `python -m tests.faults --check`, a part of `make test-gate`, does that again,
and fails if a row is another one by then. `--clean 200` judges what has no fault as often, over samples of 12 to 32
images, one and two threads, fp32 and int8; a single FAIL fails it. Both use the default limits, but .25 for
`margin`: so few images cannot prove .02.

The last three columns say what other tools make of the same graphs, each as it compares by default, where the fault is
one of a tower's graph or weights; they look at nothing else. `python -m tests.interop.faults_elsewhere` asks them.
"""

Table = list[list[str]]


def rows(faults: Sequence[Fault], found: Mapping[str, Found], elsewhere: Mapping[str, Any]) -> Table:
    """A row for each fault, and first of all one for the artifact without any."""
    answers = elsewhere.get("found", {})
    control = [CONTROL, "", "nothing", *_answers(answers, CONTROL)]
    return [control, *([f.name, str(f.area), _here(found[f.name]), *_answers(answers, f.name)] for f in faults)]


def _here(found: Found) -> str:
    return found.where or "nothing"


def _answers(answers: Mapping[str, Mapping[str, str]], name: str) -> list[str]:
    return [answers.get(name, {}).get(tool, "–") for tool in TOOLS]


def render(table: Table, elsewhere: Mapping[str, Any]) -> str:
    """The section in Markdown: what it is, the table, and how the other tools were called."""
    head = ("fault", "where it is made", "found by", *TOOLS)
    lines = [_line(head), _line(["---"] * len(head)), *map(_line, table)]
    calls = [f"- {tool}: {call}" for tool, call in elsewhere.get("calls", {}).items()]
    return "\n".join([_INTRODUCTION.format(count=len(table) - 1), *lines, "", *calls]).rstrip()


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def read_elsewhere(path: Path = ELSEWHERE) -> dict[str, Any]:
    """What other tools were found to say; nothing where they were not asked."""
    known: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return known


def write(text: str, page: Path = PAGE) -> None:
    """Put the table between its markers."""
    before, after = _around(page.read_text("utf-8"))
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", "utf-8")


def on_page(page: Path = PAGE) -> Table:
    """The rows that the page has."""
    text = page.read_text("utf-8")
    before, after = _around(text)
    inside = text[len(before) : len(text) - len(after)]
    rows = [line[2:-2].split(" | ") for line in inside.splitlines() if line.startswith("| ")]
    return rows[2:]


def differences(table: Table, asked: bool, page: Path = PAGE) -> list[str]:
    """Names of faults whose row on the page is another one; only our own columns count where others were not asked."""
    known = {row[0]: row for row in on_page(page)}
    new = {row[0]: row for row in table}
    width = None if asked else _OURS
    return [name for name in {**known, **new} if known.get(name, [])[:width] != new.get(name, [])[:width]]


def _around(text: str) -> tuple[str, str]:
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"docs/parity.md has no place for the table: {BEGIN} and {END}.")
    return before, after
