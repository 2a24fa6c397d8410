"""Write the table of what the tests proved to docs/compatibility.md.

python tests/interop/table.py            # write the table of the last run
python tests/interop/table.py --check    # fail if the table on the page is out of date
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock

ROOT: Final = Path(__file__).parents[2]
RECORD: Final = ROOT / "build" / "interop" / "compatibility.json"
PAGE: Final = ROOT / "docs" / "compatibility.md"
BEGIN: Final = "<!-- written by tests/interop/table.py after `make interop` -->"
END: Final = "<!-- end of the tables -->"

# For results that do not depend on the variant, such as a tokenizer's.
EVERY: Final = "every"
VARIANTS: Final = ("fp32", "fp16", "bf16", "int8", "int8-static", "int8-weights", "int4")
DIALECTS: Final = ("transformers", "paddle", "open_clip", "big_vision")
CHECKPOINTS: Final = "checkpoints"


@dataclass(frozen=True)
class CompatibilityRow:
    """The result of one comparison of a consumer, at one variant.

    Attributes:
        consumer: The program that opens the artifact, or the model for a checkpoint.
        version: The program's version; empty for a checkpoint.
        variant: A precision of the artifact, or EVERY; the dialect for a checkpoint.
        what: The compared outputs.
        limit: The largest difference that the test allows; None if the consumer does not support the variant.
        measured: The difference that the test measured; None if the variant is unsupported.
        reason: The consumer's error message; None if the variant is supported.
        table: CHECKPOINTS for a checkpoint, else "consumers".
    """

    consumer: str
    version: str
    variant: str
    what: str
    limit: float | None = None
    measured: float | None = None
    reason: str | None = None
    table: str = "consumers"


def add(rows: Iterable[CompatibilityRow], path: Path = RECORD) -> None:
    """Store rows behind those of the run's other processes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        stored = read(path) if path.exists() else []
        path.write_text(json.dumps([asdict(row) for row in (*stored, *rows)], indent=1) + "\n")


def read(path: Path = RECORD) -> list[CompatibilityRow]:
    """Read the rows of the last run."""
    return [CompatibilityRow(**row) for row in json.loads(path.read_text())]


def render(rows: Sequence[CompatibilityRow]) -> str:
    """The tables in Markdown; they list limits, not measurements, so that every passing run gives the same tables."""
    models = [row for row in rows if row.table == CHECKPOINTS]
    others = [row for row in rows if row.table != CHECKPOINTS]
    parts = ["### Consumers of artifacts", _render(others, VARIANTS, "consumer")] if others else []
    parts += ["### Checkpoints", _render(models, DIALECTS, "model")] if models else []
    return "\n\n".join(parts)


def _render(rows: Sequence[CompatibilityRow], columns: Sequence[str], first: str) -> str:
    notes: list[str] = []

    def note(reason: str) -> str:
        if reason not in notes:
            notes.append(reason)
        return f"no [{notes.index(reason) + 1}]"

    lines = [_line((first, "compared", *columns)), _line(["---"] * (2 + len(columns)))]
    for (consumer, version, what), cells in _grouped(rows).items():
        texts = [_cell(cells.get(column) or cells.get(EVERY), note) for column in columns]
        lines.append(_line((f"{consumer} {version}".strip(), what, *texts)))
    lines += ["", *(f"{number}. {reason}" for number, reason in enumerate(notes, 1))] if notes else []
    return "\n".join(lines)


def _grouped(rows: Sequence[CompatibilityRow]) -> dict[tuple[str, str, str], dict[str, CompatibilityRow]]:
    """Rows by consumer and compared outputs, sorted, so that the order of the tests does not matter."""
    groups: dict[tuple[str, str, str], dict[str, CompatibilityRow]] = {}
    for row in sorted(rows, key=lambda row: (row.consumer.lower(), row.version, row.what)):
        groups.setdefault((row.consumer, row.version, row.what), {})[row.variant] = row
    return groups


def _cell(row: CompatibilityRow | None, note: Callable[[str], str]) -> str:
    if row is None:
        return "–"
    if row.limit is None:
        return note(row.reason or "")
    return "equal" if row.limit == 0 else f"{row.limit:g}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def put(page: str, table: str) -> str:
    """Insert the table between the markers of a page.

    Raises:
        ValueError: The page lacks the markers.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"The page needs these two lines around the table:\n{BEGIN}\n{END}")
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


def main(arguments: Sequence[str]) -> int:
    """Write the table to the page, or check it; return the exit code."""
    parser = argparse.ArgumentParser(description="Write the table of the last run to the page.")
    parser.add_argument("--check", action="store_true", help="fail if the table on the page is out of date")
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args(arguments)
    if not RECORD.is_file():
        print("There are no results yet: run `make interop`.", file=sys.stderr)
        return 1
    page = options.page.read_text()
    expected = put(page, render(read()))
    if options.check and page != expected:
        print(
            f"The table in {options.page} is out of date: run `python tests/interop/table.py`.",
            file=sys.stderr,
        )
        return 1
    if not options.check:
        options.page.write_text(expected)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
