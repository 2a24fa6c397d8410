"""Put every fault into a copy of something good and see what finds it; the help is that of the package."""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import tests.faults as package

from . import EVERY, clean, table
from .bench import make_bench
from .fault import Bench, Fault, Found, is_caught
from .pool import each, seek

_WIDTH: Final = 46


def main(arguments: list[str]) -> int:
    """The command; its exit code is 1 where something is not as it must be."""
    parser = argparse.ArgumentParser(
        "python -m tests.faults", description=package.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="faults, or parts of their names; all by default")
    parser.add_argument("--write", action="store_true", help="put the table into docs/parity.md")
    parser.add_argument("--check", action="store_true", help="fail if docs/parity.md has another table")
    parser.add_argument("--clean", type=int, metavar="N", help="so many verdicts on what has no fault instead")
    asked = parser.parse_args(arguments)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="siglip-onnx-faults-") as folder:
        place = Path(folder) / "good"
        if asked.clean:
            code = _clean(make_bench(place, clean.DERIVED), asked.clean)
        else:
            code = _faults(make_bench(place), asked)
    print(f"{time.monotonic() - started:.0f} seconds")
    return code


def _faults(bench: Bench, asked: argparse.Namespace) -> int:
    chosen = [f for f in EVERY.values() if not asked.names or any(name in f.name for name in asked.names)]
    found = {}
    for name, result in each([fault.name for fault in chosen], functools.partial(seek, bench)):
        found[name] = result
        print(_told(EVERY[name], result), flush=True)
    missed = [fault.name for fault in chosen if not is_caught(fault, found[fault.name])]
    print(f"{len(chosen)} faults, {len(missed)} not found where they must be{_listed(missed)}")
    other = [] if asked.names else _page(chosen, found, asked)
    return int(bool(missed or other))


def _page(chosen: Sequence[Fault], found: dict[str, Found], asked: argparse.Namespace) -> list[str]:
    """Write the table, or compare it; names of the rows that differ."""
    elsewhere = table.read_elsewhere()
    rows = table.rows(chosen, found, elsewhere)
    if asked.write:
        table.write(table.render(rows, elsewhere))
    if not asked.check:
        return []
    other = table.differences(rows, asked=bool(elsewhere))
    print(f"{len(other)} rows of docs/parity.md are others{_listed(other)}")
    return other


def _clean(bench: Bench, count: int) -> int:
    clean.ask_once(bench)
    alarms: list[str] = []
    counts: dict[str, int] = {}
    for run, found in each(list(clean.runs(count)), functools.partial(clean.verdict, bench)):
        counts[found.verdict] = counts.get(found.verdict, 0) + 1
        if found.where:
            print(f"{run}: {found.verdict} by {found.where}: {found.detail}", flush=True)
        if clean.is_alarm(found):
            alarms.append(str(run))
    told = ", ".join(f"{number} {verdict}" for verdict, number in sorted(counts.items()))
    print(f"{count} verdicts on what has no fault: {told}; {len(alarms)} false alarms")
    return int(bool(alarms))


def _told(fault: Fault, found: Found) -> str:
    mark = "caught" if is_caught(fault, found) else f"NOT CAUGHT by {fault.due}"
    return f"{fault.name:{_WIDTH}} {found.where or 'nothing':15} {found.verdict:13} {mark}; {found.detail:.100}"


def _listed(names: Sequence[str]) -> str:
    return f": {', '.join(names)}" if names else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
