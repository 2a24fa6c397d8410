"""Checks, their verdicts, and the report that they make together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

import msgspec

from ..runtime.contract import Precision, Provider, Verdict, Yardstick
from ..runtime.errors import InconclusiveError, ParityError

REPORT_VERSION: Final = 1


class Rung(StrEnum):
    """The steps of the ladder, the cheapest first."""

    CONTRACT = "contract"
    TOKENS = "tokens"
    PIXELS = "pixels"
    DETERMINISM = "determinism"
    EMBEDDINGS = "embeddings"
    LOGITS = "logits"
    PROBABILITIES = "probabilities"
    RANKING = "ranking"
    RETRIEVAL = "retrieval"
    BATCH = "batch"


@dataclass(frozen=True)
class Check:
    """One thing that was measured, or could not be.

    Attributes:
        rung: Step of the ladder.
        name: What was measured.
        verdict: PASS only if `value` is a finite number on the right side of `limit`.
        value: The measured number; None where there is none.
        limit: What it must reach or stay within.
        sense: On which side of the limit the value must be.
        detail: The worst sample, or why there is no value.
    """

    rung: Rung
    name: str
    verdict: Verdict
    value: float | None = None
    limit: float | None = None
    sense: Literal["at least", "at most"] | None = None
    detail: str = ""


def at_least(rung: Rung, name: str, value: float | None, limit: float, detail: str = "") -> Check:
    """A check that a value reaches a limit."""
    return _judged(rung, name, value, limit, "at least", detail)


def at_most(rung: Rung, name: str, value: float | None, limit: float, detail: str = "") -> Check:
    """A check that a value stays within a limit."""
    return _judged(rung, name, value, limit, "at most", detail)


def failed(rung: Rung, name: str, detail: str) -> Check:
    """A check that failed without a number."""
    return Check(rung, name, Verdict.FAIL, detail=detail)


def inconclusive(rung: Rung, name: str, detail: str) -> Check:
    """A check that there was too little for."""
    return Check(rung, name, Verdict.INCONCLUSIVE, detail=detail)


def _judged(
    rung: Rung, name: str, value: float | None, limit: float, sense: Literal["at least", "at most"], detail: str
) -> Check:
    if value is None:
        return Check(rung, name, Verdict.INCONCLUSIVE, None, limit, sense, detail or "not measured")
    if not math.isfinite(value):
        return Check(rung, name, Verdict.FAIL, None, limit, sense, f"{value}; {detail}".rstrip("; "))
    good = value >= limit if sense == "at least" else value <= limit
    return Check(rung, name, Verdict.PASS if good else Verdict.FAIL, value, limit, sense, detail)


# A variant shares its tokenizer and pixels with the fp32 variant, whose own verdict has judged them.
_RUNGS: Final = {
    Yardstick.CHECKPOINT: frozenset(Rung),
    Yardstick.FP32: frozenset(Rung) - {Rung.TOKENS, Rung.PIXELS},
}
# Frozen labels come without a text tower, so there are no texts to read or to find.
_OF_TEXTS: Final = frozenset({Rung.TOKENS, Rung.RETRIEVAL})


def rungs_due(against: Yardstick = Yardstick.CHECKPOINT, *, frozen: bool = False) -> frozenset[Rung]:
    """The rungs that a verdict stands on."""
    return _RUNGS[against] - _OF_TEXTS if frozen else _RUNGS[against]


def overall(checks: Sequence[Check], due: frozenset[Rung] = frozenset(Rung)) -> Verdict:
    """FAIL if any check failed; PASS only if every rung that is due has a check and all passed."""
    verdicts = {check.verdict for check in checks}
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    complete = {check.rung for check in checks} >= due
    return Verdict.PASS if complete and verdicts == {Verdict.PASS} else Verdict.INCONCLUSIVE


@dataclass(frozen=True)
class DataRecord:
    """What the artifact was judged on."""

    name: str
    sha256: str
    images: int
    texts: int
    pairs: int


@dataclass(frozen=True)
class Report:
    """A verdict and everything that it stands on; this is the JSON in an artifact's reports/.

    Attributes:
        contract_sha256: Hash of the judged contract, without the verdicts that it carries.
        reference: Name of the checkpoint, or of the fp32 variant.
        reference_sha256: Hash over the checkpoint's weight files, or of the report that the fp32 variant passed by.
        against: Which of the two it is.
        environment: Versions and machine.
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
    against: Yardstick = Yardstick.CHECKPOINT
    schema_version: Literal[1] = REPORT_VERSION

    def first_problem(self) -> Check | None:
        """The lowest check that failed, else the lowest inconclusive one."""
        for verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE):
            for check in self.checks:
                if check.verdict is verdict:
                    return check
        return None

    def to_json(self) -> bytes:
        """The report as indented JSON."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

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
        where = f"{problem.rung} / {problem.name}. {describe(problem)}" if problem else "a rung has no check."
        what = f"{self.artifact} at {self.precision} on {self.provider}: {self.verdict}, {where}"
        if self.verdict is Verdict.FAIL:
            raise ParityError(what, "Do not deploy it; see the report.")
        raise InconclusiveError(what, "Give more data with --data.")


def describe(check: Check) -> str:
    """A check's numbers and detail in a sentence."""
    found = "" if check.value is None else f"Found {check.value:.6g}, "
    wanted = "" if check.limit is None else f"{'needed' if found else 'Needed'} {check.sense} {check.limit:.6g}. "
    return (found + wanted + check.detail).strip()
