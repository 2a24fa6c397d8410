"""What was found out about a variant that fails, as words and as JSON."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Literal

import msgspec

from ...runtime.artifact.contract import Precision, Provider, Role
from ...runtime.files import as_json

EXPLANATION_VERSION: Final = 1
_WIDTH: Final = 100
_SHOWN: Final = 12  # names in a line; the JSON has them all


class Origin(StrEnum):
    """Where a fault is: in the file, whose nodes say so, or in the provider, which computes otherwise than they say."""

    FILE = "file"
    PROVIDER = "provider"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class TowerState:
    """What a tower gives on a few rows, each alone.

    Attributes:
        enough: Whether the tower would pass by these rows; None where it could not be run.
        error: Largest difference of an element relative to the trusted tower's largest; None where that is not finite.
        problem: Why there are no embeddings.
    """

    enough: bool | None
    error: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class Culprit:
    """The first nodes that are off by themselves.

    Attributes:
        nodes: Names of the judged graph's nodes.
        operators: Theirs.
        trusted_nodes: The nodes of the trusted graph that compute the same.
        trusted_operators: Theirs.
        inputs: What they read that both graphs have, by its name in the judged one.
        outputs: What they compute that both graphs have.
        error: Largest difference of an element relative to the largest trusted one, given the same inputs; None where
            what they make is not finite, or not of the same shape.
        limit: What would do for one step at this precision.
        typical: Median of that error among other steps of the same operators; None where there are none.
        row: The row that shows it best.
        origin: Where the fault is.
        reasons: What is different, a sentence each; none where nothing but the numbers tells.
        exact: Whether the trusted values were computed in float64, else in float32.
    """

    nodes: tuple[str, ...]
    operators: tuple[str, ...]
    trusted_nodes: tuple[str, ...]
    trusted_operators: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    error: float | None
    limit: float
    typical: float | None
    row: int
    origin: Origin
    reasons: tuple[str, ...] = ()
    exact: bool = True


@dataclass(frozen=True)
class Remedy:
    """The fewest steps that make the tower pass when they are taken from the trusted graph.

    Attributes:
        nodes: Names of the judged graph's nodes that give way, by step.
        evaluations: How many mixed graphs were run to find it.
        minimal: Whether each step was proved to be needed: without any one of them the tower fails. A smaller set of
            other steps may exist.
        candidates: Among how many steps.
    """

    nodes: tuple[tuple[str, ...], ...]
    evaluations: int
    minimal: bool
    candidates: int


@dataclass(frozen=True)
class Explanation:
    """Why a variant fails.

    Attributes:
        group: The lowest group that fails.
        check: Its check, and what it found.
        towers: What each tower gives on a few rows.
        role: The tower that was looked into; None where no node is to blame.
        conclusion: What it comes to, in a sentence or two.
        culprit: The first nodes that are off by themselves; None where there are none, or were not found.
        remedy: What would have to be mended; None where that was not found.
        replay: Folder of a script that shows the fault by itself, relative to the explanation; empty without one.
        notes: What could not be found or was done otherwise, and why.
    """

    artifact: str
    precision: Precision
    provider: Provider
    group: str
    check: str
    towers: dict[Role, TowerState]
    conclusion: str
    role: Role | None = None
    culprit: Culprit | None = None
    remedy: Remedy | None = None
    replay: str = ""
    notes: tuple[str, ...] = ()
    schema_version: Literal[1] = EXPLANATION_VERSION

    def to_json(self) -> bytes:
        """The explanation as indented JSON."""
        return as_json(self)

    @staticmethod
    def from_json(data: bytes) -> Explanation:
        """Read what `to_json` wrote; raises msgspec.DecodeError for anything else."""
        return msgspec.json.decode(data, type=Explanation)

    def describe(self, folder: Path | None = None) -> str:
        """The explanation for a terminal; with the folder that it lies in, the script is named in full."""
        lines = [f"Why {self.artifact} at {self.precision} on {self.provider} fails", ""]
        lines += _item("fails first", f"{self.group}, {self.check}" if self.check else self.group)
        for role, state in self.towers.items():
            lines += _item(f"{role} tower", _state(state))
        lines += _item("conclusion", self.conclusion)
        if self.culprit is not None:
            lines += _culprit(self.culprit)
        if self.remedy is not None:
            lines += _item("would mend it", _remedy(self.remedy))
        if self.replay:
            lines += _item("shown by", f"python {Path(folder or '') / self.replay / 'replay.py'}")
        for note in self.notes:
            lines += _item("note", note)
        return "\n".join(lines)


def _item(name: str, text: str) -> list[str]:
    margin = " " * 18
    return textwrap.wrap(text, _WIDTH, initial_indent=f"  {name:<16}", subsequent_indent=margin, break_long_words=False)


def _state(state: TowerState) -> str:
    if state.enough is None:
        return f"cannot be run: {state.problem}"
    off = "not finite" if state.error is None else f"off by {state.error:.3g}"
    return f"{off}, {'which is enough' if state.enough else 'which is too much'}"


def _culprit(culprit: Culprit) -> list[str]:
    error = "not finite, or of another shape" if culprit.error is None else f"{culprit.error:.3g}"
    typical = "" if culprit.typical is None else f", others of its kind {culprit.typical:.2g}"
    lines = _item("nodes", _listed(culprit.nodes, culprit.operators))
    lines += _item("in their place", _listed(culprit.trusted_nodes, culprit.trusted_operators))
    lines += _item("reads, gives", f"{', '.join(culprit.inputs)} → {', '.join(culprit.outputs)}")
    lines += _item("off by", f"{error}; {culprit.limit:.2g} would do{typical}; row {culprit.row}")
    for reason in culprit.reasons:
        lines += _item("because", reason)
    return lines


def _listed(names: tuple[str, ...], operators: tuple[str, ...]) -> str:
    pairs = [f"{name} ({kind})" for name, kind in zip(names, operators, strict=True)]
    more = f", and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else ""
    return (", ".join(pairs[:_SHOWN]) or "none") + more


def _remedy(remedy: Remedy) -> str:
    steps = [step[-1] if len(step) == 1 else f"{step[0]} to {step[-1]}" for step in remedy.nodes]
    more = f", and {len(steps) - _SHOWN} more" if len(steps) > _SHOWN else ""
    proof = "none of them can be spared" if remedy.minimal else "not proved to be the fewest"
    if remedy.minimal and len(steps) == 1:
        proof = "nothing else is needed"
    count = f"{len(steps)} of {remedy.candidates} steps in fp32"
    return f"{count}: {', '.join(steps[:_SHOWN])}{more}; {proof} (graphs tried: {remedy.evaluations})"
