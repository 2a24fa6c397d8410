"""The engine of OpenVINO itself, without ONNX Runtime."""

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
from ..arrays import AnyArray
from ..artifact.contract import Provider, TensorSpec
from ..errors import ProviderError, first_line
from ..files import new_folder
from . import host
from .base import UNKNOWN, GraphSource
from .options import SessionOptions
from .providers import PROVIDERS, openvino_config

_SPEC: Final = PROVIDERS[Provider.OPENVINO]
_computing_threads: Final[set[int]] = set()  # ids of the threads that run OpenVINO code now
_lost_threads: Final[set[int]] = set()  # those that ran OpenVINO code when this process was forked
_DTYPES: Final = {"f32": "float32", "f16": "float16", "i64": "int64", "i32": "int32", "u8": "uint8"}


class OpenVinoEngine:
    """A graph in OpenVINO; see `Engine`.

    Args:
        source: The graph.
        options: Session options.

    Attributes:
        name: Name of the graph in error messages.

    Raises:
        ProviderError: OpenVINO is missing, cannot compile the graph, or cannot compute in the requested precision.
    """

    def __init__(self, source: GraphSource, options: SessionOptions) -> None:
        self.name = source.name
        config = openvino_config(options, source.precision)
        _refuse_after_fork()
        try:
            with _computing():
                self._model = _compiled(source, config, keep=options.cache)
        except ProviderError:
            raise
        except Exception as error:  # OpenVINO raises bare RuntimeErrors
            raise ProviderError(
                f"OpenVINO cannot compile {self.name}: {first_line(error)}",
                "Use another variant, or a newer OpenVINO.",
            ) from error
        self._check_precision(config["INFERENCE_PRECISION_HINT"])
        self.placement: Mapping[str, int] = {}  # OpenVINO has no other provider to place nodes on
        self.inputs, self.outputs = _specs(self._model.inputs), _specs(self._model.outputs)
        count = max(1, self._model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(count):
            self._requests.put(self._model.create_infer_request())

    def run(self, names: Sequence[str], feeds: Mapping[str, AnyArray]) -> list[AnyArray]:
        """Compute the outputs of these names.

        Raises:
            ProviderError: OpenVINO failed.
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

    def _check_precision(self, expected: str) -> None:
        actual = self._model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if actual != expected:
            raise ProviderError(
                f"This processor ({host.processor().name}) does not compute in {expected}; OpenVINO uses {actual}.",
                "Use the fp32 variant, or set openvino_precision to f32 (--openvino-precision f32).",
            )


@contextmanager
def _computing() -> Iterator[None]:
    """Record that this thread runs OpenVINO code, without a lock, which a fork could leave locked."""
    _computing_threads.add(threading.get_ident())
    try:
        yield
    finally:
        _computing_threads.discard(threading.get_ident())


def _note_fork() -> None:
    """A forked process has no copy of OpenVINO's threads; if they were computing, OpenVINO waits for them forever."""
    _lost_threads.update(_computing_threads)
    _computing_threads.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)


def _refuse_after_fork() -> None:
    if _lost_threads:
        raise ProviderError(
            "OpenVINO cannot be used after fork() if another thread was computing in it.",
            "Start workers with spawn, or fork before the model is used.",
        )


def openvino() -> Any:
    """The openvino module, imported without its telemetry.

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
        _compile_into(target, core, graph, config)
    return core.compile_model(str(graph), _SPEC.name, config | {"CACHE_DIR": str(target)})


def _compile_into(target: Path, core: Any, graph: Path | bytes, config: dict[str, str]) -> None:
    """Compile into a folder beside the target and rename it, so that no other process reads half a model.

    OpenVINO's own cache is keyed by the path of a model; a folder per hash makes it keyed by content.
    """
    try:
        with new_folder(target) as partial:
            core.compile_model(str(graph), _SPEC.name, config | {"CACHE_DIR": str(partial)})
    except FileExistsError:
        return  # another process compiled the same model first
    except OSError as error:
        if target.exists():
            return
        raise ProviderError(
            f"The compiled model cannot be written to {target} ({error.strerror}).",
            f"Set ${user_cache.VARIABLE} to another folder, or turn the cache off.",
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
