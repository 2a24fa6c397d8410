"""The table of faults in docs/parity.md: what catches each fault here, and what other tools report about it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from .fault import Fault, FaultOutcome
from .validation import ROOT

PAGE: Final = ROOT / "docs" / "parity.md"
ELSEWHERE: Final = ROOT / "build" / "interop" / "elsewhere.json"  # written by tests/interop/faults_elsewhere.py
BEGIN, END = "<!-- faults -->", "<!-- /faults -->"
TOOLS: Final = ("optimum", "Polygraphy", "torch.onnx")
CONTROL: Final = "none"
_OWN_COLUMNS: Final = 3  # columns that need no other tool
_INTRODUCTION: Final = """\
## Seeded faults

Each of these {count} defects is put into a copy of the bundled model's artifact, its data or reports, or into the
loaded runtime (tests/faults), which is then validated on a dozen images. The third column names the check group that
fails first, or the error that is raised. `python -m tests.faults --check`, a part of `make test-gate`, repeats this and
fails if a row has changed. `--clean 200` validates faultless artifacts 200 times, on samples of 12 to 32 images, with
one and two threads, at fp32 and int8; a single FAIL fails the command. Both use the default limits except for `margin`,
which is .25: a dozen images cannot prove .02.

The last three columns say what other tools report on the same graphs, each with its default comparison, for faults in a
tower's graph or weights; these tools check nothing else. `python -m tests.interop.faults_elsewhere` runs them.
"""

Table = list[list[str]]


def rows(faults: Sequence[Fault], outcomes: Mapping[str, FaultOutcome], elsewhere: Mapping[str, Any]) -> Table:
    """A row for the faultless artifact, then a row for each fault."""
    known = elsewhere.get("found", {})
    control = [CONTROL, "", "nothing", *_by_tools(known, CONTROL)]
    return [control, *([f.name, str(f.area), _caught_by(outcomes[f.name]), *_by_tools(known, f.name)] for f in faults)]


def _caught_by(outcome: FaultOutcome) -> str:
    return outcome.caught_by or "nothing"


def _by_tools(known: Mapping[str, Mapping[str, str]], name: str) -> list[str]:
    return [known.get(name, {}).get(tool, "–") for tool in TOOLS]


def render(table: Table, elsewhere: Mapping[str, Any]) -> str:
    """The section in Markdown: introduction, table, and the calls of the other tools."""
    head = ("fault", "area", "check group or error", *TOOLS)
    lines = [_line(head), _line(["---"] * len(head)), *map(_line, table)]
    calls = [f"- {tool}: {call}" for tool, call in elsewhere.get("calls", {}).items()]
    return "\n".join([_INTRODUCTION.format(count=len(table) - 1), *lines, "", *calls]).rstrip()


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def read_elsewhere(path: Path = ELSEWHERE) -> dict[str, Any]:
    """The results of the other tools; empty if they were not run."""
    known: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return known


def write(text: str, page: Path = PAGE) -> None:
    """Write the section between its markers."""
    before, after = _around(page.read_text("utf-8"))
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", "utf-8")


def on_page(page: Path = PAGE) -> Table:
    """The rows of the table on the page."""
    text = page.read_text("utf-8")
    before, after = _around(text)
    inside = text[len(before) : len(text) - len(after)]
    rows = [line[2:-2].split(" | ") for line in inside.splitlines() if line.startswith("| ")]
    return rows[2:]


def differences(table: Table, with_tools: bool, page: Path = PAGE) -> list[str]:
    """Names of the faults whose rows differ from the page; the other tools' columns count only with `with_tools`."""
    old = {row[0]: row for row in on_page(page)}
    new = {row[0]: row for row in table}
    width = None if with_tools else _OWN_COLUMNS
    return [name for name in {**old, **new} if old.get(name, [])[:width] != new.get(name, [])[:width]]


def _around(text: str) -> tuple[str, str]:
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"docs/parity.md needs the markers {BEGIN} and {END} around the table.")
    return before, after
