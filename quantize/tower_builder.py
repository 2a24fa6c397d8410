"""Builder of one tower of a variant: calibrated, searched, written, and fused for CUDA."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import onnx_ir as ir

from ..exporter.graph.load import load_graph
from ..exporter.graph.naming import data_path, describe, graph_path
from ..runtime.arrays import AnyArray
from ..runtime.artifact.artifact import REPORTS, Artifact
from ..runtime.artifact.contract import Graph, Precision, Provider, Role
from ..runtime.errors import QuantizationError
from ..runtime.model import Siglip
from ..validate.data.samples import Samples
from .calibration.split import CalibrationSplit
from .recipes.base import CalibrationTower, PreparedTower, Recipe
from .recipes.cuda_fusion import fuse
from .record import TowerRecord
from .search.evaluate import Evaluator, embed, save_tower, tower_runner
from .search.goal import Goal, Measurement
from .search.search import search
from .search.search_log import SearchLog, SearchStep, fingerprint
from .sites import Exclusions

TOWERS: Final = (Role.VISION, Role.TEXT)
_FUSION_TOLERANCE: Final = 1e-4  # largest difference of a fused fp32 tower, relative to its largest element


@dataclass(frozen=True)
class BuiltTower:
    """A tower that has been written."""

    graph: Graph
    record: TowerRecord
    prepared: PreparedTower


class TowerBuilder:
    """Builds towers of one variant of an artifact.

    Args:
        artifact: An artifact with fp32 graphs.
        scratch: Folder for the files of the variant, laid out like an artifact.
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
        model = Siglip(artifact)
        self._rows, self._search_rows = _rows(model, data.calibration), _rows(model, data.search)
        self._logs: list[SearchLog] = []

    def build(self, role: Role, goal: Goal | None) -> BuiltTower:
        """Calibrate a tower, search for its exclusions if there is a goal, and write it."""
        started = time.monotonic()
        prepared = self._calibrate(role)
        exclude = frozenset(self.recipe.exclude).intersection(self.candidates(role))
        steps: tuple[SearchStep, ...] = ()
        if goal is not None:
            exclude, steps = self._search(role, prepared, goal, exclude)
        self.progress(f"Writing the {role} tower")
        path, model = graph_path(role, self.recipe.precision), prepared.derive(exclude)
        size = save_tower(model, self.scratch / path)
        seconds = round(time.monotonic() - started, 1)
        record = TowerRecord(size, self._fp32_bytes(role), tuple(sorted(exclude)), prepared.notes, steps, seconds)
        return BuiltTower(describe(model, path, (data_path(path),)), record, prepared)

    def build_cuda(self, role: Role, built: BuiltTower) -> tuple[Graph, dict[str, int]]:
        """Write the CUDA graph over the portable graph's weights, and return it with the number of fused nodes."""
        assert built.prepared.derive_cuda is not None  # noqa: S101  see request.py, which allows fp16 alone
        self.progress(f"Fusing the {role} tower for CUDA")
        counts = self._check_fusion(role)
        path = graph_path(role, self.recipe.precision, Provider.CUDA)
        model = built.prepared.derive_cuda(frozenset(built.record.excluded))
        stored = load_graph(self.scratch / built.graph.path).graph.initializers
        for name, value in model.graph.initializers.items():
            if name in stored and isinstance(stored[name].const_value, ir.ExternalTensor):
                value.const_value = stored[name].const_value
        ir.save(model, self.scratch / path)
        return describe(model, path, built.graph.data), counts

    def candidates(self, role: Role) -> dict[str, int]:
        """Names that may be excluded from a tower, with their numbers of weights."""
        return self.recipe.candidates(load_graph(self._source(role)).graph)

    def remove_logs(self) -> None:
        """Remove the logs of searches, which are needed only until the variant is part of the artifact."""
        for log in self._logs:
            log.remove()

    def _fp32(self, role: Role) -> Graph:
        return self.artifact.graph(role, Precision.FP32)

    def _source(self, role: Role) -> Path:
        return self.artifact.path(self._fp32(role).path)

    def _fp32_bytes(self, role: Role) -> int:
        graph = self._fp32(role)
        return sum(self.artifact.contract.files[file].bytes for file in (graph.path, *graph.data))

    def _calibrate(self, role: Role) -> PreparedTower:
        def report_share(share: float) -> None:
            self.progress(f"Calibrating the {role} tower, {share:.0%}")

        rows = self._rows.get(role, np.empty(0))
        return self.recipe.prepare(CalibrationTower(self._source(role), rows, report_share))

    def _search(
        self, role: Role, prepared: PreparedTower, goal: Goal, fixed: Exclusions
    ) -> tuple[Exclusions, tuple[SearchStep, ...]]:
        """The exclusions that meet a goal, among them the fixed ones, and the trials."""
        evaluator, log = self._evaluator(role), self._open_log(role)

        def evaluate(exclude: Exclusions, timed: bool) -> Measurement:
            with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
                return evaluator.measure(prepared.derive(exclude | fixed), Path(folder), timed)

        def progress(text: str) -> None:
            self.progress(f"Searching the {role} tower. {text}")

        candidates = {name: size for name, size in self.candidates(role).items() if name not in fixed}
        exclude = search(candidates, evaluate, goal, log, progress) | fixed
        steps = (replace(step, excluded=tuple(sorted({*step.excluded, *fixed}))) for step in log.steps.values())
        return exclude, tuple(steps)

    def _evaluator(self, role: Role) -> Evaluator:
        self.progress("Running the fp32 towers")
        fp32 = {tower: tower_runner(self._source(tower)) for tower in TOWERS}
        expected = {tower: embed(fp32[tower], self._search_rows[tower]) for tower in TOWERS}
        return Evaluator(role, self._search_rows[role], expected, self.artifact.contract.logits, fp32[role])

    def _open_log(self, role: Role) -> SearchLog:
        key = fingerprint(
            weights=[self.artifact.contract.files[path].sha256 for path in self._fp32(role).data],
            data=[self.data.calibration.sha256, self.data.search.sha256],
            recipe=self.recipe,
        )
        log = SearchLog(self.artifact.folder / REPORTS / f"search-{self.recipe.precision}-{role}.json", key)
        self._logs.append(log)
        return log

    def _check_fusion(self, role: Role) -> dict[str, int]:
        """Fuse the fp32 tower, compare it with the plain one, and return the number of fused nodes of each kind."""
        model, rows = load_graph(self._source(role)), self._rows[role][:2]
        counts = fuse(model.graph)
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            path = Path(folder) / "fused.onnx"
            save_tower(model, path)
            actual, expected = embed(tower_runner(path), rows), embed(tower_runner(self._source(role)), rows)
        error = float(np.abs(actual - expected).max() / np.abs(expected).max())
        if not error < _FUSION_TOLERANCE:
            raise QuantizationError(
                f"The fused {role} tower differs from the plain one by {error:.2g} of its largest element; at most "
                f"{_FUSION_TOLERANCE:g} was expected.",
                "Make fp16 without CUDA graphs, and please report this with the checkpoint's config.json.",
            )
        return counts


def _rows(model: Siglip, pairs: Samples) -> dict[Role, AnyArray]:
    """Inputs of both towers for pairs; empty without pairs."""
    if not pairs.pairs:
        return {}
    return {Role.VISION: model.images(list(pairs.images.values())), Role.TEXT: model.tokenizer(pairs.pairs)}
