"""A derived tower against its float32 tower, on pairs that did not calibrate it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ...exporter.graph.naming import OUTPUTS, base_name, data_path
from ...runtime.artifact.contract import LogitSpec, Role
from ...runtime.session import bare_session
from ...validate.stats import metrics
from ..sites import Array, Floats
from .search import Measurement

_ROUNDS = 5


@dataclass(frozen=True)
class Evaluator:
    """What a tower is measured by.

    Attributes:
        role: Which tower it is.
        rows: Its inputs.
        wanted: Embeddings of both float32 towers on the same pairs.
        logits: Scale and bias.
        fp32: Runs the float32 tower, for timing.
    """

    role: Role
    rows: Array
    wanted: dict[Role, Floats]
    logits: LogitSpec
    fp32: Callable[[Array], Array]

    def measure(self, model: ir.Model, folder: Path, timed: bool) -> Measurement:
        """Write a tower into a folder of its own, run it and compare."""
        size = save(model, folder / "candidate.onnx")
        run = runner(folder / "candidate.onnx")
        found = {**self.wanted, self.role: embed(run, self.rows)}
        ours, theirs = self._logits(found), self._logits(self.wanted)
        cosines = metrics.centered_cosines(found[self.role], self.wanted[self.role])
        truth = np.eye(len(ours), dtype=bool)
        drops = [metrics.recall_lost(turn(ours), turn(theirs), truth, 1) for turn in (lambda x: x, np.transpose)]
        return Measurement(
            centered_cosine=_finite(cosines.mean()),
            centered_cosine_min=_finite(cosines.min()),
            logit_sigma=_finite(metrics.residual_sigma(ours, theirs)),
            retrieval_drop=max(drops),
            bytes=size,
            speed=speed(run, self.fp32, self.rows[:1]) if timed else None,
        )

    def _logits(self, embeddings: dict[Role, Floats]) -> Array:
        images, texts = embeddings[Role.VISION], embeddings[Role.TEXT]
        return metrics.logits(images, texts, self.logits.scale, self.logits.bias)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def runner(path: Path) -> Callable[[Array], Array]:
    """Runs a tower: inputs to pooler_output."""
    session = bare_session(str(path))
    name = session.get_inputs()[0].name

    def run(rows: Array) -> Array:
        embeddings: Array = session.run([OUTPUTS[1]], {name: rows})[0]
        return embeddings

    return run


def embed(run: Callable[[Array], Array], rows: Array) -> Floats:
    """Embeddings of rows that are run one by one."""
    return np.concatenate([run(rows[i : i + 1]) for i in range(len(rows))])


def speed(ours: Callable[[Array], Array], fp32: Callable[[Array], Array], row: Array) -> float:
    """How many times as fast as fp32: the median ratio of runs in turns."""

    def seconds(run: Callable[[Array], Array]) -> float:
        started = time.perf_counter()
        run(row)
        return time.perf_counter() - started

    return statistics.median(seconds(fp32) / seconds(ours) for _ in range(_ROUNDS))


def save(model: ir.Model, path: Path) -> int:
    """Write a graph with its weights beside it; both together in bytes."""
    data = path.with_name(base_name(data_path(path.name)))
    ir.save(model, path, external_data=data.name)
    return sum(file.stat().st_size for file in (path, data) if file.exists())
