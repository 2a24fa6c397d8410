"""What runs graphs: for each provider what it needs, how it is set up, and what it is good at.

Names and options of ONNX Runtime's providers: https://onnxruntime.ai/docs/execution-providers/.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from .. import user_cache
from ..artifact.artifact import verdict_of
from ..artifact.contract import Contract, Precision, Provider, Role, Verdict
from . import host
from .options import OPENVINO_PRECISIONS, SessionOptions

Options = Mapping[str, str]


def _none(options: SessionOptions, precision: Precision) -> Options:
    return {}


@dataclass(frozen=True)
class ProviderSpec:
    """A provider.

    Attributes:
        name: What ONNX Runtime calls it, in Python or in JavaScript; OpenVINO's own entry has its device here.
        packages: Distributions that bring it; one of them is enough.
        install: How to get them.
        batch: How many images and texts at once are fastest; docs/runtime.md has the measurements.
        plugin: The module that knows where its library is, if ONNX Runtime loads it at run time.
        devices: Where such a plugin offers devices, a sentence; an error ends with it where the plugin offers none.
        without_device: What to do there, a sentence.
        systems: The only values of `sys.platform` it is for; none means all.
        libraries: Shared libraries that it needs and its packages do not bring, `{major}` being that of the CUDA
            version that ONNX Runtime was built for.
        options: Its options in ONNX Runtime.
        concurrent: Whether several threads may run one session at a time.
        npm: For those that run in JavaScript, the npm packages that they need, all of them, with the versions that were
            proved (tests/interop/package.json). `install` then has the folder to put them into as `{folder}`.
        by_name_only: Whether it is used where it is asked for, and never chosen by `auto`.
    """

    name: str
    packages: tuple[str, ...]
    install: str
    batch: Mapping[Role, int]
    plugin: str | None = None
    devices: str = ""
    without_device: str = "Use another provider."
    systems: tuple[str, ...] = ()
    libraries: tuple[str, ...] = ()
    options: Callable[[SessionOptions, Precision], Options] = field(default=_none)
    concurrent: bool = True
    npm: Mapping[str, str] = field(default_factory=dict)
    by_name_only: bool = False


def _cuda(options: SessionOptions, precision: Precision) -> Options:
    chosen = {
        "device_id": str(options.device),
        "use_tf32": "0",  # on by default; it cuts float32 to 10 bits of mantissa
        "arena_extend_strategy": "kSameAsRequested",  # the default rounds up to powers of two
        "enable_cuda_graph": str(int(options.cuda_graphs)),
    }
    return chosen if options.memory_limit is None else chosen | {"gpu_mem_limit": str(options.memory_limit)}


def _tensorrt(options: SessionOptions, precision: Precision) -> Options:
    chosen = {"device_id": str(options.device), "trt_fp16_enable": str(int(precision is Precision.FP16))}
    if options.memory_limit is not None:
        chosen["trt_max_workspace_size"] = str(options.memory_limit)
    if options.cache:  # TensorRT checks by itself that engines were made for this GPU and version
        chosen |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(user_cache.folder("tensorrt"))}
    return chosen


def openvino_config(options: SessionOptions, precision: Precision) -> dict[str, str]:
    """OpenVINO's own properties (https://docs.openvino.ai/2026/api/ie_python_api/api.html, `openvino.properties`)."""
    return {
        "INFERENCE_PRECISION_HINT": options.openvino_precision or OPENVINO_PRECISIONS[precision],
        "PERFORMANCE_HINT": options.openvino_performance.upper(),
        "INFERENCE_NUM_THREADS": str(options.threads or host.cores()),
    }


def _openvino_ort(options: SessionOptions, precision: Precision) -> Options:
    return {"load_config": json.dumps({"CPU": openvino_config(options, precision)})}


def _coreml(options: SessionOptions, precision: Precision) -> Options:
    chosen = {"ModelFormat": "MLProgram", "MLComputeUnits": "ALL"}
    return chosen | {"ModelCacheDirectory": str(user_cache.folder("coreml"))} if options.cache else chosen


def _device(options: SessionOptions, precision: Precision) -> Options:
    return {"device_id": str(options.device)}


def _in_javascript(name: str, packages: Mapping[str, str]) -> ProviderSpec:
    """A provider of ONNX Runtime for JavaScript; what its packages' install scripts would fetch is for CUDA."""
    wanted = " ".join(f"{package}@{version}" for package, version in packages.items())
    install = f"npm install --prefix {{folder}} --ignore-scripts {wanted}"
    return ProviderSpec(name, (), install, _CPU_BATCH, npm=packages, by_name_only=True)


_CPU_BATCH: Final = MappingProxyType({Role.VISION: 1, Role.TEXT: 8})  # larger ones fall out of the processor's caches
_GPU_BATCH: Final = MappingProxyType({Role.VISION: 64, Role.TEXT: 256})
_SMALL_BATCH: Final = MappingProxyType({Role.VISION: 8, Role.TEXT: 32})
_CUDA_LIBRARIES: Final = ("libcudart.so.{major}", "libcublasLt.so.{major}", "libcublas.so.{major}", "libcudnn.so.9")

PROVIDERS: Final = {
    Provider.CPU: ProviderSpec(
        "CPUExecutionProvider",
        ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino"),
        "pip install 'siglip-onnx[cpu]'",
        _CPU_BATCH,
    ),
    Provider.CUDA: ProviderSpec(
        "CUDAExecutionProvider",
        ("onnxruntime-gpu",),
        "pip install 'siglip-onnx[gpu]'",
        _GPU_BATCH,
        systems=("linux", "win32"),
        libraries=_CUDA_LIBRARIES,
        options=_cuda,
    ),
    Provider.TENSORRT: ProviderSpec(
        "TensorrtExecutionProvider",
        ("onnxruntime-gpu",),
        "pip install 'siglip-onnx[gpu]' tensorrt",
        _GPU_BATCH,
        systems=("linux", "win32"),
        libraries=(*_CUDA_LIBRARIES, "libnvinfer.so.10"),
        options=_tensorrt,
        by_name_only=True,  # it builds an engine for minutes before the first answer
    ),
    Provider.OPENVINO: ProviderSpec("CPU", ("openvino",), "pip install 'siglip-onnx[openvino]'", _SMALL_BATCH),
    Provider.OPENVINO_ORT: ProviderSpec(
        "OpenVINOExecutionProvider",
        ("onnxruntime-ep-openvino",),
        "pip install 'siglip-onnx[cpu]' onnxruntime-ep-openvino",
        _SMALL_BATCH,
        plugin="onnxruntime_ep_openvino",
        devices="OpenVINO's plugin for ONNX Runtime offers devices on Intel processors only.",
        without_device="Use --provider openvino: OpenVINO itself, without ONNX Runtime, runs on this machine too.",
        options=_openvino_ort,
    ),
    Provider.COREML: ProviderSpec(
        "CoreMLExecutionProvider",
        ("onnxruntime",),
        "pip install 'siglip-onnx[cpu]'",
        _SMALL_BATCH,
        systems=("darwin",),
        options=_coreml,
    ),
    Provider.DIRECTML: ProviderSpec(
        "DmlExecutionProvider",
        ("onnxruntime-directml",),
        "pip install onnxruntime-directml",
        _SMALL_BATCH,
        systems=("win32",),
        options=_device,
        concurrent=False,  # https://onnxruntime.ai/docs/execution-providers/DirectML-ExecutionProvider.html
    ),
    Provider.WEBGPU: ProviderSpec(
        "WebGpuExecutionProvider",
        ("onnxruntime-ep-webgpu", "onnxruntime-webgpu"),
        "pip install 'siglip-onnx[cpu]' onnxruntime-ep-webgpu",
        _SMALL_BATCH,
        plugin="onnxruntime_ep_webgpu",
        without_device="Install or update the driver of the GPU; without a GPU, use another provider.",
    ),
    Provider.NODE: _in_javascript("cpu", {"onnxruntime-node": "1.30.0"}),
    Provider.WEB: _in_javascript("wasm", {"onnxruntime-web": "1.30.0", "playwright-core": "1.65.1"}),
}


@dataclass(frozen=True)
class Choice:
    """A provider with a variant, and the instruction sets without which another choice is faster."""

    provider: Provider
    precision: Precision
    needs: frozenset[str] = frozenset()


def _choice(provider: Provider, precision: Precision, *needs: str) -> Choice:
    return Choice(provider, precision, frozenset(needs))


# Fastest first, by the measurements in docs/runtime.md. The last line has every pair, for precisions of a provider that
# is given.
RANKING: Final = (
    _choice(Provider.CUDA, Precision.FP16),
    _choice(Provider.DIRECTML, Precision.FP16),
    _choice(Provider.COREML, Precision.FP16),
    _choice(Provider.OPENVINO, Precision.INT8_STATIC, "amx-int8"),
    _choice(Provider.OPENVINO, Precision.BF16, "amx-bf16"),
    _choice(Provider.CPU, Precision.INT8, "vnni"),
    _choice(Provider.CPU, Precision.INT8, "dot-product"),
    _choice(Provider.OPENVINO, Precision.INT8_STATIC, "vnni"),
    _choice(Provider.CUDA, Precision.FP32),
    _choice(Provider.OPENVINO, Precision.FP32),
    _choice(Provider.CPU, Precision.INT8_STATIC),
    _choice(Provider.CPU, Precision.FP32),
    _choice(Provider.WEBGPU, Precision.FP16),
    _choice(Provider.WEBGPU, Precision.FP32),
    *(_choice(provider, precision) for provider in Provider for precision in Precision),
)


def ranked(contract: Contract, provider: Provider | None, precision: Precision | None) -> list[Choice]:
    """What an artifact has a PASS for, fastest here first; a provider or precision that is given is kept."""
    features = host.processor().features
    fitting = (
        choice
        for choice in RANKING
        if provider in (None, choice.provider) and precision in (None, choice.precision) and choice.needs <= features
        if provider is not None or not PROVIDERS[choice.provider].by_name_only
    )
    return [choice for choice in dict.fromkeys(fitting) if _passes(contract, choice)]


def _passes(contract: Contract, choice: Choice) -> bool:
    variant = contract.variant(choice.precision, choice.provider)
    return variant is not None and verdict_of(variant, contract, choice.provider) is Verdict.PASS


def fits_system(provider: Provider) -> bool:
    """Whether the provider is for this operating system at all."""
    systems = PROVIDERS[provider].systems
    return not systems or sys.platform in systems
