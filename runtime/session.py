"""One graph of an artifact, loaded on the provider that was asked for and on no other."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from .artifact.artifact import Artifact
from .artifact.contract import EmbeddingSpec, Graph, IOBinding, Precision, Provider, Role, TensorSpec
from .engines.base import UNKNOWN, Array, Engine, GraphSource, load
from .engines.options import SessionOptions
from .engines.ort import onnxruntime, session_config
from .engines.preflight import ensure_provider
from .engines.providers import PROVIDERS
from .errors import ArtifactError, InputError, ProviderError

_Stamp = tuple[int, int, int]  # inode, size, time of the last change
_ROWS: Final = {"f": "float32", "i": "int64"}  # what towers are given, by the kind of what a graph takes


class GraphSession:
    """A loaded graph. Threads may share it.

    Args:
        artifact: Whose graph.
        role: Which graph.
        precision: Of which variant.
        options: How to load it.

    Raises:
        ArtifactError: The graph is missing, damaged, or its interface is not what the contract says.
        ProviderError: The provider is missing, or does not run all of the graph.
    """

    def __init__(self, artifact: Artifact, role: Role, precision: Precision, options: SessionOptions) -> None:
        self.graph = artifact.graph(role, precision, options.provider)
        self.embedding: EmbeddingSpec = self.graph.embedding(artifact.contract.embedding)
        _check_resizing(artifact, role, options)
        self._path = artifact.path(self.graph.path).absolute()
        known = identity(artifact, self.graph) if options.verify else ""
        source = GraphSource(self._path, precision, known)
        with _verified(artifact, self.graph, options):
            try:
                self.engine: Engine = load(source, options)
            except ProviderError:
                ensure_provider(options.provider, options)  # if the provider itself is the cause, say so
                raise
        self._stamps = {path: _stamp(path) for path in map(artifact.path, self.graph.data)}
        self._check_interface()

    def run(self, feeds: Mapping[str, Array], names: Sequence[str] | None = None) -> dict[str, Array]:
        """Outputs by name.

        Args:
            feeds: Every input by name, of the contract's dtype and shape.
            names: Which outputs; all by default.

        Raises:
            InputError: An input is missing, of another dtype or shape than the contract says, empty, or NaN.
            ArtifactError: The weights were overwritten since they were loaded.
            ProviderError: Running the graph failed.
        """
        self.check_unchanged()
        for spec in self.graph.inputs:
            check_feed(spec, feeds.get(spec.name))
        wanted = [spec.name for spec in self.graph.outputs] if names is None else names
        return dict(zip(wanted, self.engine.run(wanted, feeds), strict=True))

    def rows(self, rows: Array, names: Sequence[str]) -> dict[str, Array]:
        """Outputs by name, a row for each row of the input, whatever form the graph takes it in.

        A graph of a fixed batch is run as often as it takes, the last time filled up with copies of the last row.

        Args:
            rows: Rows of `ImageProcessor` or input_ids.
            names: Which outputs.

        Raises:
            InputError: As `run` does.
        """
        size, first = self.graph.batch, self.graph.row_input
        if first.dtype == "uint8" and isinstance(rows, np.ndarray) and rows.ndim != 4:
            raise InputError(
                f"The graph's input {first.name} was given an array of {rows.ndim} dimensions.",
                "Pass [images, height, width, 3], even for one image.",
            )
        if size is None or not isinstance(rows, np.ndarray) or rows.ndim == 0 or len(rows) == 0:
            return self._some(rows, names)
        parts = []
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            full = np.concatenate([some, np.repeat(some[-1:], size - len(some), axis=0)])
            found = self._some(full, names)
            parts.append({name: found[name][: len(some)] for name in names})
        return {name: np.concatenate([part[name] for part in parts]) for name in names}

    def _some(self, rows: Array, names: Sequence[str]) -> dict[str, Array]:
        found = self.run(self.feeds(rows), names)
        return {name: _single(value) for name, value in found.items()} if self._foreign else found

    @property
    def _foreign(self) -> bool:
        return isinstance(self.graph.binding, IOBinding)

    @property
    def plain(self) -> bool:
        """Whether it takes one array of any number of rows, as it is."""
        return len(self.graph.inputs) == 1 and self.graph.batch is None and not self._foreign

    def feeds(self, rows: Array) -> dict[str, Array]:
        """The graph's inputs by name, from rows of whatever form it takes.

        Raises:
            InputError: A graph of another tool is given rows that its tower does not take; what its own inputs take
                may be narrower.
        """
        first, binding = self.graph.row_input, self.graph.binding
        if isinstance(binding, IOBinding):
            check_feed(replace(first, dtype=_ROWS.get(np.dtype(first.dtype).kind, first.dtype)), rows)
            constant_inputs = {
                b.name: np.full((b.rows or len(rows), *b.shape), b.value, b.dtype) for b in binding.constant_inputs
            }
            return {first.name: np.ascontiguousarray(rows, first.dtype), **constant_inputs}
        if isinstance(rows, np.ndarray) and rows.dtype.names:
            return {name: np.ascontiguousarray(rows[name]) for name in rows.dtype.names}
        if isinstance(rows, np.ndarray) and rows.ndim == len(first.shape) + 1 and len(rows) == 1:
            return {first.name: np.ascontiguousarray(rows[0])}  # the graph takes a single image
        return {first.name: rows}

    def check_unchanged(self) -> None:
        """Refuse weights that were overwritten in place, which providers may have mapped; replaced files do no harm.

        Raises:
            ArtifactError: A data file was overwritten.
        """
        for path, stamp in self._stamps.items():
            found = _stamp(path)
            if found != stamp and found[0] == stamp[0]:
                raise ArtifactError(f"{path} was overwritten while it was in use.", "Load the artifact again.")

    def _check_interface(self) -> None:
        # Any name of an output's dimension that no input has says nothing, and engines find more.
        bound = frozenset(dim for spec in self.graph.inputs for dim in spec.shape)
        for kind, found in (("inputs", self.engine.inputs), ("outputs", self.engine.outputs)):
            wanted: tuple[TensorSpec, ...] = getattr(self.graph, kind)
            if len(found) != len(wanted) or not all(map(_same, found, wanted, itertools.repeat(bound))):
                raise ArtifactError(
                    f"The {kind} of {self._path} are not those of the contract: found {_describe(found)}, "
                    f"expected {_describe(wanted)}.",
                    "Export the checkpoint again.",
                )


def identity(artifact: Artifact, graph: Graph) -> str:
    """What tells a graph with its weights from every other: a SHA-256 over those that the contract lists."""
    hashes = [artifact.contract.files[path].sha256 for path in (graph.path, *graph.data)]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def bare_session(graph: bytes | str) -> Any:
    """ONNX Runtime's session on the CPU for a graph that this process has just made; its interface is not checked.

    Raises:
        ProviderError: ONNX Runtime is not installed or cannot load the graph.
    """
    ort = onnxruntime()
    try:
        return ort.InferenceSession(graph, session_config(SessionOptions()), providers=[PROVIDERS[Provider.CPU].name])
    except Exception as error:  # ONNX Runtime's exceptions have no common base but this
        raise ProviderError(
            f"ONNX Runtime {ort.__version__} cannot load a graph that was just made: {error}",
            "Install a newer ONNX Runtime; if memory is short, free some.",
        ) from error


@contextmanager
def _verified(artifact: Artifact, graph: Graph, options: SessionOptions) -> Iterator[None]:
    """The graph's file is checked first, its weights while the block runs; nothing leaves the block unchecked.

    What is compiled into a cache outlives the block, so for a cache the weights are checked first, too.
    """
    if not options.verify:
        artifact.verify_external_data(graph)
        yield
        return
    if options.cache:
        artifact.verify((graph.path, *graph.data))
        yield
        return
    artifact.verify((graph.path,))
    with ThreadPoolExecutor(1) as pool:
        weights = pool.submit(artifact.verify, graph.data)
        try:
            yield
        except Exception:
            weights.result()  # damaged weights are the better explanation of whatever failed
            raise
        weights.result()


def _single(value: Array) -> Array:
    """What a graph of another precision gives, in float32, as towers do."""
    return value.astype(np.float32, copy=False) if value.dtype.kind == "f" else value


def _check_resizing(artifact: Artifact, role: Role, options: SessionOptions) -> None:
    """OpenVINO 2026.4 reads an antialiased Resize without complaint and is 50 gray levels off."""
    wrong = options.provider in (Provider.OPENVINO, Provider.OPENVINO_ORT)
    if wrong and role is not Role.TEXT and artifact.contract.image.input == "image":
        raise ProviderError(
            f"{options.provider} resizes images otherwise than the reference, and the graphs of {artifact.folder} "
            "resize images themselves.",
            "Use the CPU provider, or export with --image-input bytes or pixels.",
        )


def _stamp(path: Path) -> _Stamp:
    try:
        found = path.stat()
    except OSError:
        return (-1, 0, 0)  # gone, which leaves a mapped file as it was
    return (found.st_ino, found.st_size, found.st_mtime_ns)


def _same(found: TensorSpec, wanted: TensorSpec, bound: frozenset[int | str]) -> bool:
    if (found.name, found.dtype, len(found.shape)) != (wanted.name, wanted.dtype, len(wanted.shape)):
        return False
    pairs = zip(found.shape, wanted.shape, strict=True)
    return all(a == b or (isinstance(b, str) and (a == UNKNOWN or b not in bound)) for a, b in pairs)


def _no_array(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _describe(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{s.name} {s.dtype} [{', '.join(map(str, s.shape))}]" for s in specs)


def check_feed(spec: TensorSpec, value: Array | None) -> None:
    """Refuse what is no input of that form, or would only yield NaN.

    Raises:
        InputError: The value is missing, of another dtype or shape, empty, or not finite.
    """
    fits = (
        isinstance(value, np.ndarray)
        and value.dtype == np.dtype(spec.dtype)
        and value.ndim == len(spec.shape)
        and all(isinstance(want, str) or want == have for want, have in zip(spec.shape, value.shape, strict=True))
    )
    if not fits:
        found = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else _no_array(value)
        raise InputError(f"The graph's input {_describe((spec,))} was given {found}.", "Pass an array of that form.")
    if value is not None and value.size == 0:
        raise InputError(f"The graph's input {spec.name} was given a batch of nothing.", "Pass at least one row.")
    if value is not None and value.dtype.kind == "f" and not np.isfinite(value).all():
        bad = sorted({int(place[0]) for place in np.argwhere(~np.isfinite(value))[:100]})
        raise InputError(
            f"The graph's input {spec.name} has values that are not finite (NaN or infinite), in row {bad[0]}.",
            "Leave that row out, or mend where it comes from.",
        )
