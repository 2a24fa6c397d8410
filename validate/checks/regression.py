"""No release may be worse than the one before it: checks against an accepted report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from ...runtime.artifact.contract import Precision, Provider, ReferenceKind, Verdict
from ...runtime.errors import InputError
from ..report.matrix import Matrix
from ..report.report import Check, CheckGroup, Cost, Report, at_least, at_most, failed, inconclusive, overall

SLACK: Final = 0.05  # share of what a gate allows that always counts as noise: other processors round otherwise
MOST: Final = 0.25  # share of it that never does
_COUNTED: Final = frozenset({CheckGroup.RANKING, CheckGroup.ACCURACY, CheckGroup.RETRIEVAL})
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
    bad = [report for report in reports.values() if _verdict(report) is not Verdict.PASS]
    if bad or not reports:
        found = f"{_verdict(bad[0])} for {bad[0].precision} on {bad[0].provider}" if bad else "no cell"
        raise InputError(f"The baseline {path} says {found}.", "Name the report of a release that passed.")
    return reports


def _verdict(report: Report) -> Verdict:
    """What a report says, unless its own checks say something worse."""
    return report.verdict if report.verdict is not Verdict.PASS else overall(report.checks, frozenset(report.expected))


def _reports(path: Path, data: bytes) -> list[Report]:
    try:
        if "cells" not in msgspec.json.decode(data, type=dict[str, msgspec.Raw]):
            return [Report.from_json(data)]
        matrix = Matrix.from_json(data)
    except msgspec.DecodeError as error:
        raise InputError(
            f"The baseline {path} is no report that this version reads ({error}).",
            "Name parity.json of a release, or judge that release again with this version.",
        ) from error
    if matrix.verdict is not Verdict.PASS:
        raise InputError(f"The baseline {path} says {matrix.verdict}.", "Name the report of a release that passed.")
    return [cell.report for cell in matrix.cells if cell.report is not None]


def ratchet(checks: Sequence[Check], before: Report, data: str, against: ReferenceKind) -> Iterator[Check]:
    """For every number of the accepted report whether ours is as good, within the noise.

    Args:
        checks: Ours.
        before: The accepted report of the same precision and provider.
        data: Hash of the data that ours were measured on.
        against: What ours were compared with.
    """
    if before.data.sha256 != data:
        yield inconclusive(
            CheckGroup.BASELINE, "data", f"the baseline was judged on {before.data.name}, which is other data"
        )
        return
    if before.against is not against:
        yield inconclusive(CheckGroup.BASELINE, "yardstick", f"the baseline was compared with the {before.against}")
        return
    ours = {(check.group, check.name): check for check in checks}
    for old in before.checks:
        if old.measured is None or old.limit is None or old.group in (CheckGroup.LATENCY, CheckGroup.BASELINE):
            continue
        new = ours.get((old.group, old.name))
        if new is None or new.measured is None:
            yield failed(CheckGroup.BASELINE, f"{old.group}: {old.name}", "measured for the baseline, and not now")
        else:
            yield _compared(old, new, old.measured, before.data.images)


def _compared(old: Check, new: Check, value: float, samples: int) -> Check:
    """The new number against the old one, give or take the noise."""
    noise, name = _noise(old, samples), f"{old.group}: {old.name}"
    detail = f"it was {value:.7g}; noise {noise:.3g}"
    if old.direction == "at least":
        return at_least(CheckGroup.BASELINE, name, new.measured, value - noise, detail)
    return at_most(CheckGroup.BASELINE, name, new.measured, value + noise, detail)


def _noise(check: Check, samples: int) -> float:
    """What may lie between two correct releases, from the accepted report alone: a new one sets itself no slack.

    It is the measured floor, at least a twentieth and at most a quarter of what is allowed; and where shares of samples
    are counted, one sample. What allows nothing has no noise.
    """
    limit = check.limit or 0.0
    room = 1 - limit if check.direction == "at least" else limit
    noise = min(max(check.noise or 0.0, SLACK * room), MOST * room)
    counted = check.group in _COUNTED and room > 0
    return max(noise, 1 / samples if counted and samples else 0.0) + _ROUNDING


def latency(cost: Cost, before: Report, machine: str, ratio: float) -> Iterator[Check]:
    """Time of a row over the accepted one; only the same machine can tell."""
    if before.cost is None or (before.environment.get("machine"), before.cost.threads) != (machine, cost.threads):
        yield inconclusive(CheckGroup.LATENCY, "machine", "the baseline was timed on another machine or other threads")
        return
    for role, seconds in cost.seconds.items():
        name, old = f"{role}, time over the baseline's", before.cost.seconds.get(role)
        if old is None:
            yield failed(CheckGroup.LATENCY, name, "the baseline has no time of it")
        else:
            yield at_most(
                CheckGroup.LATENCY, name, seconds / old, ratio, f"{seconds * 1e3:.1f} ms, it was {old * 1e3:.1f}"
            )
