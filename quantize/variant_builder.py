"""The graphs of one variant: each tower calibrated, searched, derived and written, then fused and joined."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
import onnx_ir as ir

from ..exporter.graph.joint import write_joint
from ..exporter.graph.naming import data_path, describe, graph_path
from ..runtime.artifact.artifact import REPORTS, Artifact
from ..runtime.artifact.contract import Graph, Precision, Provider, Role, Variant
from ..runtime.engines.host import installed_version
from ..runtime.errors import InputError, QuantizationError
from ..runtime.model import Siglip
from ..validate.data.samples import Samples
from .calibration.split import Data
from .recipes.base import CalibrationTower, Keep, PreparedTower, Recipe
from .recipes.cuda_fusion import fuse
from .record import Record, TowerRecord
from .search.evaluate import Evaluator, embed, runner, save
from .search.search import Goal, Measurement, SearchLog, SearchStep, fingerprint, search
from .sites import Array, Floats

TOWERS: Final = (Role.VISION, Role.TEXT)
_TOOLS: Final = ("siglip-onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu", "numpy")
_CLOSE: Final = 1e-4  # largest difference of a fused float32 graph, relative to the largest element


@dataclass(frozen=True)
class _Made:
    """A tower that has been written."""

    graph: Graph
    record: TowerRecord
    prepared: PreparedTower


class VariantBuilder:
    """One variant of an artifact while it is made.

    Args:
        artifact: Which has float32 graphs.
        scratch: A folder for the variant's files, laid out like an artifact.
        recipe: How a tower is derived.
        data: What calibrates it.
        progress: Told what is being done.
    """

    def __init__(
        self, artifact: Artifact, scratch: Path, recipe: Recipe, data: Data, progress: Callable[[str], None]
    ) -> None:
        self.artifact, self.scratch, self.recipe, self.data, self.progress = artifact, scratch, recipe, data, progress
        model = Siglip(artifact)
        self.rows, self.searched = _rows(model, data.calibration), _rows(model, data.searched)
        self._borrowed: list[Path] = []
        self._diaries: list[SearchLog] = []
        for folder in ("onnx", REPORTS):
            (scratch / folder).mkdir()

    def make(self, towers: tuple[Role, ...], goal: Goal | None, *, cuda: bool) -> tuple[Record, tuple[Variant, ...]]:
        """Write the graphs of the variant, and of the one for CUDA; how it was done, and the contract's entries."""
        self._check_kept(towers)
        made = {role: self._tower(role, goal) for role in towers}
        fused = {role: self._fused(role, made[role]) for role in towers} if cuda else {}
        record = self._record({role: tower.record for role, tower in made.items()}, goal, fused)
        variants = [self._variant({role: tower.graph for role, tower in made.items()}, None, record)]
        if cuda:
            variants.append(self._variant({role: graph for role, (graph, _) in fused.items()}, Provider.CUDA, record))
        return record, tuple(variants)

    def finish(self) -> None:
        """Part with what is only needed while the variant is not in its place."""
        for diary in self._diaries:
            diary.remove()

    def return_borrowed(self) -> None:
        """Part with the copies of data that the variant shares with others, so that they are not put in its place."""
        for path in self._borrowed:
            path.unlink()

    def _fp32(self, role: Role) -> Graph:
        return self.artifact.graph(role, Precision.FP32)

    def _source(self, role: Role) -> Path:
        return self.artifact.path(self._fp32(role).path)

    def _place(self, graph: str) -> Path:
        """Where a graph is, made by now or long ago."""
        return self.scratch / graph if (self.scratch / graph).exists() else self.artifact.path(graph)

    def _tower(self, role: Role, goal: Goal | None) -> _Made:
        started = time.monotonic()
        prepared = self._calibrate(role)
        keep = frozenset(self.recipe.keep).intersection(self._candidates(role))
        walk: tuple[SearchStep, ...] = ()
        if goal is not None:
            keep, walk = self._search(role, prepared, goal, keep)
        self.progress(f"Writing the {role} tower")
        path, model = graph_path(role, self.recipe.precision), prepared.derive(keep)
        size = save(model, self.scratch / path)
        source = self._fp32(role)
        fp32 = sum(self.artifact.contract.files[file].bytes for file in (source.path, *source.data))
        seconds = round(time.monotonic() - started, 1)
        record = TowerRecord(size, fp32, tuple(sorted(keep)), prepared.notes, walk, seconds)
        return _Made(describe(model, path, (data_path(path),)), record, prepared)

    def _calibrate(self, role: Role) -> PreparedTower:
        rows = self.rows.get(role, np.empty(0))

        def step(share: float) -> None:
            self.progress(f"Calibrating the {role} tower, {share:.0%}")

        return self.recipe.prepare(CalibrationTower(self._source(role), rows, step))

    def _candidates(self, role: Role) -> dict[str, int]:
        return self.recipe.candidates(ir.load(self._source(role)).graph)

    def _check_kept(self, towers: tuple[Role, ...]) -> None:
        known = [name for role in towers for name in self._candidates(role)]
        if unknown := set(self.recipe.keep).difference(known):
            some = ", ".join(known[:6])
            raise InputError(f"No tower has {min(unknown)} to keep.", f"Name sites such as {some}.")

    def _search(
        self, role: Role, prepared: PreparedTower, goal: Goal, fixed: Keep
    ) -> tuple[Keep, tuple[SearchStep, ...]]:
        fp32 = {tower: runner(self._source(tower)) for tower in TOWERS}
        self.progress("Running the fp32 towers")
        wanted: dict[Role, Floats] = {tower: embed(fp32[tower], self.searched[tower]) for tower in TOWERS}
        yard = Evaluator(role, self.searched[role], wanted, self.artifact.contract.logits, fp32[role])
        key = fingerprint(
            weights=[self.artifact.contract.files[path].sha256 for path in self._fp32(role).data],
            data=[self.data.calibration.sha256, self.data.searched.sha256],
            recipe=self.recipe,
        )
        diary = SearchLog(self.artifact.folder / REPORTS / f"search-{self.recipe.precision}-{role}.json", key)

        def evaluate(keep: Keep, timed: bool) -> Measurement:
            with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
                return yard.measure(prepared.derive(keep | fixed), Path(folder), timed)

        def progress(text: str) -> None:
            self.progress(f"The {role} tower. {text}")

        open_ = {name: size for name, size in self._candidates(role).items() if name not in fixed}
        self._diaries.append(diary)
        keep = search(open_, evaluate, goal, diary, progress) | fixed
        return keep, tuple(replace(step, keep=tuple(sorted({*step.keep, *fixed}))) for step in diary.steps.values())

    def _fused(self, role: Role, made: _Made) -> tuple[Graph, dict[str, int]]:
        """The CUDA graph over the portable graph's data, and its fused nodes."""
        assert made.prepared.fused is not None  # noqa: S101  see run.py, which asks for it of fp16 alone
        self.progress(f"Fusing the {role} tower for CUDA")
        counts = self._check_fusion(role)
        path = graph_path(role, self.recipe.precision, Provider.CUDA)
        model = made.prepared.fused(frozenset(made.record.kept))
        stored = ir.load(self.scratch / made.graph.path).graph.initializers
        for name, value in model.graph.initializers.items():
            if name in stored and isinstance(stored[name].const_value, ir.ExternalTensor):
                value.const_value = stored[name].const_value
        ir.save(model, self.scratch / path)
        return describe(model, path, made.graph.data), counts

    def _check_fusion(self, role: Role) -> dict[str, int]:
        """Fuse the float32 tower and compare it with the plain one; how many nodes of each kind there are."""
        model, rows = ir.load(self._source(role)), self.rows[role][:2]
        counts = fuse(model.graph)
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            save(model, Path(folder) / "fused.onnx")
            ours, theirs = (embed(runner(path), rows) for path in (Path(folder) / "fused.onnx", self._source(role)))
        error = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
        if not error < _CLOSE:
            raise QuantizationError(
                f"The fused {role} tower differs from the plain one by {error:.2g} of its largest element.",
                "Leave out --cuda, and please report it with the checkpoint's config.json.",
            )
        return counts

    def _record(
        self, towers: dict[Role, TowerRecord], goal: Goal | None, fused: dict[Role, tuple[Graph, dict[str, int]]]
    ) -> Record:
        calibration = self.data.calibration
        return Record(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            precision=self.recipe.precision,
            options={key: value for key, value in asdict(self.recipe).items() if key != "keep"},
            goal=f"{goal.metric} {goal.target}" if goal else None,
            data=calibration.name,
            data_sha256=calibration.sha256,
            samples=len(calibration.pairs),
            skipped=self.data.skipped,
            towers=towers,
            fused={role: counts for role, (_, counts) in fused.items()},
            tools={tool: version for tool in _TOOLS if (version := installed_version(tool))},
        )

    def _variant(self, new: dict[Role, Graph], target_provider: Provider | None, record: Record) -> Variant:
        """The contract's entry; a tower that is not new is as the variant has it, or in float32."""
        self.progress("Writing the joint graph")
        key = (self.recipe.precision, target_provider)
        old = next((v for v in self.artifact.contract.variants if (v.precision, v.target_provider) == key), None)
        towers = {role: new.get(role) or (old.graphs[role] if old else self._fp32(role)) for role in TOWERS}
        path = graph_path(Role.JOINT, *key)
        places = (self._place(towers[role].path) for role in TOWERS)
        joint = write_joint(self.scratch / path, self.artifact.contract.logits, *places)
        data = tuple(dict.fromkeys(file for role in reversed(TOWERS) for file in towers[role].data))
        self._borrow(data)
        kept = {
            key: value for key, value in (old.provenance if old else {}).items() if key.partition(":")[0] not in new
        }
        graphs = {**towers, Role.JOINT: describe(joint, path, data)}
        return Variant(self.recipe.precision, graphs, {**kept, **_made_with(record)}, target_provider)

    def _borrow(self, data: tuple[str, ...]) -> None:
        """A joint graph can be judged only beside all of its data."""
        for file in data:
            if not (self.scratch / file).exists():
                self._borrowed.append(self.scratch / file)
                shutil.copyfile(self.artifact.path(file), self.scratch / file)


def _made_with(record: Record) -> dict[str, str]:
    options = ", ".join(f"{key}={value}" for key, value in record.options.items())
    made = dict(record.tools)
    for role, tower in record.towers.items():
        made[f"{role}: options"] = options
        made[f"{role}: calibration"] = f"{record.samples} pairs of {record.data}, {record.data_sha256}"
        made[f"{role}: kept"] = ", ".join(tower.kept)
    return made


def _rows(model: Siglip, pairs: Samples) -> dict[Role, Array]:
    """The inputs of both towers for some pairs."""
    if not pairs.pairs:
        return {}
    return {Role.VISION: model.images(list(pairs.images.values())), Role.TEXT: model.tokenizer(pairs.pairs)}
