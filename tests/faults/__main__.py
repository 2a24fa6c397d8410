"""Command line of the seeded faults; the package's docstring is its help."""

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

from . import EVERY, false_alarms, table
from .fault import Fault, FaultFixture, FaultOutcome, is_caught
from .fixture import make_fixture
from .processes import map_in_processes, run_on_copy

_WIDTH: Final = 46


def main(arguments: list[str]) -> int:
    """Run the command; return exit code 1 if a fault is missed, a table differs, or a false alarm is raised."""
    parser = argparse.ArgumentParser(
        "python -m tests.faults", description=package.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="faults, or parts of their names (default: all)")
    parser.add_argument("--write", action="store_true", help="write the table to docs/parity.md")
    parser.add_argument("--check", action="store_true", help="fail if the table in docs/parity.md is out of date")
    parser.add_argument("--clean", type=int, metavar="N", help="validate faultless artifacts N times instead")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="siglip-onnx-faults-") as folder:
        good = Path(folder) / "good"
        if options.clean:
            code = _clean(make_fixture(good, false_alarms.DERIVED), options.clean)
        else:
            code = _faults(make_fixture(good), options)
    print(f"{time.monotonic() - started:.0f} seconds")
    return code


def _faults(fixture: FaultFixture, options: argparse.Namespace) -> int:
    chosen = [f for f in EVERY.values() if not options.names or any(name in f.name for name in options.names)]
    outcomes = {}
    for name, outcome in map_in_processes([f.name for f in chosen], functools.partial(run_on_copy, fixture)):
        outcomes[name] = outcome
        print(_line(EVERY[name], outcome), flush=True)
    missed = [fault.name for fault in chosen if not is_caught(fault, outcomes[fault.name])]
    print(f"{len(chosen)} faults, {len(missed)} not caught as expected{_listed(missed)}")
    outdated = [] if options.names else _update_page(chosen, outcomes, options)
    return int(bool(missed or outdated))


def _update_page(chosen: Sequence[Fault], outcomes: dict[str, FaultOutcome], options: argparse.Namespace) -> list[str]:
    """Write the table, or compare it with the page; return the names of the rows that differ."""
    elsewhere = table.read_elsewhere()
    rows = table.rows(chosen, outcomes, elsewhere)
    if options.write:
        table.write(table.render(rows, elsewhere))
    if not options.check:
        return []
    outdated = table.differences(rows, with_tools=bool(elsewhere))
    print(f"{len(outdated)} rows of docs/parity.md are out of date{_listed(outdated)}")
    return outdated


def _clean(fixture: FaultFixture, count: int) -> int:
    false_alarms.fill_cache(fixture)
    alarms: list[str] = []
    counts: dict[str, int] = {}
    validate = functools.partial(false_alarms.validate_sample, fixture)
    for run, outcome in map_in_processes(list(false_alarms.runs(count)), validate):
        counts[outcome.verdict] = counts.get(outcome.verdict, 0) + 1
        if outcome.caught_by:
            print(f"{run}: {outcome.verdict} by {outcome.caught_by}: {outcome.detail}", flush=True)
        if false_alarms.is_alarm(outcome):
            alarms.append(str(run))
    summary = ", ".join(f"{number} {verdict}" for verdict, number in sorted(counts.items()))
    print(f"{count} verdicts on faultless artifacts: {summary}; {len(alarms)} false alarms")
    return int(bool(alarms))


def _line(fault: Fault, outcome: FaultOutcome) -> str:
    mark = "caught" if is_caught(fault, outcome) else f"NOT CAUGHT by {fault.expected}"
    return (
        f"{fault.name:{_WIDTH}} {outcome.caught_by or 'nothing':15} {outcome.verdict:13} {mark}; {outcome.detail:.100}"
    )


def _listed(names: Sequence[str]) -> str:
    return f": {', '.join(names)}" if names else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
