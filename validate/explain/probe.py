"""Where graphs are run that were made to look into a tower, and the check that looking changes nothing."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from ...runtime.artifact.artifact import Artifact
from ...runtime.artifact.contract import Precision, Role
from ...runtime.engines.base import Engine, GraphSource
from ...runtime.engines.loader import load
from ...runtime.engines.options import SessionOptions
from ...runtime.errors import InputError, SiglipOnnxError
from ...runtime.model import Siglip
from .graph_view import GraphView
from .subgraph import locations, tapped

Array = NDArray[Any]
_BUDGET: Final = 1 << 26  # elements of values in memory at a time; at 4 bytes each a quarter of a GiB


class ChangedError(Exception):
    """Looking at values changed what a graph computes."""


@dataclass(frozen=True)
class Side:
    """One of the two towers.

    Attributes:
        net: Its graph.
        precision: Of its variant.
        options: How graphs are loaded.
        feeds: The graph's inputs for each row.
        found: The embedding of each row, as the tower itself gives it, which is what every other graph must give.
        jitter: Largest difference of an element between two runs of the same; 0 on most providers.
    """

    net: GraphView
    precision: Precision
    options: SessionOptions
    feeds: tuple[Mapping[str, Array], ...]
    found: tuple[Array, ...]
    jitter: float

    @property
    def embeddings(self) -> Array:
        """float32 [rows, size]."""
        return np.concatenate([found[:1] for found in self.found])

    def is_measured(self, row: int, embedding: Array) -> bool:
        """Whether an embedding is the one that the tower gave for a row: to the bit, if its own runs agree to it."""
        wanted = self.found[row]
        if np.array_equal(embedding, wanted, equal_nan=True):
            return True
        with np.errstate(invalid="ignore"):
            return self.jitter > 0 and bool(np.abs(embedding - wanted).max() <= 2 * self.jitter)


def side(model: Siglip, role: Role, rows: Array, label: str) -> Side:
    """Run a tower over rows, each alone, and let go of it.

    Raises:
        SiglipOnnxError: The tower cannot be loaded or run.
    """
    session, embedding = model.session(role), model.embedding(role).output
    size = session.graph.batch or 1
    feeds = tuple(session.feeds(np.repeat(rows[i : i + 1], size, axis=0)) for i in range(len(rows)))
    runs = [tuple(session.run(feed, [embedding])[embedding] for feed in feeds) for _ in range(2)]
    net = GraphView(model.artifact.path(session.graph.path).absolute(), embedding, label)
    model.release(role)
    with np.errstate(invalid="ignore"):
        moves = [float(np.nanmax(np.abs(a - b), initial=0.0)) for a, b in zip(*runs, strict=True)]
    return Side(net, model.precision, model.options, feeds, runs[0], max(moves))


class Probe:
    """A folder with links to the weights of both towers, for graphs that read them.

    Args:
        folder: An empty one.
        judged: The tower that fails.
        trusted: The one that is right.
        progress: Told what is being done.
    """

    def __init__(self, folder: Path, judged: Side, trusted: Side, progress: Callable[[str], None]) -> None:
        self.folder, self.judged, self.trusted, self.progress = folder, judged, trusted, progress
        self._count = itertools.count()
        for one in (judged, trusted):
            for name, path in locations(one.net).items():
                _place(path, folder / name)

    def load(self, side: Side, model: onnx.ModelProto) -> Engine:
        """A graph on the provider of a side.

        Raises:
            SiglipOnnxError: The provider does not run it.
        """
        path = self.folder / f"graph{next(self._count)}.onnx"
        path.write_bytes(model.SerializeToString())
        return load(GraphSource(path, side.precision), replace(side.options, cache=False, cuda_graphs=False))

    def run(self, side: Side, model: onnx.ModelProto) -> Array:
        """Embeddings of every row by a graph that takes the tower's inputs.

        Raises:
            SiglipOnnxError: The provider does not run it.
        """
        engine = self.load(side, model)
        return np.concatenate([engine.run([side.net.embedding], feed)[0][:1] for feed in side.feeds])

    def look(self, side: Side, names: Sequence[str], rows: Sequence[int] | None = None) -> Iterator[dict[str, Array]]:
        """Values of each row by name, from runs that gave the measured embedding.

        Raises:
            ChangedError: Looking at just these changes what is computed.
            SiglipOnnxError: The provider does not give them.
        """
        computed = [name for name in names if name in side.net.makers]
        engine = self.load(side, tapped(side.net, computed))
        for row in range(len(side.feeds)) if rows is None else rows:
            embedding, *values = engine.run([side.net.embedding, *computed], side.feeds[row])
            if not side.is_measured(row, embedding):
                raise ChangedError
            yield {**side.feeds[row], **dict(zip(computed, values, strict=True))}

    def visible(self, side: Side, names: Sequence[str]) -> list[str]:
        """Those of the names whose values can be looked at without a change of what is computed."""
        found: list[str] = []
        for number, some in enumerate(self.chunks(side, names)):
            self.progress(f"Looking which values of the {side.net.label} tower can be seen, part {number + 1}")
            found += self._visible(side, some)
        return found

    def _visible(self, side: Side, names: Sequence[str]) -> list[str]:
        """Halved until it is known which values are inside of something that the provider fuses."""
        try:
            for _ in self.look(side, names):
                continue
            return list(names)
        except (ChangedError, SiglipOnnxError):
            pass
        if len(names) < 2:
            return []
        half = len(names) // 2
        return [*self._visible(side, names[:half]), *self._visible(side, names[half:])]

    def chunks(self, side: Side, names: Sequence[str]) -> Iterator[list[str]]:
        """Names in their order, as many at a time as may be in memory."""
        some: list[str] = []
        for name in names:
            if some and sum(map(side.net.size, [*some, name])) > _BUDGET:
                yield some
                some = []
            some.append(name)
        if some:
            yield some


def trusted_model(artifact: Artifact, options: SessionOptions) -> Siglip:
    """The fp32 graphs that are right, on the CPU."""
    return Siglip(artifact, Precision.FP32, SessionOptions(threads=options.threads, verify=options.verify))


def _place(source: Path, target: Path) -> None:
    """Link weights, which takes no room, or copy them; ONNX Runtime refuses symbolic links out of a folder."""
    try:
        os.link(source, target)
    except OSError:
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            raise InputError(
                f"The weights {source} cannot be copied to {target.parent} ({error.strerror}).",
                "Name a folder on a disk that has room.",
            ) from error
