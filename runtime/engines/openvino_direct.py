"""Graphs in OpenVINO, without ONNX Runtime."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np

from .. import privacy, user_cache
from ..artifact.contract import Provider, TensorSpec
from ..errors import ProviderError
from ..files import new_folder
from . import host
from .base import UNKNOWN, Array, GraphSource, first_line
from .options import SessionOptions
from .providers import PROVIDERS, openvino_config

_SPEC: Final = PROVIDERS[Provider.OPENVINO]
_threads: Final[set[int]] = set()  # that are in OpenVINO
_cut_off: Final[set[int]] = set()  # those that were in it when this process was forked
_DTYPES: Final = {"f32": "float32", "f16": "float16", "i64": "int64", "i32": "int32", "u8": "uint8"}


class OpenVinoEngine:
    """A graph in OpenVINO; see `Engine`.

    Args:
        source: The graph.
        options: How it is run.

    Raises:
        ProviderError: OpenVINO is missing, cannot compile the graph, or not in the arithmetic that was asked for.
    """

    def __init__(self, source: GraphSource, options: SessionOptions) -> None:
        self.name = str(source.graph) if isinstance(source.graph, Path) else "a graph that was just made"
        config = openvino_config(options, source.precision)
        _refuse_after_fork()
        try:
            with _computing():
                self._model = _compiled(source, config, keep=options.cache)
        except Exception as error:  # OpenVINO raises bare RuntimeErrors, ours pass
            if isinstance(error, ProviderError):
                raise
            raise ProviderError(
                f"OpenVINO cannot compile {self.name}: {first_line(error)}",
                "Use another variant, or a newer OpenVINO.",
            ) from error
        self._check_arithmetic(config["INFERENCE_PRECISION_HINT"])
        self.placement: Mapping[str, int] = {}  # all of it: OpenVINO has nowhere else to run a node
        self.inputs, self.outputs = _specs(self._model.inputs), _specs(self._model.outputs)
        count = max(1, self._model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(count):
            self._requests.put(self._model.create_infer_request())

    def run(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """The outputs of these names.

        Raises:
            ProviderError: OpenVINO failed while running the graph.
        """
        request = self._requests.get()
        try:
            with _computing():
                request.infer(dict(feeds), share_inputs=True)
            return [np.array(request.get_tensor(name).data) for name in names]
        except Exception as error:  # OpenVINO raises bare RuntimeErrors
            raise ProviderError(
                f"OpenVINO failed to run {self.name}: {first_line(error)}", "If memory is short, use smaller batches."
            ) from error
        finally:
            self._requests.put(request)

    def _check_arithmetic(self, wanted: str) -> None:
        found = self._model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if found != wanted:
            raise ProviderError(
                f"This processor ({host.processor().name}) does not compute in {wanted}; OpenVINO took {found}.",
                "Ask for the fp32 variant, or give the hint f32.",
            )


@contextmanager
def _computing() -> Iterator[None]:
    """Note that this thread is in OpenVINO; adding to a set needs no lock, which a fork could find taken."""
    _threads.add(threading.get_ident())
    try:
        yield
    finally:
        _threads.discard(threading.get_ident())


def _note_fork() -> None:
    """OpenVINO's pool of threads is not there in a forked process; if it was at work, waiting for it has no end."""
    _cut_off.update(_threads)
    _threads.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def _refuse_after_fork() -> None:
    if _cut_off:
        raise ProviderError(
            "This process was forked while another thread computed in OpenVINO, which therefore cannot be used in it.",
            "Start processes by spawn, or fork before the model is used.",
        )


def openvino() -> Any:
    """The module.

    Raises:
        ProviderError: It cannot be imported.
    """
    try:
        with privacy.openvino_unreported():
            import openvino
    except ImportError as error:
        raise ProviderError(f"OpenVINO cannot be imported ({error}).", f"Run: {_SPEC.install}.") from error
    return openvino


def _compiled(source: GraphSource, config: dict[str, str], *, keep: bool) -> Any:
    module = openvino()
    core, graph = module.Core(), source.graph
    if not (keep and source.identity):
        return core.compile_model(core.read_model(graph), _SPEC.name, config)
    key = host.fingerprint(module.__version__, source.identity, str(graph), *config.values())
    target = user_cache.folder("openvino", key)
    if not target.exists():
        _fill(target, core, graph, config)
    return core.compile_model(str(graph), _SPEC.name, config | {"CACHE_DIR": str(target)})


def _fill(target: Path, core: Any, graph: Path | bytes, config: dict[str, str]) -> None:
    """Compile into a folder beside the target and rename it, so that no other process reads half a model.

    OpenVINO itself tells models apart by their path; a folder for each graph's hash tells them apart by content.
    """
    try:
        with new_folder(target) as partial:
            core.compile_model(str(graph), _SPEC.name, config | {"CACHE_DIR": str(partial)})
    except FileExistsError:
        return  # another process was faster
    except OSError as error:
        if target.exists():
            return
        raise ProviderError(
            f"The compiled model cannot be kept in {target} ({error.strerror}).",
            f"Name another folder in ${user_cache.VARIABLE}, or leave the cache off.",
        ) from error


def _specs(ports: list[Any]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            port.any_name,
            _DTYPES.get(port.element_type.get_type_name(), port.element_type.get_type_name()),
            tuple(UNKNOWN if d.is_dynamic else d.get_length() for d in port.partial_shape),
        )
        for port in ports
    )
