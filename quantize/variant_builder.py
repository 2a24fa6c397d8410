"""Builder of a variant: its towers, its joint graph, and its entry in the contract."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from ..exporter.graph.joint import write_joint
from ..exporter.graph.naming import describe, graph_path
from ..runtime.artifact.artifact import REPORTS, Artifact
from ..runtime.artifact.contract import Graph, Precision, Provider, Role, Variant
from ..runtime.engines.host import installed_version
from ..runtime.errors import InputError
from .calibration.split import CalibrationSplit
from .recipes.base import Recipe
from .record import Record, TowerRecord
from .search.goal import Goal
from .tower_builder import TOWERS, TowerBuilder

_TOOLS: Final = ("siglip-onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "numpy")


class VariantBuilder:
    """Builds one variant of an artifact.

    Args:
        artifact: An artifact with fp32 graphs.
        scratch: Empty folder for the files of the variant, laid out like an artifact.
        recipe: The recipe of the variant.
        data: The pairs to calibrate and search with.
        progress: Called with a line of text before each step.
    """

    def __init__(
        self,
        artifact: Artifact,
        scratch: Path,
        recipe: Recipe,
        data: CalibrationSplit,
        progress: Callable[[str], None],
    ) -> None:
        self.artifact, self.scratch, self.recipe, self.data, self.progress = artifact, scratch, recipe, data, progress
        self._towers = TowerBuilder(artifact, scratch, recipe, data, progress)
        self._borrowed: list[Path] = []
        for folder in ("onnx", REPORTS):
            (scratch / folder).mkdir()

    def build(self, towers: tuple[Role, ...], goal: Goal | None, *, cuda: bool) -> tuple[Record, tuple[Variant, ...]]:
        """Write the graphs of the variant.

        Args:
            towers: Towers to make.
            goal: Goal of a search for exclusions; None for no search.
            cuda: Write the graphs for CUDA, too.

        Returns:
            How the variant was made, and its entries in the contract: the portable one, and the one for CUDA.

        Raises:
            InputError: The recipe excludes an unknown name.
            QuantizationError: The goal cannot be met, or a fused graph differs from the portable one.
        """
        self._check_exclusions(towers)
        built = {role: self._towers.build(role, goal) for role in towers}
        fused = {role: self._towers.build_cuda(role, built[role]) for role in towers} if cuda else {}
        counts = {role: count for role, (_, count) in fused.items()}
        record = self._record({role: tower.record for role, tower in built.items()}, goal, counts)
        variants = [self._variant({role: tower.graph for role, tower in built.items()}, None, record)]
        if cuda:
            variants.append(self._variant({role: graph for role, (graph, _) in fused.items()}, Provider.CUDA, record))
        return record, tuple(variants)

    def remove_logs(self) -> None:
        """Remove the logs of searches, which are needed only until the variant is part of the artifact."""
        self._towers.remove_logs()

    def remove_borrowed(self) -> None:
        """Remove the copies of data that the variant shares with others, so that they are not moved with it."""
        for path in self._borrowed:
            path.unlink()

    def _check_exclusions(self, towers: tuple[Role, ...]) -> None:
        known = [name for role in towers for name in self._towers.candidates(role)]
        if unknown := set(self.recipe.exclude).difference(known):
            raise InputError(
                f"exclude names {min(unknown)}, which is in no tower to be made.",
                f"Use names such as {', '.join(known[:6])}.",
            )

    def _record(self, towers: dict[Role, TowerRecord], goal: Goal | None, fused: dict[Role, dict[str, int]]) -> Record:
        calibration = self.data.calibration
        return Record(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            precision=self.recipe.precision,
            options={key: value for key, value in asdict(self.recipe).items() if key != "exclude"},
            goal=f"{goal.metric} {goal.target}" if goal else None,
            data=calibration.name,
            data_sha256=calibration.sha256,
            samples=len(calibration.pairs),
            skipped=self.data.skipped,
            towers=towers,
            fused=fused,
            tools={tool: version for tool in _TOOLS if (version := installed_version(tool))},
        )

    def _variant(self, new: dict[Role, Graph], target_provider: Provider | None, record: Record) -> Variant:
        """The contract's entry; a tower that is not new stays as the variant has it, or is the fp32 one."""
        self.progress("Writing the joint graph")
        key = (self.recipe.precision, target_provider)
        old = next((v for v in self.artifact.contract.variants if (v.precision, v.target_provider) == key), None)
        towers = {role: new.get(role) or self._existing(role, old) for role in TOWERS}
        path = graph_path(Role.JOINT, *key)
        tower_paths = (self._locate(towers[role].path) for role in TOWERS)
        joint = write_joint(self.scratch / path, self.artifact.contract.logits, *tower_paths)
        data = tuple(dict.fromkeys(file for role in reversed(TOWERS) for file in towers[role].data))
        self._borrow(data)
        graphs = {**towers, Role.JOINT: describe(joint, path, data)}
        return Variant(self.recipe.precision, graphs, _provenance(record, old, new), target_provider)

    def _existing(self, role: Role, old: Variant | None) -> Graph:
        return old.graphs[role] if old else self.artifact.graph(role, Precision.FP32)

    def _locate(self, graph: str) -> Path:
        """Path of a graph that was just made or is part of the artifact."""
        return self.scratch / graph if (self.scratch / graph).exists() else self.artifact.path(graph)

    def _borrow(self, data: tuple[str, ...]) -> None:
        """Copy missing data beside the joint graph, which can be validated only with all of it."""
        for file in data:
            if not (self.scratch / file).exists():
                self._borrowed.append(self.scratch / file)
                shutil.copyfile(self.artifact.path(file), self.scratch / file)


def _provenance(record: Record, old: Variant | None, new: dict[Role, Graph]) -> dict[str, str]:
    """How the towers were made; entries of the old variant stay for towers that are not new."""
    entries = old.provenance if old else {}
    provenance = {key: value for key, value in entries.items() if key.partition(":")[0] not in new}
    provenance |= record.tools
    options = ", ".join(f"{key}={value}" for key, value in record.options.items())
    for role, tower in record.towers.items():
        provenance[f"{role}: options"] = options
        provenance[f"{role}: calibration"] = f"{record.samples} pairs of {record.data}, {record.data_sha256}"
        provenance[f"{role}: excluded"] = ", ".join(tower.excluded)
    return provenance
