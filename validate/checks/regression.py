"""Compare a report with the accepted report of the last release: nothing may become worse."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from ...runtime.artifact.contract import Precision, Provider, ReferenceKind, Verdict
from ...runtime.errors import InputError
from ..report.matrix import Matrix
from ..report.report import Check, CheckGroup, Cost, Report, at_least, at_most, failed, inconclusive, overall

# Shares of the room between a limit and the ideal value: this much always counts as noise, because other processors
# round differently, and more than that never does.
_MIN_NOISE: Final = 0.05
_MAX_NOISE: Final = 0.25
_SHARE_GROUPS: Final = frozenset({CheckGroup.RANKING, CheckGroup.ACCURACY, CheckGroup.RETRIEVAL})
_ROUNDING: Final = 1e-9


def read_baseline(path: Path) -> dict[tuple[Precision, Provider], Report]:
    """Read the accepted reports of the last release, by precision and provider.

    Args:
        path: A parity.json, or the report of a single cell.

    Raises:
        InputError: The file is missing, is not a report, or its verdict is not PASS.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"The baseline {path} cannot be read ({error.strerror}).", "Name a parity.json.") from error
    reports = {(report.precision, report.provider): report for report in _reports(path, data)}
    bad = [report for report in reports.values() if _verdict(report) is not Verdict.PASS]
    if bad or not reports:
        verdict = f"{_verdict(bad[0])} for {bad[0].precision} on {bad[0].provider}" if bad else "no cell"
        raise InputError(f"The baseline {path} has {verdict}.", "Name the report of a release that passed.")
    return reports


def _verdict(report: Report) -> Verdict:
    """The verdict of a report, or that of its own checks if it is worse."""
    return report.verdict if report.verdict is not Verdict.PASS else overall(report.checks, frozenset(report.expected))


def _reports(path: Path, data: bytes) -> list[Report]:
    try:
        if "cells" not in msgspec.json.decode(data, type=dict[str, msgspec.Raw]):
            return [Report.from_json(data)]
        matrix = Matrix.from_json(data)
    except msgspec.DecodeError as error:
        raise InputError(
            f"The baseline {path} is not a report that this version can read ({error}).",
            "Name parity.json of a release, or validate that release again with this version.",
        ) from error
    if matrix.verdict is not Verdict.PASS:
        raise InputError(
            f"The baseline {path} has the verdict {matrix.verdict}.", "Name the report of a release that passed."
        )
    return [cell.report for cell in matrix.cells if cell.report is not None]


def compare_with_baseline(
    checks: Sequence[Check], baseline: Report, data: str, against: ReferenceKind
) -> Iterator[Check]:
    """Check that every number of an accepted report is still as good, within the noise.

    Args:
        checks: The new checks.
        baseline: The accepted report of the same precision and provider.
        data: Hash of the data that the new checks were measured on.
        against: Reference of the new checks.
    """
    if baseline.data.sha256 != data:
        detail = f"the baseline was measured on other data, {baseline.data.name}"
        yield inconclusive(CheckGroup.BASELINE, "data", detail)
        return
    if baseline.against is not against:
        yield inconclusive(CheckGroup.BASELINE, "reference", f"the baseline was compared with the {baseline.against}")
        return
    new_checks = {(check.group, check.name): check for check in checks}
    for old in baseline.checks:
        if old.measured is None or old.limit is None or old.group in (CheckGroup.LATENCY, CheckGroup.BASELINE):
            continue
        new = new_checks.get((old.group, old.name))
        if new is None or new.measured is None:
            yield failed(CheckGroup.BASELINE, f"{old.group}: {old.name}", "the baseline has it, this report does not")
        else:
            yield _compared(old, new, old.measured, baseline.data.images)


def _compared(old: Check, new: Check, value: float, samples: int) -> Check:
    """Check the new number against the old one plus or minus the noise."""
    noise, name = _noise(old, samples), f"{old.group}: {old.name}"
    detail = f"it was {value:.7g}; noise {noise:.3g}"
    if old.direction == "at least":
        return at_least(CheckGroup.BASELINE, name, new.measured, value - noise, detail)
    return at_most(CheckGroup.BASELINE, name, new.measured, value + noise, detail)


def _noise(check: Check, samples: int) -> float:
    """Difference between two correct releases, from the accepted report alone: a new one must not set its own slack.

    It is the measured noise, but at least a twentieth and at most a quarter of the room that the limit leaves. Where a
    check counts samples it is at least one sample. A limit without room has no noise.
    """
    limit = check.limit or 0.0
    room = 1 - limit if check.direction == "at least" else limit
    noise = min(max(check.noise or 0.0, _MIN_NOISE * room), _MAX_NOISE * room)
    counted = check.group in _SHARE_GROUPS and room > 0
    return max(noise, 1 / samples if counted and samples else 0.0) + _ROUNDING


def compare_latency(cost: Cost, baseline: Report, machine: str, ratio: float) -> Iterator[Check]:
    """Check the time of a row against the accepted one, on the same machine with the same number of threads.

    Args:
        cost: Time of the new release.
        baseline: The accepted report.
        machine: This machine, as in `Report.environment`.
        ratio: Largest allowed quotient of new and accepted time.
    """
    old_cost = baseline.cost
    if old_cost is None or (baseline.environment.get("machine"), old_cost.threads) != (machine, cost.threads):
        detail = "the baseline was timed on another machine or with another number of threads"
        yield inconclusive(CheckGroup.LATENCY, "machine", detail)
        return
    for role, seconds in cost.seconds.items():
        name, old = f"{role}, time over the baseline's", old_cost.seconds.get(role)
        if old is None:
            yield failed(CheckGroup.LATENCY, name, "the baseline has no time of it")
        else:
            detail = f"{seconds * 1e3:.1f} ms, it was {old * 1e3:.1f}"
            yield at_most(CheckGroup.LATENCY, name, seconds / old, ratio, detail)
