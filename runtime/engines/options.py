"""Session options: how graphs are loaded and run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from ..artifact.contract import Precision, Provider
from ..errors import InputError


class OpenVinoPrecision(StrEnum):
    """The precision that OpenVINO computes in; the names are those of its `INFERENCE_PRECISION_HINT`."""

    F32 = "f32"
    BF16 = "bf16"
    F16 = "f16"


class OpenVinoPerformance(StrEnum):
    """The goal that OpenVINO is tuned for: one fast request, or many at once (its `PERFORMANCE_HINT`)."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"


# OpenVINO's precision for each variant, unless the user sets another. OpenVINO's own default is bfloat16 on every
# processor that supports it, whatever the precision of the file.
OPENVINO_PRECISIONS: Final = dict.fromkeys(Precision, OpenVinoPrecision.F32) | {Precision.BF16: OpenVinoPrecision.BF16}
_OPENVINO: Final = (Provider.OPENVINO, Provider.OPENVINO_ORT)


@dataclass(frozen=True)
class SessionOptions:
    """How graphs are loaded and run.

    Attributes:
        provider: The provider that runs the graphs.
        threads: Threads per run; None uses all cores that this process may use (CPU affinity and cgroup quota).
        verify: Check the SHA-256 of graphs and weights. The location of the weights is always checked.
        allow_fallback: Let the CPU run nodes that the provider does not support; otherwise such a graph is an error.
        device: Number of the device, for providers with several.
        memory_limit: Maximum device memory of CUDA and TensorRT in bytes; None for no limit.
        cuda_graphs: Replay recorded CUDA graphs for small batches.
        openvino_precision: Precision that OpenVINO computes in; None takes the variant's (`OPENVINO_PRECISIONS`).
        openvino_performance: Tune OpenVINO for latency or for throughput.
        cache: Keep compiled models in the user's cache folder (`user_cache.folder()`) for the next start.

    Raises:
        InputError: A number is out of range.

    >>> SessionOptions(threads=0)
    Traceback (most recent call last):
    siglip_onnx.runtime.errors.InputError: threads must be at least 1, got 0. Pass a whole number.
    """

    provider: Provider = Provider.CPU
    threads: int | None = None
    verify: bool = True
    allow_fallback: bool = False
    device: int = 0
    memory_limit: int | None = None
    cuda_graphs: bool = False
    openvino_precision: OpenVinoPrecision | None = None
    openvino_performance: OpenVinoPerformance = OpenVinoPerformance.LATENCY
    cache: bool = False

    def __post_init__(self) -> None:
        for name, minimum in (("threads", 1), ("device", 0), ("memory_limit", 1)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < minimum):
                raise InputError(f"{name} must be at least {minimum}, got {value!r}.", "Pass a whole number.")

    def for_its_provider(self) -> SessionOptions:
        """These options without the ones that only apply to other providers."""
        on_openvino = self.provider in _OPENVINO
        return replace(
            self,
            openvino_precision=self.openvino_precision if on_openvino else None,
            openvino_performance=self.openvino_performance if on_openvino else OpenVinoPerformance.LATENCY,
            cuda_graphs=self.cuda_graphs and self.provider is Provider.CUDA,
        )

    def check_provider(self) -> None:
        """Refuse options that only apply to other providers.

        Raises:
            InputError: An option does not apply to the provider.
        """
        kept = self.for_its_provider()
        for name in ("openvino_precision", "openvino_performance", "cuda_graphs"):
            if getattr(self, name) != getattr(kept, name):
                raise InputError(f"{name} does not apply to {self.provider}.", "Remove it, or use another provider.")
