"""Graphs in ONNX Runtime."""

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
from ..artifact.contract import Provider, TensorSpec
from ..errors import ArtifactError, ProviderError
from . import host
from .base import Array, GraphSource, first_line
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
_ERRORS_ONLY: Final = 3  # of ONNX Runtime's log; a warning would go straight to standard error
_AS_REQUESTED: Final = 1  # arena_extend_strategy of OrtArenaCfg; 0 is powers of two
NO_GRAPH: Final = -1  # run as if there were no CUDA graphs
_plugins = threading.Lock()
# What came of registering each plugin's library in this process, None being success; ONNX Runtime refuses a second
# registration, and its reason for that would hide the first one's.
_outcomes: Final[dict[str, Exception | None]] = {}


def onnxruntime() -> Any:
    """The module.

    Raises:
        ProviderError: It cannot be imported.
    """
    privacy.opt_out()
    try:
        import onnxruntime
    except ImportError as error:
        raise ProviderError(
            f"ONNX Runtime cannot be imported ({error}).", f"Install it: {PROVIDERS[Provider.CPU].install}."
        ) from error
    return onnxruntime


class OrtEngine:
    """A graph in ONNX Runtime; see `Engine`.

    Args:
        source: The graph.
        options: Where and how it is run.

    Raises:
        ArtifactError: The graph cannot be read.
        ProviderError: The provider does not run it, or not all of it, and `allow_fallback` is off.
    """

    def __init__(self, source: GraphSource, options: SessionOptions) -> None:
        self.name = str(source.graph) if isinstance(source.graph, Path) else "a graph that was just made"
        self.spec = PROVIDERS[options.provider]
        try:
            self.session = self._load(source, options, fallback=options.allow_fallback)
        except ProviderError:
            raise
        except Exception as error:  # ONNX Runtime's exceptions have no common base but this
            raise self._explained(error, source, options) from error
        self.placement: Mapping[str, int] = placement(self.session)
        self.inputs, self.outputs = _specs(self.session.get_inputs()), _specs(self.session.get_outputs())
        self._run_options = graph_choice(NO_GRAPH) if options.cuda_graphs else None
        self._turn: contextlib.AbstractContextManager[Any] = (
            contextlib.nullcontext() if self.spec.concurrent else threading.Lock()
        )

    def run(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """The outputs of these names.

        Raises:
            ProviderError: ONNX Runtime failed while running the graph.
        """
        try:
            with self._turn:
                return list(self.session.run(list(names), dict(feeds), self._run_options))
        except Exception as error:  # ONNX Runtime's exceptions have no common base but this
            raise ProviderError(
                f"ONNX Runtime failed to run {self.name}: {first_line(error)}",
                "If memory is short, use smaller batches.",
            ) from error

    def _load(self, source: GraphSource, options: SessionOptions, *, fallback: bool) -> Any:
        ort = onnxruntime()
        config = session_config(options, fallback=fallback)
        graph = str(source.graph) if isinstance(source.graph, Path) else source.graph
        chosen = dict(self.spec.options(options, source.precision))
        if self.spec.plugin and find_spec(self.spec.plugin):  # else a build that has it inside
            config.add_provider_for_devices(_plugin_devices(self.spec), chosen)
            return ort.InferenceSession(graph, config, enable_fallback=0)
        if self.spec.name not in ort.get_available_providers():  # ONNX Runtime would only warn, and take the CPU
            raise ProviderError(f"This ONNX Runtime has no {self.spec.name}.", f"Run: {self.spec.install}.")
        providers = [(self.spec.name, chosen)]
        if fallback and self.spec.name != _CPU:
            providers.append((_CPU, {}))
        return ort.InferenceSession(graph, config, providers=providers, enable_fallback=0)

    def _explained(self, error: Exception, source: GraphSource, options: SessionOptions) -> Exception:
        """What went wrong, told by its cause: the graph, the provider, or nodes that the provider cannot run."""
        ort = onnxruntime()
        if options.provider is not Provider.CPU and not options.allow_fallback:
            with contextlib.suppress(Exception):  # then the first error says more
                left = placement(self._load(source, options, fallback=True))
                share = ", ".join(f"{count} on {name}" for name, count in left.items())
                if set(left) != {self.spec.name}:
                    return ProviderError(
                        f"{self.spec.name} does not run all of {self.name}: of its nodes {share}.",
                        "Use a variant that it runs whole, or allow the rest on the CPU (allow_fallback, "
                        "--allow-fallback).",
                    )
        if isinstance(source.graph, Path) and options.provider is Provider.CPU:
            return ArtifactError(
                f"ONNX Runtime {ort.__version__} cannot load {self.name}: {first_line(error)}",
                "If the file is whole (`siglip-onnx inspect --verify`), install a newer ONNX Runtime.",
            )
        return ProviderError(
            f"ONNX Runtime {ort.__version__} cannot load {self.name} on {self.spec.name}: {first_line(error)}",
            "Run `siglip-onnx doctor`; if memory is short, free some.",
        )


def session_config(options: SessionOptions, *, fallback: bool = False) -> Any:
    """ONNX Runtime's SessionOptions; docs/runtime.md has the measurements behind them."""
    ort = onnxruntime()
    config = ort.SessionOptions()
    config.log_severity_level = _ERRORS_ONLY
    config.intra_op_num_threads = options.threads or host.cores()
    config.enable_mem_pattern = False  # a pattern plans for the largest run, and takes an eighth more memory
    # Off on x86 by default, whereby int8 graphs quantize queries and take that back before they quantize them again.
    config.add_session_config_entry("session.qdqisint8allowed", "1")
    if _share_arena():
        config.add_session_config_entry("session.use_env_allocators", "1")
    config.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if options.provider is not Provider.CPU and not fallback:
        config.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return config


@functools.cache
def _share_arena() -> bool:
    """Have all sessions of this process that ask for it share one arena on the CPU, which grows by what is needed.

    Towers run one after the other, so each uses what the other has freed; an arena of a session's own doubles.
    """
    ort = onnxruntime()
    memory = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    try:
        ort.create_and_register_allocator(memory, ort.OrtArenaCfg(0, _AS_REQUESTED, -1, -1))
    except Exception:  # the program around us has registered one; ONNX Runtime's exceptions have no common base
        return False
    return True


def graph_choice(graph_id: int) -> Any:
    """RunOptions that record or replay one CUDA graph (gpu_graph_id of ONNX Runtime's CUDA provider)."""
    options = onnxruntime().RunOptions()
    options.add_run_config_entry("gpu_graph_id", str(graph_id))
    return options


def placement(session: Any) -> dict[str, int]:
    """How many nodes each provider runs, as ONNX Runtime (1.24 or later) tells."""
    told = getattr(session, "get_provider_graph_assignment_info", None)
    if told is None:
        return {}
    count: Counter[str] = Counter()
    for part in told():
        count[part.ep_name] += len(part.get_nodes())
    return dict(count.most_common())


def _plugin_devices(spec: ProviderSpec) -> list[Any]:
    """The first processor or card that a plugin offers.

    Raises:
        ProviderError: Its library cannot be loaded, or it offers none.
    """
    with _plugins:
        if spec.name not in _outcomes:
            _outcomes[spec.name] = _register(spec)
    if error := _outcomes[spec.name]:
        raise ProviderError(
            f"The library of {spec.name} cannot be loaded: {first_line(error)}",
            f"Reinstall it: pip install --upgrade --force-reinstall {spec.packages[0]}.",
        ) from error
    if devices := _devices(spec):
        return devices[:1]
    told = f"{spec.name} is registered, but offers no device on this processor ({host.processor().name})."
    raise ProviderError(f"{told} {spec.devices}".rstrip(), spec.without_device)


def _register(spec: ProviderSpec) -> Exception | None:
    """Register a plugin's library, which ONNX Runtime accepts once in a process; return the error, if any."""
    if _devices(spec):
        return None  # the program around us has registered it
    try:
        library = import_module(str(spec.plugin)).get_library_path()
        onnxruntime().register_execution_provider_library(spec.name, library)
    except Exception as error:  # a missing module, a missing file, or whatever ONNX Runtime raises
        return error
    return None


def _devices(spec: ProviderSpec) -> list[Any]:
    return [device for device in onnxruntime().get_ep_devices() if device.ep_name == spec.name]


def _specs(args: list[Any]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(arg.name, _DTYPES.get(arg.type, arg.type), tuple(arg.shape)) for arg in args)
