"""Comparison of a quantized tower with its fp32 tower, on pairs that did not calibrate it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from ...exporter.graph.naming import OUTPUTS, base_name, data_path
from ...runtime.arrays import AnyArray, FloatArray
from ...runtime.artifact.contract import LogitSpec, Role
from ...runtime.session import bare_session
from ...validate.stats import metrics
from .goal import Measurement

_ROUNDS = 5

RunTower = Callable[[AnyArray], FloatArray]


@dataclass(frozen=True)
class Evaluator:
    """Measures quantized towers of one role.

    Attributes:
        role: The tower that is quantized.
        rows: Its inputs, [pairs, ...].
        expected: Embeddings of both fp32 towers on the same pairs.
        logits: Scale and bias of the logits.
        run_fp32: Runs the fp32 tower, for timing.
    """

    role: Role
    rows: AnyArray
    expected: dict[Role, FloatArray]
    logits: LogitSpec
    run_fp32: RunTower

    def measure(self, model: ir.Model, folder: Path, timed: bool) -> Measurement:
        """Write a tower into a folder, run it and compare it with the fp32 tower."""
        size = save_tower(model, folder / "candidate.onnx")
        run = tower_runner(folder / "candidate.onnx")
        actual = {**self.expected, self.role: embed(run, self.rows)}
        cosines = metrics.centered_cosines(actual[self.role], self.expected[self.role])
        actual_logits, expected_logits = self._logits(actual), self._logits(self.expected)
        return Measurement(
            centered_cosine=_finite(cosines.mean()),
            centered_cosine_min=_finite(cosines.min()),
            logit_sigma=_finite(metrics.residual_sigma(actual_logits, expected_logits)),
            retrieval_drop=_retrieval_drop(actual_logits, expected_logits),
            bytes=size,
            speed=speed(run, self.run_fp32, self.rows[:1]) if timed else None,
        )

    def _logits(self, embeddings: dict[Role, FloatArray]) -> AnyArray:
        images, texts = embeddings[Role.VISION], embeddings[Role.TEXT]
        return metrics.logits(images, texts, self.logits.scale, self.logits.bias)


def _retrieval_drop(actual: AnyArray, expected: AnyArray) -> float:
    """The larger loss of R@1 of both directions."""
    truth = np.eye(len(actual), dtype=bool)
    return max(metrics.recall_lost(actual, expected, truth, 1), metrics.recall_lost(actual.T, expected.T, truth, 1))


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def tower_runner(path: Path) -> RunTower:
    """Return a function that runs a tower from its input to pooler_output, float32 [rows, width]."""
    session = bare_session(str(path))
    name = session.get_inputs()[0].name

    def run(rows: AnyArray) -> FloatArray:
        embeddings: FloatArray = session.run([OUTPUTS[1]], {name: rows})[0]
        return embeddings

    return run


def embed(run: RunTower, rows: AnyArray) -> FloatArray:
    """Return the embeddings of rows that are run one by one, float32 [rows, width]."""
    return np.concatenate([run(rows[i : i + 1]) for i in range(len(rows))])


def speed(run: RunTower, run_fp32: RunTower, row: AnyArray) -> float:
    """Return how many times as fast as fp32 a tower is: the median ratio of alternating runs."""

    def seconds(run: RunTower) -> float:
        started = time.perf_counter()
        run(row)
        return time.perf_counter() - started

    return statistics.median(seconds(run_fp32) / seconds(run) for _ in range(_ROUNDS))


def save_tower(model: ir.Model, path: Path) -> int:
    """Write a graph and its weights beside it, and return the size of both files in bytes."""
    data = path.with_name(base_name(data_path(path.name)))
    ir.save(model, path, external_data=data.name)
    return sum(file.stat().st_size for file in (path, data) if file.exists())
