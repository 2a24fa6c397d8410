"""Runs modified copies of two towers' graphs and verifies that observing values does not change the result."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
import onnx

from ...runtime.arrays import AnyArray
from ...runtime.artifact.artifact import Artifact
from ...runtime.artifact.contract import Precision, Role
from ...runtime.engines.base import Engine, GraphSource
from ...runtime.engines.loader import load
from ...runtime.engines.options import SessionOptions
from ...runtime.errors import InputError, SiglipOnnxError
from ...runtime.model import Siglip
from .graph_view import GraphView
from .subgraph import weight_files, with_outputs

_BUDGET: Final = 1 << 26  # elements of values in memory at a time; at 4 bytes each a quarter of a GiB


class ObservationError(Exception):
    """Observing values changed the result of a graph."""

    def __str__(self) -> str:
        return "observing the values changes the result"


@dataclass(frozen=True)
class ProbedTower:
    """One of the two compared towers.

    Attributes:
        graph: The tower's graph.
        precision: Precision of the variant.
        options: Options that graphs are loaded with.
        feeds: The graph's inputs for each row.
        outputs: The unmodified graph's embedding output for each row; every modified copy must reproduce it.
        jitter: Largest difference of an element between two identical runs; 0 on most providers.
    """

    graph: GraphView
    precision: Precision
    options: SessionOptions
    feeds: tuple[Mapping[str, AnyArray], ...]
    outputs: tuple[AnyArray, ...]
    jitter: float

    @property
    def embeddings(self) -> AnyArray:
        """Embeddings of all rows, float32 [rows, size]."""
        return np.concatenate([output[:1] for output in self.outputs])

    def reproduces(self, row: int, output: AnyArray) -> bool:
        """Whether an output equals the unmodified graph's: bit by bit if its own runs do, else within their jitter."""
        expected = self.outputs[row]
        if np.array_equal(output, expected, equal_nan=True):
            return True
        with np.errstate(invalid="ignore"):
            return self.jitter > 0 and bool(np.abs(output - expected).max() <= 2 * self.jitter)


def run_tower(model: Siglip, role: Role, rows: AnyArray, label: str) -> ProbedTower:
    """Run a tower over rows, each row alone, and release it.

    Raises:
        SiglipOnnxError: The tower cannot be loaded or run.
    """
    session, embedding = model.session(role), model.embedding(role).output
    size = session.graph.batch or 1
    feeds = tuple(session.feeds(np.repeat(rows[i : i + 1], size, axis=0)) for i in range(len(rows)))
    runs = [tuple(session.run(feed, [embedding])[embedding] for feed in feeds) for _ in range(2)]
    graph = GraphView(model.artifact.path(session.graph.path).absolute(), embedding, label)
    model.release(role)
    with np.errstate(invalid="ignore"):
        moves = [float(np.nanmax(np.abs(a - b), initial=0.0)) for a, b in zip(*runs, strict=True)]
    return ProbedTower(graph, model.precision, model.options, feeds, runs[0], max(moves))


class Probe:
    """A folder with links to the weights of both towers, for graphs that read them.

    Args:
        folder: An empty folder.
        candidate: The failing tower.
        reference: The correct tower.
        progress: Called with a short message before each step.
    """

    def __init__(
        self, folder: Path, candidate: ProbedTower, reference: ProbedTower, progress: Callable[[str], None]
    ) -> None:
        self.folder, self.candidate, self.reference, self.progress = folder, candidate, reference, progress
        self._count = itertools.count()
        for tower in (candidate, reference):
            for name, path in weight_files(tower.graph).items():
                _link_or_copy(path, folder / name)

    def load(self, tower: ProbedTower, model: onnx.ModelProto) -> Engine:
        """Load a graph on a tower's provider.

        Raises:
            SiglipOnnxError: The provider does not load the graph.
        """
        path = self.folder / f"graph{next(self._count)}.onnx"
        path.write_bytes(model.SerializeToString())
        return load(GraphSource(path, tower.precision), replace(tower.options, cache=False, cuda_graphs=False))

    def run(self, tower: ProbedTower, model: onnx.ModelProto) -> AnyArray:
        """Run a graph with a tower's inputs and return the embeddings of all rows, float32 [rows, size].

        Raises:
            SiglipOnnxError: The provider does not run the graph.
        """
        engine = self.load(tower, model)
        return np.concatenate([engine.run([tower.graph.embedding], feed)[0][:1] for feed in tower.feeds])

    def values(
        self, tower: ProbedTower, names: Sequence[str], rows: Sequence[int] | None = None
    ) -> Iterator[dict[str, AnyArray]]:
        """Yield the named values and the inputs of each row, from runs that reproduce the tower's embedding.

        Raises:
            ObservationError: Observing these values changes the result.
            SiglipOnnxError: The provider does not return these values.
        """
        computed = [name for name in names if name in tower.graph.producers]
        engine = self.load(tower, with_outputs(tower.graph, computed))
        for row in range(len(tower.feeds)) if rows is None else rows:
            embedding, *values = engine.run([tower.graph.embedding, *computed], tower.feeds[row])
            if not tower.reproduces(row, embedding):
                raise ObservationError
            yield {**tower.feeds[row], **dict(zip(computed, values, strict=True))}

    def observable(self, tower: ProbedTower, names: Sequence[str]) -> list[str]:
        """Select the values that can be observed without changing the result."""
        observable: list[str] = []
        for number, chunk in enumerate(self.chunks(tower, names)):
            self.progress(f"Testing which values of the {tower.graph.label} tower are observable, part {number + 1}")
            observable += self._observable(tower, chunk)
        return observable

    def _observable(self, tower: ProbedTower, names: Sequence[str]) -> list[str]:
        """Bisect until the values inside nodes that the provider fuses are known."""
        try:
            for _ in self.values(tower, names):
                continue
            return list(names)
        except (ObservationError, SiglipOnnxError):
            pass
        if len(names) < 2:
            return []
        half = len(names) // 2
        return [*self._observable(tower, names[:half]), *self._observable(tower, names[half:])]

    def chunks(self, tower: ProbedTower, names: Sequence[str]) -> Iterator[list[str]]:
        """Split names, in order, into lists whose values fit in memory together."""
        chunk: list[str] = []
        for name in names:
            if chunk and sum(map(tower.graph.size, [*chunk, name])) > _BUDGET:
                yield chunk
                chunk = []
            chunk.append(name)
        if chunk:
            yield chunk


def reference_model(artifact: Artifact, options: SessionOptions) -> Siglip:
    """The reference artifact's fp32 graphs on the CPU."""
    return Siglip(artifact, Precision.FP32, SessionOptions(threads=options.threads, verify=options.verify))


def _link_or_copy(source: Path, target: Path) -> None:
    """Hard-link weights, which uses no disk space, else copy them; ONNX Runtime refuses symbolic links to outside."""
    try:
        os.link(source, target)
    except OSError:
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            raise InputError(
                f"Cannot copy the weights {source} to {target.parent} ({error.strerror}).",
                "Name a folder on a disk with enough free space.",
            ) from error
