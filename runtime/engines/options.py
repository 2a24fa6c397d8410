"""How graphs are loaded and run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from ..artifact.contract import Precision, Provider
from ..errors import InputError


class OpenVinoPrecision(StrEnum):
    """The arithmetic that OpenVINO may compute in, by its own names (`INFERENCE_PRECISION_HINT`)."""

    F32 = "f32"
    BF16 = "bf16"
    F16 = "f16"


class OpenVinoPerformance(StrEnum):
    """What OpenVINO spends the cores on: one request at a time, or several at once (`PERFORMANCE_HINT`)."""

    LATENCY = "latency"
    THROUGHPUT = "throughput"


# What a variant is computed in by OpenVINO unless the user says otherwise. Its own default is bfloat16 wherever the
# processor has it, whatever the file says.
OPENVINO_PRECISIONS: Final = dict.fromkeys(Precision, OpenVinoPrecision.F32) | {Precision.BF16: OpenVinoPrecision.BF16}
_OPENVINO: Final = (Provider.OPENVINO, Provider.OPENVINO_ORT)


@dataclass(frozen=True)
class SessionOptions:
    """How graphs are loaded and run.

    Attributes:
        provider: What runs them.
        threads: Threads of one run; None takes as many as this process may keep busy (affinity and cgroup quota).
        verify: Check the SHA-256 of graph and weights first; where a graph reads weights from is always checked.
        allow_fallback: Let nodes that the provider cannot run go to the CPU; else such a graph is refused.
        device: The number of the device, where a provider has several.
        memory_limit: Bytes of device memory that CUDA and TensorRT may take; None sets no limit.
        cuda_graphs: Replay recorded CUDA graphs for small batches.
        hint: Arithmetic of OpenVINO; None takes that of the variant's precision (`HINTS`).
        mode: Whether OpenVINO spends the cores on one request or on several at once.
        cache: Keep what a provider compiled, for the next start on this machine, in `cache.folder()`.

    >>> SessionOptions(threads=0)
    Traceback (most recent call last):
    siglip_onnx.runtime.errors.InputError: threads is 0. Use a whole number of at least 1.
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
        """Refuse values that no provider could use.

        Raises:
            InputError: A value is out of range.
        """
        for name, least in (("threads", 1), ("device", 0), ("memory_limit", 1)):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise InputError(f"{name} is {value!r}.", f"Use a whole number of at least {least}.")

    def for_its_provider(self) -> SessionOptions:
        """The same without what only another provider would look at."""
        openvino_precision, openvino_performance = (
            (self.openvino_precision, self.openvino_performance)
            if self.provider in _OPENVINO
            else (None, OpenVinoPerformance.LATENCY)
        )
        return replace(
            self,
            openvino_precision=openvino_precision,
            openvino_performance=openvino_performance,
            cuda_graphs=self.cuda_graphs and self.provider is Provider.CUDA,
        )

    def check_provider(self) -> None:
        """Refuse options that the provider would not look at.

        Raises:
            InputError: An option is for another provider.
        """
        if self.provider not in _OPENVINO and (
            self.openvino_precision or self.openvino_performance is not OpenVinoPerformance.LATENCY
        ):
            raise InputError(f"hint and mode are for OpenVINO, not for {self.provider}.", "Leave them out.")
        if self.provider is not Provider.CUDA and self.cuda_graphs:
            raise InputError(f"cuda_graphs is for CUDA, not for {self.provider}.", "Leave it out.")
