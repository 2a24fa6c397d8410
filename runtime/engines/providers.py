"""The table of providers: packages, options, fastest batches.

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
from ..artifact.contract import Precision, Provider, Role
from . import host
from .options import OPENVINO_PRECISIONS, SessionOptions

Options = Mapping[str, str]


def _none(options: SessionOptions, precision: Precision) -> Options:
    return {}


@dataclass(frozen=True)
class ProviderSpec:
    """A provider's entry in `PROVIDERS`.

    Attributes:
        name: ONNX Runtime's name of the provider, in Python or in JavaScript; for `openvino`, OpenVINO's device.
        packages: Python distributions that contain it; one of them is enough.
        install: Command that installs it.
        batch: Fastest number of images and of texts per run; docs/runtime.md lists the measurements.
        plugin: Module that locates the provider's library, if ONNX Runtime loads it as a plugin.
        devices: Sentence about the devices of such a plugin, for the error where it offers none.
        without_device: Sentence about what to do there.
        systems: Values of `sys.platform` that it supports; empty for all.
        libraries: Shared libraries that its packages do not contain; `{major}` is the major version of CUDA that ONNX
            Runtime was built for.
        options: Function that returns its options in ONNX Runtime.
        concurrent: Whether several threads may run a session at the same time.
        npm: For providers in JavaScript, all npm packages that it needs, with the tested versions
            (tests/interop/package.json). `install` then contains their folder as `{folder}`.
        by_name_only: Whether `auto` never selects it.
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
        "use_tf32": "0",  # on by default; it truncates the mantissa of float32 to 10 bits
        "arena_extend_strategy": "kSameAsRequested",  # the default rounds up to powers of two
        "enable_cuda_graph": str(int(options.cuda_graphs)),
    }
    return chosen if options.memory_limit is None else chosen | {"gpu_mem_limit": str(options.memory_limit)}


def _tensorrt(options: SessionOptions, precision: Precision) -> Options:
    chosen = {"device_id": str(options.device), "trt_fp16_enable": str(int(precision is Precision.FP16))}
    if options.memory_limit is not None:
        chosen["trt_max_workspace_size"] = str(options.memory_limit)
    if options.cache:  # TensorRT itself checks that engines were built for this GPU and version
        chosen |= {"trt_engine_cache_enable": "1", "trt_engine_cache_path": str(user_cache.folder("tensorrt"))}
    return chosen


def openvino_config(options: SessionOptions, precision: Precision) -> dict[str, str]:
    """OpenVINO's properties (https://docs.openvino.ai/2026/api/ie_python_api/api.html, `openvino.properties`)."""
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
    """A provider of ONNX Runtime for JavaScript, installed without scripts, which would only download CUDA files."""
    versions = " ".join(f"{package}@{version}" for package, version in packages.items())
    install = f"npm install --prefix {{folder}} --ignore-scripts {versions}"
    return ProviderSpec(name, (), install, _CPU_BATCH, npm=packages, by_name_only=True)


_CPU_BATCH: Final = MappingProxyType(
    {Role.VISION: 1, Role.TEXT: 8}
)  # larger batches do not fit into the processor's caches
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
        by_name_only=True,  # the first inference takes minutes, in which it builds an engine
    ),
    Provider.OPENVINO: ProviderSpec("CPU", ("openvino",), "pip install 'siglip-onnx[openvino]'", _SMALL_BATCH),
    Provider.OPENVINO_ORT: ProviderSpec(
        "OpenVINOExecutionProvider",
        ("onnxruntime-ep-openvino",),
        "pip install 'siglip-onnx[cpu]' onnxruntime-ep-openvino",
        _SMALL_BATCH,
        plugin="onnxruntime_ep_openvino",
        devices="OpenVINO's plugin for ONNX Runtime supports Intel processors only.",
        without_device="Use the provider openvino: OpenVINO itself, without ONNX Runtime, also runs on this machine.",
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
        without_device="Install or update the GPU's driver; without a GPU, use another provider.",
    ),
    Provider.NODE: _in_javascript("cpu", {"onnxruntime-node": "1.30.0"}),
    Provider.WEB: _in_javascript("wasm", {"onnxruntime-web": "1.30.0", "playwright-core": "1.65.1"}),
}


def fits_system(provider: Provider) -> bool:
    """Whether the provider supports this operating system."""
    systems = PROVIDERS[provider].systems
    return not systems or sys.platform in systems
