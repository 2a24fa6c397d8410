"""Leads from a failing report to the faulty nodes: first the tower, then the nodes, the smallest fix and a replay."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np

from ...runtime.arrays import AnyArray
from ...runtime.artifact.artifact import Artifact
from ...runtime.artifact.contract import Role, Verdict
from ...runtime.errors import InputError, SiglipOnnxError
from ...runtime.files import new_folder
from ...runtime.model import Siglip
from ..report.report import Check, CheckGroup, Report, describe
from .explanation import Explanation, TowerState
from .local_error import relative_error
from .localize import Localization, localize_by_names, localize_by_values
from .match_values import share_names
from .probe import Probe, ProbedTower, reference_model, run_tower

FILE: Final = "explanation.json"

# Check groups before the towers: nodes cannot cause these failures.
_BEFORE_TOWERS: Final = {
    CheckGroup.CONTRACT: "The artifact's files or interfaces are wrong; no node is at fault.",
    CheckGroup.PROVIDER: "The provider does not run the whole graph itself; no node is at fault.",
    CheckGroup.TOKENS: "The tower reads other ids than the PyTorch reference; the tokenizer or the contract's "
    "tokenizer section is at fault, no node.",
    CheckGroup.PIXELS: "The tower reads other pixels than the PyTorch reference; the preprocessing or the contract's "
    "image section is at fault, no node.",
}
# Check groups whose failures remain possible when the towers pass row by row.
_AFTER_TOWERS: Final = {
    CheckGroup.DETERMINISM: "The same input gives another result on a second run. Row by row the towers pass, so the "
    "provider's threads or algorithms are at fault, no node.",
    CheckGroup.BATCH: "Row by row the towers pass, so the graph handles batches wrongly; for example, the batch size "
    "was fixed during tracing.",
    CheckGroup.LATENCY: "The results are correct, but the run takes too long.",
}
_JOINT: Final = "joint graph"  # the prefix of the names of its checks


@dataclass(frozen=True)
class DiagnosisInput:
    """Everything that a diagnosis needs; see `explain` for the fields."""

    model: Siglip
    reference: Artifact
    rows: Mapping[Role, AnyArray]
    report: Report
    passes: Callable[[Role, AnyArray], bool]
    progress: Callable[[str], None]


def diagnose(case: DiagnosisInput, folder: Path) -> Explanation:
    """Explain a failing report and write the explanation to a folder; see `explain`."""
    try:
        with new_folder(folder, replace=True) as partial:
            explanation = _explain(case, partial)
            (partial / FILE).write_bytes(explanation.to_json())
            return explanation
    except OSError as error:
        raise InputError(
            f"Cannot write the explanation to {folder} ({error.strerror or error}).", "Name another folder."
        ) from error


def _explain(case: DiagnosisInput, folder: Path) -> Explanation:
    problem = case.report.first_problem()
    if problem is None or case.report.verdict is Verdict.PASS:
        return _without_nodes(case, problem, {}, "Nothing fails, so there is nothing to explain.")
    towers = {role: _TowerDiagnosis(case, role) for role in case.rows}
    states = {role: tower.state for role, tower in towers.items()}
    if conclusion := _obstacle(problem, towers):
        return _without_nodes(case, problem, states, conclusion)
    failing = [role for role, state in states.items() if not state.passes]
    if not failing:
        return _without_nodes(case, problem, states, _outside_towers(case, problem))
    role = next((role for role in failing if problem.name.startswith(role)), failing[0])
    notes = tuple(f"The {other} tower fails as well; fix this one first." for other in failing if other != role)
    return _examine(case, problem, states, towers[role], notes, folder)


def _obstacle(problem: Check, towers: Mapping[Role, _TowerDiagnosis]) -> str:
    """The conclusion where comparing nodes is pointless or impossible; empty where it is not."""
    if problem.group in _BEFORE_TOWERS:
        return _BEFORE_TOWERS[problem.group]
    for role, tower in towers.items():
        if tower.reference is not None and not tower.reference_passes:
            return f"The {role} tower of the reference artifact fails as well, so the nodes cannot be compared."
    for role, tower in towers.items():
        if tower.state.passes is None:
            return f"The {role} tower does not run: {tower.state.problem}"
    return ""


def _examine(
    case: DiagnosisInput,
    problem: Check,
    states: dict[Role, TowerState],
    tower: _TowerDiagnosis,
    notes: tuple[str, ...],
    folder: Path,
) -> Explanation:
    candidate, reference = tower.candidate, tower.reference
    assert candidate is not None and reference is not None  # noqa: S101, PT018  `_obstacle` found none
    with TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as scratch:
        probe = Probe(Path(scratch), candidate, reference, case.progress)
        localize = localize_by_names if share_names(candidate.graph, reference.graph) else localize_by_values
        result: Localization = localize(probe, lambda embeddings: case.passes(tower.role, embeddings), folder)
    return replace(
        _without_nodes(case, problem, states, result.conclusion),
        role=tower.role,
        culprit=result.culprit,
        minimal_fix=result.minimal_fix,
        replay=result.replay,
        notes=(*notes, *result.notes),
    )


class _TowerDiagnosis:
    """One tower of both artifacts, run on a few rows."""

    def __init__(self, case: DiagnosisInput, role: Role) -> None:
        self.role = role
        self.candidate: ProbedTower | None = None
        self.reference: ProbedTower | None = None
        self.problem = ""
        case.progress(f"Running the {role} tower on {len(case.rows[role])} rows")
        try:
            with reference_model(case.reference, case.model.options) as model:
                self.reference = run_tower(model, role, case.rows[role], "reference")
            self.candidate = run_tower(case.model, role, case.rows[role], "candidate")
        except SiglipOnnxError as error:
            self.problem = str(error)
        self.reference_passes = self.reference is not None and case.passes(role, self.reference.embeddings)
        self.state = self._state(case)

    def _state(self, case: DiagnosisInput) -> TowerState:
        if self.candidate is None or self.reference is None:
            return TowerState(None, problem=self.problem)
        embeddings = self.candidate.embeddings
        error = relative_error(embeddings, self.reference.embeddings)
        return TowerState(case.passes(self.role, embeddings), error if np.isfinite(error) else None)


def _outside_towers(case: DiagnosisInput, problem: Check) -> str:
    """The conclusion where every tower passes."""
    actual, expected = case.model.contract.logits, case.reference.contract.logits
    if problem.group in _AFTER_TOWERS:
        return _AFTER_TOWERS[problem.group]
    for name in ("scale", "bias"):
        value, correct = getattr(actual, name), getattr(expected, name)
        if value != correct:
            return f"Both towers pass; the contract's logit {name} is {value:g}, expected {correct:g}."
    if problem.name.startswith(_JOINT):
        return "Both towers pass; the nodes that the joint graph adds after the towers are at fault."
    return (
        "Both towers pass on the examined rows, and logit scale and bias are correct: either the runtime's code after "
        "the towers is at fault, or only rows that were not examined fail."
    )


def _without_nodes(
    case: DiagnosisInput, problem: Check | None, states: dict[Role, TowerState], conclusion: str
) -> Explanation:
    """An explanation that names no nodes."""
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
