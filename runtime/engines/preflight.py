"""Why a provider cannot be used here, found out before a model is loaded."""

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
from ..versions import installed_version
from .base import GraphSource, load
from .options import SessionOptions
from .ort import onnxruntime
from .providers import PROVIDERS, fits_system

# A graph of one MatMul, float32 x [2, 2] -> y [2, 2], opset 17: does the provider run anything at all?
PROBE: Final = (
    b'\x08\x08:D\n\x11\n\x01x\n\x01x\x12\x01y"\x06MatMul\x12\x05probeZ\x13\n\x01x\x12\x0e\n\x0c\x08\x01\x12\x08\n\x02'
    b"\x08\x02\n\x02\x08\x02b\x13\n\x01y\x12\x0e\n\x0c\x08\x01\x12\x08\n\x02\x08\x02\n\x02\x08\x02B\x04\n\x00\x10\x11"
)
# Builds of ONNX Runtime that put their files into the same folder.
_BUILDS: Final = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")
_SYSTEMS: Final = {"linux": "Linux", "win32": "Windows", "darwin": "macOS"}
_ON_NVIDIA: Final = (Provider.CUDA, Provider.TENSORRT)


@dataclass(frozen=True)
class ProviderProblem:
    """What stands in the way of a provider, and what to do about it; a sentence each."""

    cause: str
    fix: str


def check_provider(provider: Provider, options: SessionOptions | None = None) -> ProviderProblem | None:
    """The first thing that keeps a provider from running here, or None if it has run the probe."""
    strict = replace(options or SessionOptions(), provider=provider, allow_fallback=False, cache=False)
    probe = functools.partial(_probe, options=strict)
    if PROVIDERS[provider].npm:
        return probe(provider)  # none of the causes below is one of theirs, and what fails says why
    causes: tuple[Callable[[Provider], ProviderProblem | None], ...] = (_package, _build, _offered, _nvidia, probe)
    if not (wrong := _system(provider)) and provider not in _ON_NVIDIA and probe(provider) is None:
        return None  # what works needs no search for causes; on a GPU a failed probe would print pages first
    return wrong or next(filter(None, (cause(provider) for cause in causes)), None)


def ensure_provider(provider: Provider, options: SessionOptions | None = None) -> None:
    """Return only if the provider runs here.

    Raises:
        ProviderError: It does not; the message names the cause and the fix.
    """
    if found := check_provider(provider, options):
        raise ProviderError(f"The provider {provider} cannot be used here: {found.cause}", found.fix)


def _system(provider: Provider) -> ProviderProblem | None:
    if fits_system(provider):
        return None
    systems = " and ".join(_SYSTEMS[system] for system in PROVIDERS[provider].systems)
    return ProviderProblem(
        f"it is for {systems}, and this is {_SYSTEMS.get(sys.platform, sys.platform)}.", "Use another."
    )


def _package(provider: Provider) -> ProviderProblem | None:
    spec = PROVIDERS[provider]
    if any(installed_version(package) for package in spec.packages):
        return None
    clashing = [build for build in _BUILDS if installed_version(build)] if {*spec.packages} & {*_BUILDS} else []
    first = f"pip uninstall -y {' '.join(clashing)} && " if clashing else ""
    return ProviderProblem(
        f"it comes with the package {' or '.join(spec.packages)}, which is not installed.",
        f"Run: {first}{spec.install}.",
    )


def _build(provider: Provider) -> ProviderProblem | None:
    """Two builds of ONNX Runtime overwrite each other's files, and which one is left is chance."""
    installed = [build for build in _BUILDS if installed_version(build)]
    if len(installed) < 2 or provider is Provider.OPENVINO:
        return None
    keep = next((package for package in PROVIDERS[provider].packages if package in installed), installed[0])
    return ProviderProblem(
        f"{' and '.join(installed)} are both installed, and overwrite each other's files.",
        f"Run: pip uninstall -y {' '.join(installed)} && pip install {keep}.",
    )


def _offered(provider: Provider) -> ProviderProblem | None:
    spec = PROVIDERS[provider]
    if provider is Provider.OPENVINO or spec.plugin:
        return None
    try:
        ort = onnxruntime()
    except ProviderError as error:
        return ProviderProblem(error.what, error.next_step)
    if spec.name in ort.get_available_providers():
        return None
    return ProviderProblem(
        f"the installed ONNX Runtime {ort.__version__} has no {spec.name}.", f"Install it: {spec.install}."
    )


def _nvidia(provider: Provider) -> ProviderProblem | None:
    if provider not in _ON_NVIDIA:
        return None
    ort = onnxruntime()
    cuda = str(ort.cuda_version)
    return _driver(cuda) or _libraries(provider, cuda)


def _driver(wanted: str) -> ProviderProblem | None:
    """The driver's version and whether it shows a GPU.

    Functions: https://docs.nvidia.com/cuda/cuda-driver-api/ (cuDriverGetVersion gives 1000 * major + 10 * minor).
    """
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    driver = _library(name)
    if driver is None:
        return ProviderProblem(
            f"there is no NVIDIA driver ({name} is not found).",
            "Install one; in a container, start it with its GPUs (docker run --gpus all).",
        )
    version, count = ctypes.c_int(), ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)) == 0 and version.value // 1000 < int(wanted.split(".")[0]):
        found = f"{version.value // 1000}.{version.value % 1000 // 10}"
        return ProviderProblem(
            f"the NVIDIA driver is for CUDA {found} at most, and this ONNX Runtime was built for CUDA {wanted}.",
            f"Update the driver, or install an onnxruntime-gpu for CUDA {found.split('.')[0]}.",
        )
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        shown = os.environ.get("CUDA_VISIBLE_DEVICES")
        told = "" if shown is None else f" (CUDA_VISIBLE_DEVICES is {shown!r})"
        return ProviderProblem(f"the NVIDIA driver shows no GPU{told}.", "Check nvidia-smi.")
    return None


def _libraries(provider: Provider, cuda: str) -> ProviderProblem | None:
    if sys.platform == "win32":
        return None  # the probe tells
    preload_cuda()
    missing = list(_missing(provider, cuda.split(".")[0]))
    if not missing:
        return None
    return ProviderProblem(
        f"{', '.join(missing)} cannot be loaded; this ONNX Runtime needs CUDA {cuda} and cuDNN 9.",
        "Run: pip install 'onnxruntime-gpu[cuda,cudnn]'; or name the folder with the libraries in LD_LIBRARY_PATH "
        f"(now {os.environ.get('LD_LIBRARY_PATH') or 'empty'}).",
    )


def preload_cuda() -> None:
    """Load CUDA's libraries from NVIDIA's pip packages, where these are installed."""
    preload = getattr(onnxruntime(), "preload_dlls", None)
    if preload is not None:
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find; _missing says it better
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
        return ProviderProblem(error.what, error.next_step)
    return None
