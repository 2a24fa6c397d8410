"""Find out, before a model is loaded, whether a provider works here, and if not, why."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

from ..artifact.contract import Provider
from ..errors import ProviderError
from .base import GraphSource
from .host import installed_version
from .loader import load
from .options import SessionOptions
from .ort import onnxruntime
from .providers import PROVIDERS, fits_system

# A graph with one MatMul, float32 x [2, 2] -> y [2, 2], opset 17.
PROBE: Final = (
    b'\x08\x08:D\n\x11\n\x01x\n\x01x\x12\x01y"\x06MatMul\x12\x05probeZ\x13\n\x01x\x12\x0e\n\x0c\x08\x01\x12\x08\n\x02'
    b"\x08\x02\n\x02\x08\x02b\x13\n\x01y\x12\x0e\n\x0c\x08\x01\x12\x08\n\x02\x08\x02\n\x02\x08\x02B\x04\n\x00\x10\x11"
)
# Builds of ONNX Runtime that install into the same folder.
_BUILDS: Final = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")
_SYSTEMS: Final = {"linux": "Linux", "win32": "Windows", "darwin": "macOS"}
_ON_NVIDIA: Final = (Provider.CUDA, Provider.TENSORRT)


@dataclass(frozen=True)
class ProviderProblem:
    """The reason why a provider does not work, and what to do about it; one sentence each."""

    cause: str
    fix: str


def check_provider(provider: Provider, options: SessionOptions | None = None) -> ProviderProblem | None:
    """The first problem that keeps a provider from running here, or None if it loads a small graph."""
    strict = replace(options or SessionOptions(), provider=provider, allow_fallback=False, cache=False)
    probe = functools.partial(_probe, options=strict)
    if PROVIDERS[provider].npm:
        return probe(provider)  # the causes below do not apply, and errors in JavaScript name their own
    causes: tuple[Callable[[Provider], ProviderProblem | None], ...] = (_package, _build, _offered, _nvidia, probe)
    if not (wrong := _system(provider)) and provider not in _ON_NVIDIA and probe(provider) is None:
        return None  # working providers need no search; on a GPU, a failing probe would print pages of errors first
    return wrong or next(filter(None, (cause(provider) for cause in causes)), None)


def ensure_provider(provider: Provider, options: SessionOptions | None = None) -> None:
    """Refuse a provider that does not work here.

    Raises:
        ProviderError: The provider does not work; the message names the cause and the fix.
    """
    if problem := check_provider(provider, options):
        raise ProviderError(f"The provider {provider} does not work here: {problem.cause}", problem.fix)


def _system(provider: Provider) -> ProviderProblem | None:
    if fits_system(provider):
        return None
    systems = " and ".join(_SYSTEMS[system] for system in PROVIDERS[provider].systems)
    return ProviderProblem(
        f"it needs {systems}, and this is {_SYSTEMS.get(sys.platform, sys.platform)}.", "Use another provider."
    )


def _package(provider: Provider) -> ProviderProblem | None:
    spec = PROVIDERS[provider]
    if any(installed_version(package) for package in spec.packages):
        return None
    clashing = [build for build in _BUILDS if installed_version(build)] if {*spec.packages} & {*_BUILDS} else []
    first = f"pip uninstall -y {' '.join(clashing)} && " if clashing else ""
    return ProviderProblem(
        f"the package {' or '.join(spec.packages)} is not installed.",
        f"Run: {first}{spec.install}.",
    )


def _build(provider: Provider) -> ProviderProblem | None:
    """Two builds of ONNX Runtime overwrite each other's files, in an order that nobody controls."""
    installed = [build for build in _BUILDS if installed_version(build)]
    if len(installed) < 2 or provider is Provider.OPENVINO:
        return None
    keep = next((package for package in PROVIDERS[provider].packages if package in installed), installed[0])
    return ProviderProblem(
        f"{' and '.join(installed)} are both installed and overwrite each other's files.",
        f"Run: pip uninstall -y {' '.join(installed)} && pip install {keep}.",
    )


def _offered(provider: Provider) -> ProviderProblem | None:
    spec = PROVIDERS[provider]
    if provider is Provider.OPENVINO or spec.plugin:
        return None
    try:
        ort = onnxruntime()
    except ProviderError as error:
        return ProviderProblem(error.message, error.next_step)
    if spec.name in ort.get_available_providers():
        return None
    return ProviderProblem(f"the installed ONNX Runtime {ort.__version__} has no {spec.name}.", f"Run: {spec.install}.")


def _nvidia(provider: Provider) -> ProviderProblem | None:
    if provider not in _ON_NVIDIA:
        return None
    ort = onnxruntime()
    cuda = str(ort.cuda_version)
    return _driver(cuda) or _libraries(provider, cuda)


def _driver(cuda: str) -> ProviderProblem | None:
    """A missing driver, a driver that is too old for this CUDA version, or a driver without a GPU.

    Functions: https://docs.nvidia.com/cuda/cuda-driver-api/ (cuDriverGetVersion gives 1000 * major + 10 * minor).
    """
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    driver = _library(name)
    if driver is None:
        return ProviderProblem(
            f"there is no NVIDIA driver ({name} was not found).",
            "Install the driver; start a container with its GPUs (docker run --gpus all).",
        )
    version, count = ctypes.c_int(), ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)) == 0 and version.value // 1000 < int(cuda.split(".")[0]):
        supported = f"{version.value // 1000}.{version.value % 1000 // 10}"
        return ProviderProblem(
            f"the NVIDIA driver supports CUDA {supported} at most, and this ONNX Runtime was built for CUDA {cuda}.",
            f"Update the driver, or install an onnxruntime-gpu for CUDA {supported.split('.')[0]}.",
        )
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        detail = "" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})"
        return ProviderProblem(f"the NVIDIA driver reports no GPU{detail}.", "Check the output of nvidia-smi.")
    return None


def _libraries(provider: Provider, cuda: str) -> ProviderProblem | None:
    if sys.platform == "win32":
        return None  # the probe reports missing libraries
    preload_cuda()
    missing = list(_missing(provider, cuda.split(".")[0]))
    if not missing:
        return None
    return ProviderProblem(
        f"{', '.join(missing)} cannot be loaded; this ONNX Runtime needs CUDA {cuda} and cuDNN 9.",
        "Run: pip install 'onnxruntime-gpu[cuda,cudnn]'; or add the folder with the libraries to LD_LIBRARY_PATH "
        f"(now {os.environ.get('LD_LIBRARY_PATH') or 'empty'}).",
    )


def preload_cuda() -> None:
    """Load CUDA's libraries from NVIDIA's pip packages, if these are installed."""
    preload = getattr(onnxruntime(), "preload_dlls", None)
    if preload is not None:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints missing libraries; _missing reports them instead
            preload()


def _missing(provider: Provider, major: str) -> Iterator[str]:
    for pattern in PROVIDERS[provider].libraries:
        name = pattern.format(major=major)
        if _library(name) is None:
            yield name


def _library(name: str) -> Any | None:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def _probe(provider: Provider, options: SessionOptions) -> ProviderProblem | None:
    try:
        load(GraphSource(PROBE), options)
    except ProviderError as error:
        return ProviderProblem(error.message, error.next_step)
    return None
