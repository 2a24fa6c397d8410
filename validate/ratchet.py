"""No release may be worse than the one before it: checks against an accepted report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from ..runtime.contract import Precision, Provider, Verdict
from ..runtime.errors import InputError
from .matrix_report import Matrix
from .report import Check, Cost, Report, Rung, at_least, at_most, failed, inconclusive

SLACK: Final = 0.05  # share of what a gate allows that counts as noise, where nothing measures the noise itself
_ROUNDING: Final = 1e-9


def accepted(path: Path) -> dict[tuple[Precision, Provider], Report]:
    """The reports of an accepted release, by cell, from a parity.json or the report of a single cell.

    Raises:
        InputError: The file is missing, no report, or not one that passed.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"The baseline {path} cannot be read ({error.strerror}).", "Name a report.") from error
    reports = {(report.precision, report.provider): report for report in _reports(path, data)}
    bad = [report for report in reports.values() if report.verdict is not Verdict.PASS]
    if bad or not reports:
        found = f"{bad[0].verdict} for {bad[0].precision} on {bad[0].provider}" if bad else "no cell"
        raise InputError(f"The baseline {path} says {found}.", "Name the report of a release that passed.")
    return reports


def _reports(path: Path, data: bytes) -> list[Report]:
    try:
        if "cells" in msgspec.json.decode(data, type=dict[str, msgspec.Raw]):
            return [cell.report for cell in Matrix.from_json(data).cells if cell.report is not None and cell.required]
        return [Report.from_json(data)]
    except msgspec.DecodeError as error:
        raise InputError(
            f"The baseline {path} is no report that this version reads ({error}).",
            "Name parity.json of a release, or judge that release again with this version.",
        ) from error


def ratchet(checks: Sequence[Check], before: Report, data: str) -> Iterator[Check]:
    """For every number of the accepted report whether ours is as good, within the noise.

    Args:
        checks: Ours.
        before: The accepted report of the same precision and provider.
        data: Hash of the data that ours were measured on.
    """
    if before.data.sha256 != data:
        yield inconclusive(Rung.BASELINE, "data", f"the baseline was judged on {before.data.name}, which is other data")
        return
    ours = {(check.rung, check.name): check for check in checks}
    for old in before.checks:
        if old.value is None or old.limit is None or old.rung in (Rung.LATENCY, Rung.BASELINE):
            continue
        new = ours.get((old.rung, old.name))
        if new is None or new.value is None:
            yield failed(Rung.BASELINE, f"{old.rung}: {old.name}", "measured for the baseline, and not now")
        else:
            yield _compared(old, new, old.value)


def _compared(old: Check, new: Check, value: float) -> Check:
    """The new number against the old one; the noise of either may lie between them."""
    noise, name = max(_noise(old), _noise(new)), f"{old.rung}: {old.name}"
    detail = f"it was {value:.7g}; noise {noise:.3g}"
    if old.sense == "at least":
        return at_least(Rung.BASELINE, name, new.value, value - noise, detail)
    return at_most(Rung.BASELINE, name, new.value, value + noise, detail)


def _noise(check: Check) -> float:
    """The measured floor, else a part of what is allowed; a limit that allows nothing has no noise."""
    if check.floor is not None:
        return check.floor + _ROUNDING
    limit = check.limit or 0.0
    return SLACK * (1 - limit if check.sense == "at least" else limit) + _ROUNDING


def latency(cost: Cost, before: Report, machine: str, ratio: float) -> Iterator[Check]:
    """Time of a row over the accepted one; only the same machine can tell."""
    if before.cost is None or before.environment.get("machine") != machine:
        yield inconclusive(Rung.LATENCY, "machine", "the baseline was timed on another machine, or not at all")
        return
    for role, seconds in cost.seconds.items():
        name, old = f"{role}, time over the baseline's", before.cost.seconds.get(role)
        if old is None:
            yield failed(Rung.LATENCY, name, "the baseline has no time of it")
        else:
            yield at_most(Rung.LATENCY, name, seconds / old, ratio, f"{seconds * 1e3:.1f} ms, it was {old * 1e3:.1f}")
