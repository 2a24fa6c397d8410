"""The walk from a failing report down to nodes: which tower, which nodes, what would mend it, and what shows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...runtime.artifact.artifact import Artifact
from ...runtime.artifact.contract import Role, Verdict
from ...runtime.errors import InputError, SiglipOnnxError
from ...runtime.files import new_folder
from ...runtime.model import Siglip
from ..report.report import Check, CheckGroup, Report, describe
from .explanation import Explanation, TowerState
from .local_error import error_of
from .localize import Trace, trace_foreign, trace_kin
from .match_values import are_kin
from .probe import Probe, Side, side, trusted_model

Array = NDArray[Any]
FILE: Final = "explanation.json"

# Check groups below the towers: what fails there is not made by nodes.
_BELOW: Final = {
    CheckGroup.CONTRACT: "The artifact's files or interfaces are not what they have to be; no node is to blame.",
    CheckGroup.PROVIDER: "The provider does not run all of the graph itself; no node is to blame.",
    CheckGroup.TOKENS: "The tower is given other ids than the reference reads; the tokenizer or what the contract "
    "says of it "
    "is to blame, no node.",
    CheckGroup.PIXELS: "The tower is given other pixels than the reference sees; the preprocessing or what the "
    "contract says "
    "of it is to blame, no node.",
}
# What is left where the towers are right row by row.
_ABOVE: Final = {
    CheckGroup.DETERMINISM: "The same input gives another result when it is run again; row by row the towers pass, "
    "so the "
    "provider's threads or algorithms are to blame, no node.",
    CheckGroup.BATCH: "Row by row the towers pass: how the graph treats batches is to blame, such as a batch that "
    "was fixed "
    "when it was traced.",
    CheckGroup.LATENCY: "It computes what it should and takes too long.",
}
_JOINT: Final = "joint graph"  # how checks of the joint graph are called


@dataclass(frozen=True)
class Case:
    """What is to be explained; see `explain`."""

    model: Siglip
    trusted: Artifact
    rows: Mapping[Role, Array]
    report: Report
    enough: Callable[[Role, Array], bool]
    progress: Callable[[str], None]


def walk(case: Case, folder: Path) -> Explanation:
    """Explain, and fill the folder; see `explain`."""
    try:
        with new_folder(folder, replace=True) as partial:
            explanation = _explained(case, partial)
            (partial / FILE).write_bytes(explanation.to_json())
            return explanation
    except OSError as error:
        raise InputError(
            f"The explanation cannot be written to {folder} ({error.strerror or error}).", "Name another folder."
        ) from error


def _explained(case: Case, folder: Path) -> Explanation:
    problem = case.report.first_problem()
    if problem is None or case.report.verdict is Verdict.PASS:
        return _said(case, problem, {}, "Nothing fails, so there is nothing to explain.")
    towers = {role: _TowerDiagnosis(case, role) for role in case.rows}
    states = {role: tower.state for role, tower in towers.items()}
    if problem.group in _BELOW:
        return _said(case, problem, states, _BELOW[problem.group])
    if untrusted := [role for role, tower in towers.items() if tower.trusted and not tower.is_trusted]:
        what = f"The {untrusted[0]} tower that was to be trusted would not pass either, so nothing can be told."
        return _said(case, problem, states, what)
    if broken := [role for role, state in states.items() if state.enough is None]:
        return _said(case, problem, states, f"The {broken[0]} tower does not run: {states[broken[0]].problem}")
    off = [role for role, state in states.items() if not state.enough]
    if not off:
        return _said(case, problem, states, _above(case, problem))
    role = next((role for role in off if problem.name.startswith(role)), off[0])
    others = tuple(f"The {other} tower is off as well; mend this one first." for other in off if other != role)
    return _looked_into(case, problem, states, towers[role], others, folder)


def _looked_into(
    case: Case,
    problem: Check,
    states: dict[Role, TowerState],
    tower: _TowerDiagnosis,
    notes: tuple[str, ...],
    folder: Path,
) -> Explanation:
    judged, trusted = tower.judged, tower.trusted
    assert judged is not None and trusted is not None  # noqa: S101, PT018  it ran
    with TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as scratch:
        bench = Probe(Path(scratch), judged, trusted, case.progress)
        trace = trace_kin if are_kin(judged.net, trusted.net) else trace_foreign
        found: Trace = trace(bench, lambda embeddings: case.enough(tower.role, embeddings), folder)
    return replace(
        _said(case, problem, states, found.conclusion),
        role=tower.role,
        culprit=found.culprit,
        remedy=found.remedy,
        replay=found.replay,
        notes=(*notes, *found.notes),
    )


class _TowerDiagnosis:
    """A tower of both artifacts, run on a few rows."""

    def __init__(self, case: Case, role: Role) -> None:
        self.role = role
        self.judged: Side | None = None
        self.trusted: Side | None = None
        self.problem = ""
        case.progress(f"Running the {role} tower on {len(case.rows[role])} rows")
        try:
            with trusted_model(case.trusted, case.model.options) as right:
                self.trusted = side(right, role, case.rows[role], "trusted")
            self.judged = side(case.model, role, case.rows[role], "judged")
        except SiglipOnnxError as error:
            self.problem = str(error)
        self.is_trusted = self.trusted is not None and case.enough(role, self.trusted.embeddings)
        self.state = self._state(case)

    def _state(self, case: Case) -> TowerState:
        if self.judged is None or self.trusted is None:
            return TowerState(None, problem=self.problem)
        found = self.judged.embeddings
        error = error_of(found, self.trusted.embeddings)
        return TowerState(case.enough(self.role, found), error if np.isfinite(error) else None)


def _above(case: Case, problem: Check) -> str:
    """What is to blame where every tower passes."""
    ours, theirs = case.model.contract.logits, case.trusted.contract.logits
    if problem.group in _ABOVE:
        return _ABOVE[problem.group]
    for name in ("scale", "bias"):
        mine, right = getattr(ours, name), getattr(theirs, name)
        if mine != right:
            return f"Both towers pass; the contract's logit {name} is {mine:g}, where {right:g} is right."
    if problem.name.startswith(_JOINT):
        return "Both towers pass; the joint graph, which has nodes of its own behind them, is to blame."
    return (
        "Both towers pass on the rows that were looked at, and so do scale and bias: what the runtime makes of the "
        "embeddings is to blame, or rows that were not looked at."
    )


def _said(case: Case, problem: Check | None, states: dict[Role, TowerState], conclusion: str) -> Explanation:
    """An explanation of what is known before nodes are looked at."""
    report = case.report
    return Explanation(
        artifact=report.artifact,
        precision=report.precision,
        provider=report.provider,
        group=problem.group if problem else "",
        check=f"{problem.name}: {describe(problem)}" if problem else "",
        towers=states,
        conclusion=conclusion,
    )
