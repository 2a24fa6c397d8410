"""The parity report of one cell: its checks, their verdicts, and the overall verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final, Literal, TypeVar

import msgspec

from ...runtime.arrays import AnyArray
from ...runtime.artifact.contract import Precision, Provider, ReferenceKind, Verdict
from ...runtime.errors import InconclusiveError, ParityError
from ...runtime.files import as_json

REPORT_VERSION: Final = 3
_T = TypeVar("_T")


class CheckGroup(StrEnum):
    """Check groups, from the cheapest to the most expensive."""

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
    """One check of an artifact: a measured value against its limit.

    Attributes:
        group: Check group this check belongs to.
        name: Name of the measured quantity, unique within its group.
        verdict: PASS only if `measured` is finite and satisfies `limit`.
        measured: Measured value; null if nothing could be measured.
        limit: Bound that `measured` must satisfy; null for a check without a number.
        direction: Whether `measured` must be at least or at most `limit`; null without a limit.
        detail: Additional facts, such as the worst sample or the reason for a missing value.
        noise: Noise floor, in the unit of `measured`: how far the value moves when only the batch size or the run
            changes; null if unknown.
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
    """Check that `measured >= limit`; its verdict follows the rules of `Check` and of the noise floor."""
    return _with_verdict(Check(group, name, Verdict.PASS, measured, limit, "at least", detail, noise))


def at_most(
    group: CheckGroup, name: str, measured: float | None, limit: float, detail: str = "", noise: float | None = None
) -> Check:
    """Check that `measured <= limit`; its verdict follows the rules of `Check` and of the noise floor."""
    return _with_verdict(Check(group, name, Verdict.PASS, measured, limit, "at most", detail, noise))


def failed(group: CheckGroup, name: str, detail: str) -> Check:
    """Failed check without a number."""
    return Check(group, name, Verdict.FAIL, detail=detail)


def inconclusive(group: CheckGroup, name: str, detail: str) -> Check:
    """Check that could not be decided, for lack of data."""
    return Check(group, name, Verdict.INCONCLUSIVE, detail=detail)


def shape_mismatch(group: CheckGroup, name: str, actual: AnyArray, expected: AnyArray) -> Check:
    """A failed check: arrays of different shapes cannot be compared."""
    return failed(group, name, f"shape {list(actual.shape)}, the reference has {list(expected.shape)}")


def headroom(limit: float, direction: str | None) -> float:
    """Distance from a perfect value to the limit: 1 is perfect for "at least", 0 for "at most"."""
    return 1 - limit if direction == "at least" else limit


def _with_verdict(check: Check) -> Check:
    """Set the verdict; INCONCLUSIVE if a satisfied limit leaves less headroom than the noise floor."""
    value, limit = check.measured, check.limit
    if value is None or limit is None:
        return replace(check, verdict=Verdict.INCONCLUSIVE, detail=check.detail or "not measured")
    if not math.isfinite(value):
        detail = f"{value}; {check.detail}".rstrip("; ")
        return replace(check, verdict=Verdict.FAIL, measured=None, detail=detail)
    satisfied = value >= limit if check.direction == "at least" else value <= limit
    if not satisfied:
        return replace(check, verdict=Verdict.FAIL)
    room = headroom(limit, check.direction)
    if check.noise is not None and not check.noise <= room:
        detail = f"noise floor {check.noise:.3g} exceeds the limit's headroom of {room:.3g}; {check.detail}"
        return replace(check, verdict=Verdict.INCONCLUSIVE, detail=detail.rstrip("; "))
    return check


# Groups that run only with a baseline to compare with.
OPTIONAL: Final = frozenset({CheckGroup.LATENCY, CheckGroup.BASELINE})


def overall(checks: Sequence[Check], expected: frozenset[CheckGroup] = frozenset(CheckGroup)) -> Verdict:
    """FAIL if any check failed; PASS if all checks passed and every expected group has one; else INCONCLUSIVE."""
    verdicts = {check.verdict for check in checks}
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    complete = {check.group for check in checks} >= expected
    return Verdict.PASS if complete and verdicts == {Verdict.PASS} else Verdict.INCONCLUSIVE


@dataclass(frozen=True)
class DataRecord:
    """Data that an artifact was validated on.

    Attributes:
        name: File or folder name of the data set.
        sha256: SHA-256 over all images and texts.
        images: Number of images.
        texts: Number of texts: captions and prompts.
        pairs: Number of images with a caption, as the retrieval group uses; 0 for frozen labels.
        classes: Number of image classes, as the accuracy group uses; 0 without classes or for frozen labels.
        sample: Size of the random subset and its seed, such as "500 of 5000, seed 0"; empty if all images were used.
        bundled: True for the photos bundled with siglip-onnx, which say nothing about accuracy.
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
        """Limitation of a verdict on this data, as a clause; empty if there is none."""
        if self.bundled:
            return "validated on the bundled photos only, which reveal a broken artifact but say nothing about accuracy"
        if not self.pairs and not self.classes:
            return "the data has neither captions nor classes, so accuracy was not measured"
        return ""


@dataclass(frozen=True)
class Cost:
    """Cost of a variant on this machine.

    Attributes:
        bytes: Size of the graphs and their weights, in bytes.
        seconds: Median time per row of each tower, in seconds, by role.
        peak_bytes: Peak memory of the process, in bytes; null if unknown.
        threads: Number of threads per run; null if unknown.
    """

    bytes: int
    seconds: dict[str, float] = field(default_factory=dict)
    peak_bytes: int | None = None
    threads: int | None = None


@dataclass(frozen=True)
class Report:
    """Parity report of one cell: the verdict and all its evidence, stored as JSON in an artifact's reports/.

    Attributes:
        created: Time of writing, ISO 8601 in UTC.
        seconds: Duration of the validation, in seconds.
        artifact: Name of the artifact.
        contract_sha256: SHA-256 of the validated contract, without its recorded verdicts.
        precision: Validated precision.
        provider: Provider that ran the graphs.
        reference: Name of the reference checkpoint, or of the fp32 variant.
        reference_sha256: SHA-256 over the checkpoint's weight files, or of the fp32 variant's passing report.
        data: Data of the validation.
        environment: Package versions and machine.
        verdict: Overall verdict.
        checks: All checks, in the order they ran.
        against: Kind of reference: the checkpoint or the fp32 variant.
        expected: Check groups that must each have a check for a PASS.
        limits: Source of the limits: `defaults`, or the name and SHA-256 of the limits file.
        cost: Measured cost of the variant; null if it could not run.
        schema_version: Version of this schema.
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
        """Checks that did not pass: failed ones first, then inconclusive ones, each in the order they ran."""
        problems = (check for check in self.checks if check.verdict is not Verdict.PASS)
        return tuple(sorted(problems, key=lambda check: check.verdict is not Verdict.FAIL))

    def first_problem(self) -> Check | None:
        """First failed check, or else the first inconclusive one; None if all passed."""
        return next(iter(self.problems()), None)

    def to_json(self) -> bytes:
        """Serialize as indented JSON."""
        return as_json(self)

    @staticmethod
    def from_json(data: bytes) -> Report:
        """Parse the JSON of `to_json`.

        Raises:
            msgspec.DecodeError: The JSON is invalid, or of another schema version, which the message names.
        """
        return decode_versioned(data, Report, REPORT_VERSION)

    def require_pass(self) -> None:
        """Raise unless the verdict is PASS.

        Raises:
            ParityError: The verdict is FAIL.
            InconclusiveError: The verdict is INCONCLUSIVE.
        """
        if self.verdict is Verdict.PASS:
            return
        problem = self.first_problem()
        where = f"{problem.group}, {problem.name}. {describe(problem)}." if problem else "a check group has no checks."
        what = f"{self.artifact} at {self.precision} on {self.provider}: {self.verdict}, {where}"
        if self.verdict is Verdict.FAIL:
            raise ParityError(what, "Do not deploy this variant; see its report.")
        raise InconclusiveError(what, "Validate on more data.")


def describe(check: Check) -> str:
    """Numbers and detail of a check, such as "Measured 0.91, limit at least 0.98; worst: 'cat.jpg'"."""
    numbers = [] if check.measured is None else [f"measured {check.measured:.6g}"]
    if check.limit is not None:
        numbers.append(f"limit {check.direction} {check.limit:.6g}")
    text = ", ".join(numbers)
    return "; ".join(filter(None, (text[:1].upper() + text[1:], check.detail)))


def decode_versioned(data: bytes, kind: type[_T], version: int) -> _T:
    """Parse the JSON of a report after checking its schema version.

    Raises:
        msgspec.DecodeError: The JSON is invalid, or of another schema version.
    """
    raw = msgspec.json.decode(data, type=dict[str, msgspec.Raw]).get("schema_version")
    actual = "missing" if raw is None else bytes(raw).decode("utf-8", "replace")
    if actual != str(version):
        raise msgspec.ValidationError(f"schema_version is {actual}, expected {version}")
    return msgspec.json.decode(data, type=kind)
