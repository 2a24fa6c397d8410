"""The explanation of a failing variant, as text and as JSON."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, Literal

import msgspec

from ...runtime.artifact.contract import Precision, Provider, Role
from ...runtime.files import as_json

EXPLANATION_VERSION: Final = 2
_WIDTH: Final = 100
_SHOWN: Final = 12  # names in a line; the JSON has all of them


class Origin(StrEnum):
    """Where a fault lies.

    FILE: the file's nodes or weights are wrong. PROVIDER: the provider computes something else than the ONNX
    specification requires. UNKNOWN: the ONNX reference implementation lacks an operator, so the two cannot be told
    apart.
    """

    FILE = "file"
    PROVIDER = "provider"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class TowerState:
    """The result of running one tower on a few rows, each row alone.

    Attributes:
        passes: Whether the tower would pass on these rows; None if it cannot run.
        error: Largest absolute difference from the reference embeddings, relative to their largest element; None if
            that is not finite.
        problem: Why the tower cannot run; empty if it runs.
    """

    passes: bool | None
    error: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class Culprit:
    """The first faulty step: nodes whose outputs are wrong although their inputs are taken as given.

    Attributes:
        nodes: Names of the nodes in the candidate graph.
        operators: Operator types of these nodes.
        reference_nodes: Names of the nodes in the reference graph that compute the same values.
        reference_operators: Operator types of those nodes.
        inputs: Values that the nodes read and both graphs have, by their names in the candidate graph.
        outputs: Values that the nodes compute and both graphs have.
        error: Largest absolute difference from the reference outputs for the same inputs, relative to their largest
            element; None if the outputs are not finite or have another shape.
        limit: Largest error allowed for one step at this precision.
        typical: Median error of the other steps with the same operators; None if there are none.
        row: Index of the input row with the largest error.
        origin: Where the fault lies.
        reasons: Differences that were found, one sentence each; empty if only the numbers differ.
        exact: Whether the reference outputs were computed in float64 instead of float32.
    """

    nodes: tuple[str, ...]
    operators: tuple[str, ...]
    reference_nodes: tuple[str, ...]
    reference_operators: tuple[str, ...]
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
class MinimalFix:
    """The fewest steps that make the tower pass when they are replaced by the reference graph's.

    Attributes:
        steps: Names of the candidate graph's nodes to replace, step by step.
        trials: How many mixed graphs were run to find these steps.
        minimal: Whether every step is proved necessary: without any one of them the tower fails. A smaller set of
            other steps may exist.
        total_steps: How many steps the tower has.
    """

    steps: tuple[tuple[str, ...], ...]
    trials: int
    minimal: bool
    total_steps: int


@dataclass(frozen=True)
class Explanation:
    """Why a variant fails.

    Attributes:
        artifact: Name of the failing artifact.
        precision: Precision of the failing variant.
        provider: Provider that the variant fails on.
        group: The first check group that fails.
        check: The first failing check of this group, with its numbers.
        towers: The result of each tower on a few rows.
        conclusion: The cause in one or two sentences.
        role: The tower that was examined; None if no node is at fault.
        culprit: The first faulty step; None if there is none, or none was found.
        minimal_fix: The fewest steps to replace; None if they were not found.
        replay: Folder of a script that reproduces the fault, relative to the explanation; empty without one.
        notes: What could not be examined, or was examined differently, and why.
        schema_version: Version of the JSON.
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
    minimal_fix: MinimalFix | None = None
    replay: str = ""
    notes: tuple[str, ...] = ()
    schema_version: Literal[2] = EXPLANATION_VERSION

    def to_json(self) -> bytes:
        """Encode the explanation as indented JSON."""
        return as_json(self)

    @staticmethod
    def from_json(data: bytes) -> Explanation:
        """Decode what `to_json` wrote.

        Raises:
            msgspec.DecodeError: The data are not an explanation of this schema version.
        """
        return msgspec.json.decode(data, type=Explanation)

    def describe(self, folder: Path | None = None) -> str:
        """Format the explanation for a terminal; pass its folder to print the full path of the replay script."""
        lines = [f"Why {self.artifact} at {self.precision} on {self.provider} fails", ""]
        lines += _item("first failure", f"{self.group}, {self.check}" if self.check else self.group)
        for role, state in self.towers.items():
            lines += _item(f"{role} tower", _state(state))
        lines += _item("conclusion", self.conclusion)
        if self.culprit is not None:
            lines += _culprit(self.culprit)
        if self.minimal_fix is not None:
            lines += _item("minimal fix", _minimal_fix(self.minimal_fix))
        if self.replay:
            lines += _item("reproduce with", f"python {Path(folder or '') / self.replay / 'replay.py'}")
        for note in self.notes:
            lines += _item("note", note)
        return "\n".join(lines)


def _item(name: str, text: str) -> list[str]:
    margin = " " * 18
    return textwrap.wrap(text, _WIDTH, initial_indent=f"  {name:<16}", subsequent_indent=margin, break_long_words=False)


def _state(state: TowerState) -> str:
    if state.passes is None:
        return f"does not run: {state.problem}"
    error = "embeddings are not finite" if state.error is None else f"error {state.error:.3g}"
    return f"{error}, {'within the limits' if state.passes else 'outside the limits'}"


def _culprit(culprit: Culprit) -> list[str]:
    error = "not finite, or another shape" if culprit.error is None else f"{culprit.error:.3g}"
    typical = "" if culprit.typical is None else f"; similar steps {culprit.typical:.2g}"
    lines = _item("nodes", _listed(culprit.nodes, culprit.operators))
    lines += _item("reference nodes", _listed(culprit.reference_nodes, culprit.reference_operators))
    lines += _item("inputs, outputs", f"{', '.join(culprit.inputs)} → {', '.join(culprit.outputs)}")
    lines += _item("error", f"{error}; limit {culprit.limit:.2g}{typical}; row {culprit.row}")
    for reason in culprit.reasons:
        lines += _item("reason", reason)
    return lines


def _listed(names: tuple[str, ...], operators: tuple[str, ...]) -> str:
    pairs = [f"{name} ({operator})" for name, operator in zip(names, operators, strict=True)]
    more = f", and {len(pairs) - _SHOWN} more" if len(pairs) > _SHOWN else ""
    return (", ".join(pairs[:_SHOWN]) or "none") + more


def _minimal_fix(fix: MinimalFix) -> str:
    steps = [step[-1] if len(step) == 1 else f"{step[0]} to {step[-1]}" for step in fix.steps]
    more = f", and {len(steps) - _SHOWN} more" if len(steps) > _SHOWN else ""
    proof = "each of them is necessary" if fix.minimal else "not proved minimal"
    if fix.minimal and len(steps) == 1:
        proof = "no other step is needed"
    count = f"{len(steps)} of {fix.total_steps} steps in fp32"
    return f"{count}: {', '.join(steps[:_SHOWN])}{more}; {proof} (graphs tried: {fix.trials})"
