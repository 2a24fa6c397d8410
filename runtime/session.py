"""One graph of an artifact, loaded on one provider and on no other."""

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

from .arrays import AnyArray
from .artifact.artifact import Artifact
from .artifact.contract import EmbeddingSpec, Graph, IOBinding, Precision, Provider, Role, TensorSpec
from .engines.base import UNKNOWN, Engine, GraphSource
from .engines.loader import load
from .engines.options import SessionOptions
from .engines.ort import onnxruntime, session_config
from .engines.preflight import ensure_provider
from .engines.providers import PROVIDERS
from .errors import ArtifactError, InputError, ProviderError

_FileVersion = tuple[int, int, int]  # inode, size, modification time in ns
# Dtype of a tower's rows, by the kind of an external graph's input: float16 pixels and int32 ids are cast from these.
_ROW_DTYPES: Final = {"f": "float32", "i": "int64"}


class GraphSession:
    """A loaded graph. Threads may share it.

    Args:
        artifact: The artifact.
        role: The graph's role.
        precision: The variant.
        options: Session options.

    Attributes:
        graph: The graph's part of the contract.
        embedding: The output that is the embedding.
        engine: The engine that runs the graph.

    Raises:
        ArtifactError: The graph is missing, damaged, or its interface is not the contract's.
        ProviderError: The provider is missing, or does not run the whole graph.
    """

    def __init__(self, artifact: Artifact, role: Role, precision: Precision, options: SessionOptions) -> None:
        self.graph = artifact.graph(role, precision, options.provider)
        self.embedding: EmbeddingSpec = self.graph.embedding(artifact.contract.embedding)
        _check_resizing(artifact, role, options)
        self._path = artifact.path(self.graph.path).absolute()
        source = GraphSource(self._path, precision, identity(artifact, self.graph) if options.verify else "")
        with _verified(artifact, self.graph, options):
            try:
                self.engine: Engine = load(source, options)
            except ProviderError:
                ensure_provider(options.provider, options)  # reports the provider if it is the cause
                raise
        self._data_files = {path: _file_version(path) for path in map(artifact.path, self.graph.data)}
        self._check_interface()

    def run(self, feeds: Mapping[str, AnyArray], names: Sequence[str] | None = None) -> dict[str, AnyArray]:
        """Outputs by name.

        Args:
            feeds: Every input by name, with the contract's dtype and shape.
            names: Names of the outputs; None for all.

        Raises:
            InputError: An input is missing, empty or not finite, or its dtype or shape is not the contract's.
            ArtifactError: A data file was overwritten after it was loaded.
            ProviderError: The engine failed.
        """
        self.check_unchanged()
        for spec in self.graph.inputs:
            check_feed(spec, feeds.get(spec.name))
        outputs = [spec.name for spec in self.graph.outputs] if names is None else names
        return dict(zip(outputs, self.engine.run(outputs, feeds), strict=True))

    def rows(self, rows: AnyArray, names: Sequence[str]) -> dict[str, AnyArray]:
        """Outputs by name, with one row for each input row.

        A graph with a fixed batch runs as often as needed; its last batch is padded with copies of the last row.

        Args:
            rows: Rows of `ImageProcessor`, or input_ids.
            names: Names of the outputs.

        Raises:
            InputError: As for `run`.
        """
        size, spec = self.graph.batch, self.graph.row_input
        if spec.dtype == "uint8" and isinstance(rows, np.ndarray) and rows.ndim != 4:
            raise InputError(
                f"The input {spec.name} must have 4 dimensions, got {rows.ndim}.",
                "Pass [images, height, width, 3], even for one image.",
            )
        if size is None or not isinstance(rows, np.ndarray) or rows.ndim == 0 or len(rows) == 0:
            return self._batch(rows, names)
        parts = []
        for start in range(0, len(rows), size):
            batch = rows[start : start + size]
            padded = np.concatenate([batch, np.repeat(batch[-1:], size - len(batch), axis=0)])
            outputs = self._batch(padded, names)
            parts.append({name: outputs[name][: len(batch)] for name in names})
        return {name: np.concatenate([part[name] for part in parts]) for name in names}

    def _batch(self, rows: AnyArray, names: Sequence[str]) -> dict[str, AnyArray]:
        outputs = self.run(self.feeds(rows), names)
        return {name: _as_float32(value) for name, value in outputs.items()} if self._external else outputs

    @property
    def _external(self) -> bool:
        return isinstance(self.graph.binding, IOBinding)

    @property
    def plain(self) -> bool:
        """Whether the graph has one input, a free batch, and needs no casts: rows can be fed as they are."""
        return len(self.graph.inputs) == 1 and self.graph.batch is None and not self._external

    def feeds(self, rows: AnyArray) -> dict[str, AnyArray]:
        """The graph's inputs by name.

        Args:
            rows: Rows of `ImageProcessor`, or input_ids.

        Raises:
            InputError: The rows do not fit the tower that an external graph stands for.
        """
        spec, binding = self.graph.row_input, self.graph.binding
        if isinstance(binding, IOBinding):
            check_feed(replace(spec, dtype=_ROW_DTYPES.get(np.dtype(spec.dtype).kind, spec.dtype)), rows)
            constants = {
                constant.name: np.full((constant.rows or len(rows), *constant.shape), constant.value, constant.dtype)
                for constant in binding.constant_inputs
            }
            return {spec.name: np.ascontiguousarray(rows, spec.dtype), **constants}
        if isinstance(rows, np.ndarray) and rows.dtype.names:
            return {name: np.ascontiguousarray(rows[name]) for name in rows.dtype.names}
        if isinstance(rows, np.ndarray) and rows.ndim == len(spec.shape) + 1 and len(rows) == 1:
            return {spec.name: np.ascontiguousarray(rows[0])}  # the graph takes a single image
        return {spec.name: rows}

    def check_unchanged(self) -> None:
        """Refuse weights that were overwritten in place, since engines may have mapped them; a new file is harmless.

        Raises:
            ArtifactError: A data file was overwritten.
        """
        for path, loaded in self._data_files.items():
            current = _file_version(path)
            if current != loaded and current[0] == loaded[0]:
                raise ArtifactError(f"{path} was overwritten while it was in use.", "Load the artifact again.")

    def _check_interface(self) -> None:
        # An output dimension whose name no input has is unknown to the exporter; engines may infer its length.
        bound = frozenset(dim for spec in self.graph.inputs for dim in spec.shape)
        for kind, actual in (("inputs", self.engine.inputs), ("outputs", self.engine.outputs)):
            expected: tuple[TensorSpec, ...] = getattr(self.graph, kind)
            if len(actual) != len(expected) or not all(map(_same, actual, expected, itertools.repeat(bound))):
                raise ArtifactError(
                    f"The {kind} of {self._path} are {_describe(actual)}, the contract expects {_describe(expected)}.",
                    "Export the checkpoint again.",
                )


def identity(artifact: Artifact, graph: Graph) -> str:
    """SHA-256 (64 hex digits) over the contract's hashes of a graph and its data files."""
    hashes = [artifact.contract.files[path].sha256 for path in (graph.path, *graph.data)]
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def bare_session(graph: bytes | str) -> Any:
    """An ONNX Runtime session on the CPU for a graph of this process, without any check of its interface.

    Args:
        graph: The ONNX file, or its path.

    Raises:
        ProviderError: ONNX Runtime is not installed or cannot load the graph.
    """
    ort = onnxruntime()
    try:
        return ort.InferenceSession(graph, session_config(SessionOptions()), providers=[PROVIDERS[Provider.CPU].name])
    except Exception as error:  # ONNX Runtime's exceptions have no common base class
        raise ProviderError(
            f"ONNX Runtime {ort.__version__} cannot load a graph of this process: {error}",
            "Install a newer ONNX Runtime; if memory is short, free some.",
        ) from error


@contextmanager
def _verified(artifact: Artifact, graph: Graph, options: SessionOptions) -> Iterator[None]:
    """Check the hash of the graph before the block, and those of its weights by another thread during the block.

    The block loads the graph. A compile cache outlives the block, so with a cache the weights are checked before it.
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
            weights.result()  # damaged weights explain the failure better
            raise
        weights.result()


def _as_float32(value: AnyArray) -> AnyArray:
    """An output of an external graph in a tower's precision."""
    return value.astype(np.float32, copy=False) if value.dtype.kind == "f" else value


def _check_resizing(artifact: Artifact, role: Role, options: SessionOptions) -> None:
    """Refuse OpenVINO for graphs that resize: 2026.4 accepts an antialiased Resize and is off by 50 gray levels."""
    affected = options.provider in (Provider.OPENVINO, Provider.OPENVINO_ORT)
    if affected and role is not Role.TEXT and artifact.contract.image.input == "image":
        raise ProviderError(
            f"The graphs of {artifact.folder} resize images, and {options.provider} resizes them incorrectly.",
            "Use the CPU provider, or export with --image-input bytes or pixels.",
        )


def _file_version(path: Path) -> _FileVersion:
    try:
        status = path.stat()
    except OSError:
        return (-1, 0, 0)  # deleted, which leaves a mapped file intact
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def _same(actual: TensorSpec, expected: TensorSpec, bound: frozenset[int | str]) -> bool:
    if (actual.name, actual.dtype, len(actual.shape)) != (expected.name, expected.dtype, len(expected.shape)):
        return False
    pairs = zip(actual.shape, expected.shape, strict=True)
    return all(a == b or (isinstance(b, str) and (a == UNKNOWN or b not in bound)) for a, b in pairs)


def _describe(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{s.name} {s.dtype} [{', '.join(map(str, s.shape))}]" for s in specs)


def check_feed(spec: TensorSpec, value: AnyArray | None) -> None:
    """Refuse an array that does not fit an input, or would only give NaN.

    Raises:
        InputError: The array is missing, empty or not finite, or its dtype or shape does not fit.
    """
    if value is None or not _fits(spec, value):
        raise InputError(
            f"Expected {_describe((spec,))}, got {_form(value)}.", "Pass an array of that dtype and shape."
        )
    if value.size == 0:
        raise InputError(f"Expected at least one row for {spec.name}, got none.", "Pass at least one row.")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        row = int(np.argwhere(~np.isfinite(value))[0][0])
        raise InputError(
            f"Row {row} of {spec.name} has a value that is not finite (NaN or infinite).",
            "Remove that row, or fix its source.",
        )


def _fits(spec: TensorSpec, value: object) -> bool:
    return (
        isinstance(value, np.ndarray)
        and value.dtype == np.dtype(spec.dtype)
        and value.ndim == len(spec.shape)
        and all(isinstance(want, str) or want == have for want, have in zip(spec.shape, value.shape, strict=True))
    )


def _form(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return "nothing" if value is None else type(value).__name__
