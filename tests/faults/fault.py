"""A seeded fault: a defect that is put into a good artifact, its runtime, its data or its report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from siglip_onnx.runtime import SessionOptions, Siglip
from siglip_onnx.runtime.artifact.contract import Precision, Role, Verdict
from siglip_onnx.runtime.errors import SiglipOnnxError
from siglip_onnx.validate import CheckGroup, Report

from .edits import Change
from .validation import validate_artifact

ONE_THREAD: Final = SessionOptions(threads=1)  # several faults run at a time, one for each core
SEED: Final = 20261125


class FaultArea(StrEnum):
    """The part of the toolchain where a defect is made."""

    CHECKPOINT = "checkpoint"
    GRAPH = "graph"
    WEIGHTS = "weights"
    QUANTIZATION = "quantization"
    TOKENIZER = "tokenizer"
    IMAGE = "image"
    RUNTIME = "runtime"
    PROVIDER = "provider"
    BATCH = "batch"
    DATA = "data"
    REPORT = "report"


class FaultTarget(StrEnum):
    """The folder of a fixture that a fault changes."""

    ARTIFACT = "artifact"
    DATA = "data"
    CACHE = "cache"


@dataclass(frozen=True)
class FaultFixture:
    """A folder with everything that a verdict depends on: a good artifact, data and the reference cache.

    Attributes:
        folder: The folder.
    """

    folder: Path

    @property
    def artifact(self) -> Path:
        """An artifact whose variants fp32, fp16 and int8 have passed."""
        return self.folder / FaultTarget.ARTIFACT

    @property
    def data(self) -> Path:
        """Images with captions, and labels."""
        return self.folder / FaultTarget.DATA

    @property
    def cache(self) -> Path:
        """The reference cache for these data."""
        return self.folder / FaultTarget.CACHE

    def copy(self, folder: Path) -> FaultFixture:
        """A copy in another folder, for a fault to change."""
        return FaultFixture(Path(shutil.copytree(self.folder, folder)))


def no_change(folder: Path) -> None:
    """Leave a folder unchanged."""


def no_patch(model: Siglip) -> None:
    """Leave the loaded model unchanged."""


@dataclass(frozen=True)
class Fault:
    """A defect, and the check group or error that must catch it.

    Attributes:
        name: What is wrong, in a few words.
        area: Where such a defect is made.
        caught_by: The check group that must fail first, or the error that must be raised.
        make: Puts the defect into a copy of `target`.
        patch: Puts the defect into the loaded model, for a defect in the runtime's code.
        precision: Precision of the validated variant.
        options: Session options of the validated variant.
        target: The folder that `make` changes.
        run: Validates the fixture in the way that shows the defect.
        verdict: The expected verdict: FAIL, or INCONCLUSIVE if only more data could tell.
        tower: The tower whose graph or weights are wrong, if other tools can compare it; else None.
    """

    name: str
    area: FaultArea
    caught_by: CheckGroup | type[SiglipOnnxError]
    make: Change = no_change
    patch: Callable[[Siglip], None] = no_patch
    precision: Precision = Precision.FP32
    options: SessionOptions = ONE_THREAD
    target: FaultTarget = FaultTarget.ARTIFACT
    run: Callable[[FaultFixture, Fault], Report] = lambda fixture, fault: validated(fixture, fault)
    verdict: Verdict = Verdict.FAIL
    tower: Role | None = None

    @property
    def group(self) -> CheckGroup:
        """The check group that must catch the fault."""
        assert isinstance(self.caught_by, CheckGroup), self.name
        return self.caught_by

    @property
    def expected(self) -> str:
        """The name of the check group or error that must catch the fault."""
        return str(self.caught_by) if isinstance(self.caught_by, CheckGroup) else self.caught_by.__name__


def validated(fixture: FaultFixture, fault: Fault) -> Report:
    """The report of all checks against the checkpoint."""
    return validate_artifact(
        fixture.artifact,
        fixture.data,
        precision=fault.precision,
        options=fault.options,
        patch=fault.patch,
        cache=fixture.cache,
    )


@dataclass(frozen=True)
class FaultOutcome:
    """The result of validating a fault.

    Attributes:
        caught_by: The first failing check group, the error that was raised, or an empty string.
        verdict: The verdict; FAIL for an error.
        detail: The check's numbers, or the error's message.
    """

    caught_by: str
    verdict: Verdict
    detail: str = ""


def run_fault(fixture: FaultFixture, fault: Fault) -> FaultOutcome:
    """Put a fault into a fixture that no other fault uses, and validate it."""
    fault.make(fixture.folder / fault.target)
    try:
        report = fault.run(fixture, fault)
    except SiglipOnnxError as error:
        return FaultOutcome(type(error).__name__, Verdict.FAIL, str(error))
    problem = report.first_problem()
    if problem is None:
        return FaultOutcome("", report.verdict)
    detail = problem.detail
    if problem.measured is not None:
        detail = f"measured {problem.measured:.4g}, limit {problem.direction} {problem.limit:.4g}"
    return FaultOutcome(str(problem.group), report.verdict, f"{problem.name}: {detail}")


def is_caught(fault: Fault, outcome: FaultOutcome) -> bool:
    """Whether the expected check group or error caught a fault, with the expected verdict."""
    return (outcome.caught_by, outcome.verdict) == (fault.expected, fault.verdict)


def read_captions(folder: Path) -> list[dict[str, str]]:
    """Read captions.jsonl of a data folder."""
    return [json.loads(line) for line in (folder / "captions.jsonl").read_text("utf-8").splitlines()]


def write_captions(folder: Path, rows: list[dict[str, str]]) -> None:
    """Write captions.jsonl of a data folder."""
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
