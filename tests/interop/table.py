"""What the tests proved, and the table of it in docs/compatibility.md.

python tests/interop/table.py            # put the table of the last run into the page
python tests/interop/table.py --check    # fail if the page has another table
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]
RECORD: Final = ROOT / "build" / "interop" / "compatibility.json"
PAGE: Final = ROOT / "docs" / "compatibility.md"
BEGIN: Final = "<!-- proved by `make interop`; written by tests/interop/table.py -->"
END: Final = "<!-- end of what was proved -->"

# What does not depend on the variant, such as a tokenizer.
EVERY: Final = "every"
VARIANTS: Final = ("fp32", "fp16", "bf16", "int8", "int8-static", "int8-weights", "int4")
DIALECTS: Final = ("transformers", "paddle", "open_clip", "big_vision")
CHECKPOINTS: Final = "checkpoints"


@dataclass(frozen=True)
class Row:
    """One thing that one test proved of one consumer and one variant.

    Attributes:
        consumer: The program that opened the artifact.
        version: Its version.
        variant: A precision of the artifact, or EVERY.
        what: What was compared with siglip-onnx's own answer.
        limit: The largest difference that the test allows; None where the consumer cannot do it.
        found: The difference that the test found.
        reason: Why the consumer cannot do it, in its own words.
        table: CHECKPOINTS where `consumer` is a model and `variant` the dialect that it was read in.
    """

    consumer: str
    version: str
    variant: str
    what: str
    limit: float | None = None
    found: float | None = None
    reason: str | None = None
    table: str = "consumers"


def write(rows: Iterable[Row], path: Path = RECORD) -> None:
    """Keep what a run proved."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def read(path: Path = RECORD) -> list[Row]:
    """What the last run proved."""
    return [Row(**row) for row in json.loads(path.read_text())]


def render(rows: Sequence[Row]) -> str:
    """The tables in Markdown: limits only, so that equal proofs give equal tables."""
    models = [row for row in rows if row.table == CHECKPOINTS]
    others = [row for row in rows if row.table != CHECKPOINTS]
    parts = ["### Who opens an artifact", _render(others, VARIANTS, "consumer")] if others else []
    parts += ["### What checkpoints are read", _render(models, DIALECTS, "model")] if models else []
    return "\n\n".join(parts)


def _render(rows: Sequence[Row], columns: Sequence[str], first: str) -> str:
    notes: list[str] = []

    def note(reason: str) -> str:
        if reason not in notes:
            notes.append(reason)
        return f"no [{notes.index(reason) + 1}]"

    lines = [_line((first, "what is compared", *columns)), _line(["---"] * (2 + len(columns)))]
    for (consumer, version, what), cells in _grouped(rows).items():
        found = [_cell(cells.get(column) or cells.get(EVERY), note) for column in columns]
        lines.append(_line((f"{consumer} {version}".strip(), what, *found)))
    lines += ["", *(f"{number}. {reason}" for number, reason in enumerate(notes, 1))] if notes else []
    return "\n".join(lines)


def _grouped(rows: Sequence[Row]) -> dict[tuple[str, str, str], dict[str, Row]]:
    """Rows by consumer and by what is compared, in an order that does not depend on that of the tests."""
    groups: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in sorted(rows, key=lambda row: (row.consumer.lower(), row.version, row.what)):
        groups.setdefault((row.consumer, row.version, row.what), {})[row.variant] = row
    return groups


def _cell(row: Row | None, note: Callable[[str], str]) -> str:
    if row is None:
        return "–"
    if row.limit is None:
        return note(row.reason or "")
    return "equal" if row.limit == 0 else f"{row.limit:g}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def put(page: str, table: str) -> str:
    """The page with the table between its markers.

    Raises:
        ValueError: The page has no such markers.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"The page needs these two lines, for the table to stand between them:\n{BEGIN}\n{END}")
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


def main(arguments: Sequence[str]) -> int:
    """Write the table into the page, or check the one that is there; the exit code."""
    parser = argparse.ArgumentParser(description="Put the table of the last run into the page.")
    parser.add_argument("--check", action="store_true", help="fail if the page has another table")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    if not RECORD.is_file():
        print("Nothing was proved yet: run `make interop`.", file=sys.stderr)
        return 1
    page = options.page.read_text()
    wanted = put(page, render(read()))
    if options.check and page != wanted:
        print(
            f"The table in {options.page} is not what the last run proved: python tests/interop/table.py",
            file=sys.stderr,
        )
        return 1
    if not options.check:
        options.page.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
