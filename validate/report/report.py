"""Checks, their verdicts, and the report that they make together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, Literal

import msgspec

from ...runtime.artifact.contract import Precision, Provider, ReferenceKind, Verdict
from ...runtime.errors import InconclusiveError, ParityError
from ...runtime.files import as_json

REPORT_VERSION: Final = 3


class CheckGroup(StrEnum):
    """The steps of the ladder, the cheapest first."""

    CONTRACT = "contract"
    PROVIDER = "provider"
    TOKENS = "tokens"
    PIXELS = "pixels"
    DETERMINISM = "determinism"
    BATCH = "batch"
    EMBEDDINGS = "embeddings"
    LOGITS = "logits"
    PROBABILITIES = "probabilities"
    RANKING = "ranking"
    ACCURACY = "accuracy"
    RETRIEVAL = "retrieval"
    NON_INFERIORITY = "non-inferiority"
    LATENCY = "latency"
    BASELINE = "baseline"


@dataclass(frozen=True)
class Check:
    """One thing that was measured, or could not be.

    Attributes:
        group: Step of the ladder.
        name: What was measured.
        verdict: PASS only if `measured` is a finite number on the right side of `limit`.
        measured: The measured number; None where there is none.
        limit: What it must reach or stay within; what is allowed.
        direction: On which side of the limit the value must be.
        detail: The worst sample, or why there is no value.
        noise: How far the same number moves when nothing but the batch or the run changes; a limit must leave room
            for it.
    """

    group: CheckGroup
    name: str
    verdict: Verdict
    measured: float | None = None
    limit: float | None = None
    direction: Literal["at least", "at most"] | None = None
    detail: str = ""
    noise: float | None = None


def at_least(
    group: CheckGroup, name: str, measured: float | None, limit: float, detail: str = "", noise: float | None = None
) -> Check:
    """A check that a value reaches a limit."""
    return _judged(Check(group, name, Verdict.PASS, measured, limit, "at least", detail, noise))


def at_most(
    group: CheckGroup, name: str, measured: float | None, limit: float, detail: str = "", noise: float | None = None
) -> Check:
    """A check that a value stays within a limit."""
    return _judged(Check(group, name, Verdict.PASS, measured, limit, "at most", detail, noise))


def failed(group: CheckGroup, name: str, detail: str) -> Check:
    """A check that failed without a number."""
    return Check(group, name, Verdict.FAIL, detail=detail)


def inconclusive(group: CheckGroup, name: str, detail: str) -> Check:
    """A check that there was too little for."""
    return Check(group, name, Verdict.INCONCLUSIVE, detail=detail)


def _judged(check: Check) -> Check:
    """The same with its verdict; a limit that is under the floor decides nothing but how the noise fell."""
    value, limit = check.measured, check.limit
    if value is None or limit is None:
        return replace(check, verdict=Verdict.INCONCLUSIVE, detail=check.detail or "not measured")
    if not math.isfinite(value):
        detail = f"{value}; {check.detail}".rstrip("; ")
        return replace(check, verdict=Verdict.FAIL, measured=None, detail=detail)
    good = value >= limit if check.direction == "at least" else value <= limit
    if not good:
        return replace(check, verdict=Verdict.FAIL)
    room = 1 - limit if check.direction == "at least" else limit
    if check.noise is not None and not check.noise <= room:
        detail = f"the noise alone is {check.noise:.3g}, more than is allowed; {check.detail}".rstrip("; ")
        return replace(check, verdict=Verdict.INCONCLUSIVE, detail=detail)
    return check


# Climbed only where there is something to compare with: an earlier report, or an earlier measurement.
OPTIONAL: Final = frozenset({CheckGroup.LATENCY, CheckGroup.BASELINE})


def overall(checks: Sequence[Check], due: frozenset[CheckGroup] = frozenset(CheckGroup)) -> Verdict:
    """FAIL if any check failed; PASS only if every group that is due has a check and all passed."""
    verdicts = {check.verdict for check in checks}
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    complete = {check.group for check in checks} >= due
    return Verdict.PASS if complete and verdicts == {Verdict.PASS} else Verdict.INCONCLUSIVE


@dataclass(frozen=True)
class DataRecord:
    """What the artifact was judged on.

    Attributes:
        sha256: Hash over every image and text.
        pairs: Images with a caption, of which RETRIEVAL is made; 0 for frozen labels, which read none.
        classes: Classes of the images, of which ACCURACY is made; 0 where they have none, or labels are frozen.
        sample: How many images were drawn, with which seed; empty where all were taken.
        bundled: Whether these are the photos that come with siglip-onnx, which say nothing of accuracy.
    """

    name: str
    sha256: str
    images: int
    texts: int
    pairs: int
    classes: int = 0
    sample: str = ""
    bundled: bool = False

    @property
    def scope(self) -> str:
        """What a verdict on these data does not say; empty where it says everything."""
        if self.bundled:
            return "judged on the bundled photos alone, which would show a broken artifact and say nothing of accuracy"
        if not self.pairs and not self.classes:
            return "neither captions nor classes were compared, so accuracy was not judged"
        return ""


@dataclass(frozen=True)
class Cost:
    """What a variant costs on this machine, for the page and for LATENCY.

    Attributes:
        bytes: Size of its graphs and their weights.
        seconds: Median time of one row in each tower, by role.
        peak_bytes: Most memory that the process held; None where that is not known.
        threads: That a run was given.
    """

    bytes: int
    seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: int | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Report:
    """A verdict and everything that it stands on; this is the JSON in an artifact's reports/.

    Attributes:
        contract_sha256: Hash of the judged contract, without the verdicts that it carries.
        provider: What ran it: a `Provider`, or `node` or `web`.
        reference: Name of the checkpoint, or of the fp32 variant.
        reference_sha256: Hash over the checkpoint's weight files, or of the report that the fp32 variant passed by.
        against: Which of the two it is.
        environment: Versions and machine.
        expected: The check groups that the verdict stands on.
        limits: Where the limits come from: `defaults`, or the file that changed them, with its hash.
        cost: What the variant costs here; None where it could not be run.
    """

    created: str
    seconds: float
    artifact: str
    contract_sha256: str
    precision: Precision
    provider: Provider
    reference: str
    reference_sha256: str
    data: DataRecord
    environment: dict[str, str]
    verdict: Verdict
    checks: tuple[Check, ...]
    against: ReferenceKind = ReferenceKind.CHECKPOINT
    expected: tuple[CheckGroup, ...] = tuple(group for group in CheckGroup if group not in OPTIONAL)
    limits: str = "defaults"
    cost: Cost | None = None
    schema_version: Literal[3] = REPORT_VERSION

    def problems(self) -> tuple[Check, ...]:
        """The checks that did not pass, those that failed first, otherwise as they were climbed."""
        bad = (check for check in self.checks if check.verdict is not Verdict.PASS)
        return tuple(sorted(bad, key=lambda check: check.verdict is not Verdict.FAIL))

    def first_problem(self) -> Check | None:
        """The lowest check that failed, else the lowest inconclusive one."""
        return next(iter(self.problems()), None)

    def to_json(self) -> bytes:
        """The report as indented JSON."""
        return as_json(self)

    @staticmethod
    def from_json(data: bytes) -> Report:
        """Read what `to_json` wrote; raises msgspec.DecodeError for anything else."""
        return msgspec.json.decode(data, type=Report)

    def require_pass(self) -> None:
        """Return only if the verdict is PASS.

        Raises:
            ParityError: The verdict is FAIL.
            InconclusiveError: The verdict is INCONCLUSIVE.
        """
        if self.verdict is Verdict.PASS:
            return
        problem = self.first_problem()
        where = f"{problem.group} / {problem.name}. {describe(problem)}" if problem else "a group has no check."
        what = f"{self.artifact} at {self.precision} on {self.provider}: {self.verdict}, {where}"
        if self.verdict is Verdict.FAIL:
            raise ParityError(what, "Do not deploy it; see the report.")
        raise InconclusiveError(what, "Give more data with --data.")


def describe(check: Check) -> str:
    """A check's numbers and detail in a sentence."""
    found = "" if check.measured is None else f"Found {check.measured:.6g}, "
    wanted = "" if check.limit is None else f"{'needed' if found else 'Needed'} {check.direction} {check.limit:.6g}. "
    return (found + wanted + check.detail).strip()
