"""The engine of ONNX Runtime's native providers."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from .. import privacy
from ..arrays import AnyArray
from ..artifact.contract import Provider, TensorSpec
from ..errors import ArtifactError, ProviderError, first_line
from . import host
from .base import GraphSource
from .options import SessionOptions
from .providers import PROVIDERS, ProviderSpec

_DTYPES: Final = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(uint8)": "uint8",
}
_CPU: Final = PROVIDERS[Provider.CPU].name
_ERRORS_ONLY: Final = 3  # log severity; ONNX Runtime writes warnings to standard error
_AS_REQUESTED: Final = 1  # arena_extend_strategy of OrtArenaCfg; 0 is powers of two
NO_GRAPH: Final = -1  # a graph id that records and replays no CUDA graph
_registration = threading.Lock()
# The error of registering each plugin's library in this process, or None for success. ONNX Runtime refuses a second
# registration, and the error of the second would hide the first.
_registered: Final[dict[str, Exception | None]] = {}


def onnxruntime() -> Any:
    """The onnxruntime module, imported with its telemetry off.

    Raises:
        ProviderError: It cannot be imported.
    """
    privacy.opt_out()
    try:
        import onnxruntime
    except ImportError as error:
        raise ProviderError(
            f"ONNX Runtime cannot be imported ({error}).", f"Run: {PROVIDERS[Provider.CPU].install}."
        ) from error
    return onnxruntime


class OrtEngine:
    """A graph in ONNX Runtime; see `Engine`.

    Args:
        source: The graph.
        options: Session options.

    Attributes:
        name: Name of the graph in error messages.
        spec: The provider.
        session: ONNX Runtime's session.

    Raises:
        ArtifactError: The graph cannot be read.
        ProviderError: The provider is missing, or does not run the whole graph and `allow_fallback` is off.
    """

    def __init__(self, source: GraphSource, options: SessionOptions) -> None:
        self.name = source.name
        self.spec = PROVIDERS[options.provider]
        try:
            self.session = self._load(source, options, fallback=options.allow_fallback)
        except ProviderError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            raise self._explain(error, source, options) from error
        self.placement: Mapping[str, int] = placement(self.session)
        self.inputs, self.outputs = _specs(self.session.get_inputs()), _specs(self.session.get_outputs())
        self._run_options = run_options(NO_GRAPH) if options.cuda_graphs else None
        self._lock: contextlib.AbstractContextManager[Any] = (
            contextlib.nullcontext() if self.spec.concurrent else threading.Lock()
        )

    def run(self, names: Sequence[str], feeds: Mapping[str, AnyArray]) -> list[AnyArray]:
        """Compute the outputs of these names.

        Raises:
            ProviderError: ONNX Runtime failed.
        """
        try:
            with self._lock:
                return list(self.session.run(list(names), dict(feeds), self._run_options))
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            raise ProviderError(
                f"ONNX Runtime failed to run {self.name}: {first_line(error)}",
                "If memory is short, use smaller batches.",
            ) from error

    def _load(self, source: GraphSource, options: SessionOptions, *, fallback: bool) -> Any:
        ort = onnxruntime()
        config = session_config(options, fallback=fallback)
        graph = str(source.graph) if isinstance(source.graph, Path) else source.graph
        provider_options = dict(self.spec.options(options, source.precision))
        if self.spec.plugin and find_spec(self.spec.plugin):  # otherwise a build that includes the provider
            config.add_provider_for_devices(_plugin_devices(self.spec), provider_options)
            return ort.InferenceSession(graph, config, enable_fallback=0)
        if self.spec.name not in ort.get_available_providers():  # ONNX Runtime would only warn and use the CPU
            raise ProviderError(f"This ONNX Runtime has no {self.spec.name}.", f"Run: {self.spec.install}.")
        providers = [(self.spec.name, provider_options)]
        if fallback and self.spec.name != _CPU:
            providers.append((_CPU, {}))
        return ort.InferenceSession(graph, config, providers=providers, enable_fallback=0)

    def _explain(self, error: Exception, source: GraphSource, options: SessionOptions) -> Exception:
        """An error that names the cause: nodes that the provider cannot run, the graph, or the provider."""
        ort = onnxruntime()
        if options.provider is not Provider.CPU and not options.allow_fallback:
            with contextlib.suppress(Exception):  # if the graph does not load with a fallback either, `error` is better
                counts = placement(self._load(source, options, fallback=True))
                if set(counts) != {self.spec.name}:
                    nodes = ", ".join(f"{count} on {name}" for name, count in counts.items())
                    return ProviderError(
                        f"{self.spec.name} does not run the whole of {self.name}; nodes: {nodes}.",
                        "Use a variant that the provider runs whole, or let the CPU run the other nodes "
                        "(allow_fallback, --allow-fallback).",
                    )
        if isinstance(source.graph, Path) and options.provider is Provider.CPU:
            return ArtifactError(
                f"ONNX Runtime {ort.__version__} cannot load {self.name}: {first_line(error)}",
                "Check the file with `siglip-onnx inspect --verify`; if it is intact, install a newer ONNX Runtime.",
            )
        return ProviderError(
            f"ONNX Runtime {ort.__version__} cannot load {self.name} on {self.spec.name}: {first_line(error)}",
            "Run `siglip-onnx doctor`; if memory is short, free some.",
        )


def session_config(options: SessionOptions, *, fallback: bool = False) -> Any:
    """ONNX Runtime's SessionOptions; docs/runtime.md lists the measurements behind them."""
    ort = onnxruntime()
    config = ort.SessionOptions()
    config.log_severity_level = _ERRORS_ONLY
    config.intra_op_num_threads = options.threads or host.cores()
    config.enable_mem_pattern = False  # a pattern reserves memory for the largest run: an eighth more
    # Off on x86 by default, where int8 graphs would dequantize queries and quantize them again.
    config.add_session_config_entry("session.qdqisint8allowed", "1")
    if _share_arena():
        config.add_session_config_entry("session.use_env_allocators", "1")
    config.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if options.provider is not Provider.CPU and not fallback:
        config.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return config


@functools.cache
def _share_arena() -> bool:
    """Register one CPU arena for all sessions of this process; whether that worked.

    The arena grows by what a run needs, while a session's own arena doubles. Towers run one after the other, so each
    reuses the memory that the other has freed.
    """
    ort = onnxruntime()
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    try:
        ort.create_and_register_allocator(memory, ort.OrtArenaCfg(0, _AS_REQUESTED, -1, -1))
    except Exception:  # the host program registered one; ONNX Runtime's exceptions have no common base class
        return False
    return True


def run_options(graph_id: int) -> Any:
    """RunOptions that record or replay the CUDA graph with this id (gpu_graph_id of ONNX Runtime's CUDA provider)."""
    options = onnxruntime().RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph_id))
    return options


def placement(session: Any) -> dict[str, int]:
    """Number of nodes on each provider; empty before ONNX Runtime 1.24, which does not report it."""
    assignment_info = getattr(session, "get_provider_graph_assignment_info", None)
    if assignment_info is None:
        return {}
    counts: Counter[str] = Counter()
    for part in assignment_info():
        counts[part.ep_name] += len(part.get_nodes())
    return dict(counts.most_common())


def _plugin_devices(spec: ProviderSpec) -> list[Any]:
    """The first device that a plugin offers.

    Raises:
        ProviderError: The plugin's library cannot be loaded, or it offers no device.
    """
    with _registration:
        if spec.name not in _registered:
            _registered[spec.name] = _register(spec)
    if error := _registered[spec.name]:
        raise ProviderError(
            f"The library of {spec.name} cannot be loaded: {first_line(error)}",
            f"Reinstall it: pip install --upgrade --force-reinstall {spec.packages[0]}.",
        ) from error
    if devices := _devices(spec):
        return devices[:1]
    message = f"{spec.name} is registered, but offers no device on this processor ({host.processor().name})."
    raise ProviderError(f"{message} {spec.devices}".rstrip(), spec.without_device)


def _register(spec: ProviderSpec) -> Exception | None:
    """Register a plugin's library, which ONNX Runtime accepts once per process; return the error, if any."""
    if _devices(spec):
        return None  # the host program registered it
    try:
        library = import_module(str(spec.plugin)).get_library_path()
        onnxruntime().register_execution_provider_library(spec.name, library)
    except Exception as error:  # a missing module or file; ONNX Runtime's exceptions have no common base class
        return error
    return None


def _devices(spec: ProviderSpec) -> list[Any]:
    return [device for device in onnxruntime().get_ep_devices() if device.ep_name == spec.name]


def _specs(args: list[Any]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(arg.name, _DTYPES.get(arg.type, arg.type), tuple(arg.shape)) for arg in args)
