"""What a seeded fault is: a defect that is put into a good artifact, its runtime, its data or its report."""

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
from .judge import judge

ONE_THREAD: Final = SessionOptions(threads=1)  # as many faults run at a time as there are cores


class FaultArea(StrEnum):
    """Where a defect is made."""

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


class Place(StrEnum):
    """What of a bench a fault changes."""

    ARTIFACT = "artifact"
    DATA = "data"
    ANSWERS = "answers"


@dataclass(frozen=True)
class Bench:
    """A folder with a copy of everything that a verdict is given from.

    Attributes:
        folder: Where it is.
    """

    folder: Path

    @property
    def artifact(self) -> Path:
        """An artifact with the variants fp32, fp16 and int8, which have passed."""
        return self.folder / Place.ARTIFACT

    @property
    def data(self) -> Path:
        """Images with captions, and labels."""
        return self.folder / Place.DATA

    @property
    def answers(self) -> Path:
        """The reference's answers about them."""
        return self.folder / Place.ANSWERS

    def copy(self, folder: Path) -> Bench:
        """The same in another folder, for a fault to change."""
        return Bench(Path(shutil.copytree(self.folder, folder)))


def nothing(folder: Path) -> None:
    """The change that leaves everything as it is."""


def as_it_is(model: Siglip) -> None:
    """The runtime without a defect."""


@dataclass(frozen=True)
class Fault:
    """A defect, and what must find it.

    Attributes:
        name: What is wrong, in a few words.
        group: Where such a defect is made.
        caught: The group that must find it first, or the error that must refuse it.
        make: Puts it into a copy of `place`.
        code: Puts it into the loaded model, where it is one of the runtime's code.
        precision: Of the variant that is judged.
        options: How that is loaded.
        place: What `make` is given.
        ask: Asks for a verdict on the bench, in the way that meets the fault.
        verdict: What must be said at the least; FAIL, unless more data would tell.
        elsewhere: The tower whose graph or weights are wrong, where other tools can be asked about it.
    """

    name: str
    area: FaultArea
    caught: CheckGroup | type[SiglipOnnxError]
    make: Change = nothing
    code: Callable[[Siglip], None] = as_it_is
    precision: Precision = Precision.FP32
    options: SessionOptions = ONE_THREAD
    place: Place = Place.ARTIFACT
    ask: Callable[[Bench, Fault], Report] = lambda bench, fault: climbed(bench, fault)
    verdict: Verdict = Verdict.FAIL
    elsewhere: Role | None = None

    @property
    def group(self) -> CheckGroup:
        """The group that must find it."""
        assert isinstance(self.caught, CheckGroup), self.name
        return self.caught

    @property
    def due(self) -> str:
        """The name of what must find it."""
        return str(self.caught) if isinstance(self.caught, CheckGroup) else self.caught.__name__


def climbed(bench: Bench, fault: Fault) -> Report:
    """The verdict on a bench by the whole ladder, against the checkpoint."""
    return judge(
        bench.artifact,
        bench.data,
        precision=fault.precision,
        options=fault.options,
        code=fault.code,
        answers=bench.answers,
    )


@dataclass(frozen=True)
class Found:
    """What became of a fault.

    Attributes:
        where: The group that found it, the error that refused it, or nothing.
        verdict: What was said.
        detail: In whose words.
    """

    where: str
    verdict: Verdict
    detail: str = ""


def find(bench: Bench, fault: Fault) -> Found:
    """Put a fault into a bench, which is for this one fault alone, and see what finds it."""
    fault.make(bench.folder / fault.place)
    try:
        report = fault.ask(bench, fault)
    except SiglipOnnxError as error:
        return Found(type(error).__name__, Verdict.FAIL, str(error))
    problem = report.first_problem()
    if problem is None:
        return Found("", report.verdict)
    found = (
        ""
        if problem.measured is None
        else f"{problem.measured:.4g} where {problem.direction} {problem.limit:.4g} is due"
    )
    return Found(str(problem.group), report.verdict, f"{problem.name}: {found or problem.detail}")


def is_caught(fault: Fault, found: Found) -> bool:
    """Whether a fault was found where it must be, and said what must be said."""
    return (found.where, found.verdict) == (fault.due, fault.verdict)


SEED: Final = 20261125


def lines(folder: Path) -> list[dict[str, str]]:
    """The captions of a data folder."""
    return [json.loads(line) for line in (folder / "captions.jsonl").read_text("utf-8").splitlines()]


def write_lines(folder: Path, rows: list[dict[str, str]]) -> None:
    """Replace them."""
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
