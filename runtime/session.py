"""One graph of an artifact, loaded into ONNX Runtime on the provider that was asked for and on no other."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from .artifact import Artifact
from .contract import Precision, Provider, Role, TensorSpec
from .errors import ArtifactError, InputError, ProviderError

if TYPE_CHECKING:
    import onnxruntime

Array = NDArray[Any]


@dataclass(frozen=True)
class ProviderSpec:
    """How ONNX Runtime calls a provider, and what to install to have it."""

    ort_name: str
    install: str


PROVIDERS: Final = {
    Provider.CPU: ProviderSpec("CPUExecutionProvider", "pip install 'siglip-onnx[cpu]'"),
    Provider.CUDA: ProviderSpec("CUDAExecutionProvider", "pip install 'siglip-onnx[gpu]'"),
}

_DTYPES: Final = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int64)": "int64"}


@dataclass(frozen=True)
class SessionOptions:
    """How a graph is loaded.

    Attributes:
        provider: What runs it.
        threads: Threads of one run; None leaves it to ONNX Runtime (one per physical core).
        verify: Check the SHA-256 of graph and weights first; where the graph reads weights from is always checked.
    """

    provider: Provider = Provider.CPU
    threads: int | None = None
    verify: bool = True


class GraphSession:
    """A loaded graph. ONNX Runtime lets threads share it.

    Args:
        artifact: Whose graph.
        role: Which graph.
        precision: Of which variant.
        options: How to load it.

    Raises:
        ArtifactError: The graph is missing, damaged, or its interface is not what the contract says.
        ProviderError: ONNX Runtime or the provider is missing.
    """

    def __init__(self, artifact: Artifact, role: Role, precision: Precision, options: SessionOptions) -> None:
        self.graph = artifact.graph(role, precision, options.provider)
        if options.verify:
            artifact.verify((self.graph.path, *self.graph.data))
        else:
            artifact.verify_external_data(self.graph)
        self._path = str(artifact.path(self.graph.path))
        self._session = _load(self._path, options)
        self._check_interface()

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Every output by name.

        Args:
            feeds: Every input by name, of the contract's dtype and shape.

        Raises:
            InputError: An input is missing, or has another dtype or shape than the contract says.
            ProviderError: ONNX Runtime failed while running the graph.
        """
        for spec in self.graph.inputs:
            _check_feed(spec, feeds.get(spec.name))
        names = [spec.name for spec in self.graph.outputs]
        try:
            values = self._session.run(names, dict(feeds))
        except Exception as error:  # ONNX Runtime's exceptions have no common base but this
            raise ProviderError(
                f"ONNX Runtime failed to run {self._path}: {_first_line(error)}",
                "If memory is short, use smaller batches.",
            ) from error
        return dict(zip(names, values, strict=True))

    def _check_interface(self) -> None:
        found = {kind: _specs(getattr(self._session, f"get_{kind}")()) for kind in ("inputs", "outputs")}
        for kind, specs in found.items():
            if specs != (wanted := getattr(self.graph, kind)):
                raise ArtifactError(
                    f"The {kind} of {self._path} are not those of the contract: found {_describe(specs)}, "
                    f"expected {_describe(wanted)}.",
                    "Export the checkpoint again.",
                )


def available_providers() -> tuple[Provider, ...]:
    """The providers that the installed ONNX Runtime can load.

    Raises:
        ProviderError: ONNX Runtime is not installed.
    """
    offered = _onnxruntime().get_available_providers()
    return tuple(provider for provider, spec in PROVIDERS.items() if spec.ort_name in offered)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ProviderError(
            f"ONNX Runtime cannot be imported ({error}).", "Install it: " + PROVIDERS[Provider.CPU].install + "."
        ) from error
    return onnxruntime


def require(provider: Provider) -> None:
    """Return only if the provider is there.

    Raises:
        ProviderError: ONNX Runtime is not installed, or has no such provider.
    """
    spec = PROVIDERS[provider]
    if provider not in available_providers():
        version = _onnxruntime().__version__
        raise ProviderError(f"The installed ONNX Runtime {version} has no {spec.ort_name}.", f"Try: {spec.install}.")


def bare_session(graph: bytes | str) -> onnxruntime.InferenceSession:
    """A session on the CPU for a graph that this process has just made, or its path; its interface is not checked.

    Raises:
        ProviderError: ONNX Runtime is not installed or cannot load the graph.
    """
    ort = _onnxruntime()
    config = ort.SessionOptions()
    config.log_severity_level = 3
    try:
        return ort.InferenceSession(graph, config, providers=[PROVIDERS[Provider.CPU].ort_name])
    except Exception as error:  # ONNX Runtime's exceptions have no common base but this
        raise ProviderError(
            f"ONNX Runtime {ort.__version__} cannot load a graph that was just made: {_first_line(error)}",
            "Install a newer ONNX Runtime; if memory is short, free some.",
        ) from error


def _load(path: str, options: SessionOptions) -> onnxruntime.InferenceSession:
    ort = _onnxruntime()
    provider = PROVIDERS[options.provider]
    require(options.provider)
    config = ort.SessionOptions()
    config.log_severity_level = 3  # errors only; a warning would go straight to standard error
    if options.threads is not None:
        config.intra_op_num_threads = options.threads
    if options.provider is not Provider.CPU:
        config.add_session_config_entry("session.disable_cpu_ep_fallback", "1")  # a node on the CPU is an error
    try:
        session = ort.InferenceSession(path, config, providers=[provider.ort_name])
    except Exception as error:  # ONNX Runtime's exceptions have no common base but this
        raise ArtifactError(
            f"ONNX Runtime {ort.__version__} cannot load {path}: {_first_line(error)}",
            "If the file is whole (`siglip-onnx inspect --verify`), install a newer ONNX Runtime.",
        ) from error
    if session.get_providers()[0] != provider.ort_name:
        raise ProviderError(f"ONNX Runtime loaded {path} without {provider.ort_name}.", f"Try: {provider.install}.")
    return session


def _specs(args: list[Any]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(arg.name, _DTYPES.get(arg.type, arg.type), tuple(arg.shape)) for arg in args)


def _describe(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"{s.name} {s.dtype} [{', '.join(map(str, s.shape))}]" for s in specs)


def _check_feed(spec: TensorSpec, value: Array | None) -> None:
    fits = (
        value is not None
        and value.dtype == np.dtype(spec.dtype)
        and value.ndim == len(spec.shape)
        and all(isinstance(want, str) or want == have for want, have in zip(spec.shape, value.shape, strict=True))
    )
    if not fits:
        found = "nothing" if value is None else f"{value.dtype} {list(value.shape)}"
        raise InputError(f"The graph's input {_describe((spec,))} was given {found}.", "Pass an array of that form.")


def _first_line(error: Exception) -> str:
    with contextlib.suppress(IndexError):
        return str(error).splitlines()[0]
    return type(error).__name__
