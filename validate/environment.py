"""The machine and the versions that a verdict was reached with."""

from __future__ import annotations

import platform
import sys
from typing import Final

from ..runtime.engines import host
from ..runtime.engines.host import installed_version

_TOOLS: Final = (
    "siglip-onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "torch",
    "transformers",
    "numpy",
    "pillow",
    "sentencepiece",
)


def environment() -> dict[str, str]:
    """Versions of the installed tools, the system, and the machine."""
    versions = {tool: version for tool in _TOOLS if (version := installed_version(tool))}
    machine = f"{host.processor().name}, {host.cores()} cores"
    return {**versions, "python": platform.python_version(), "system": platform.system(), "machine": machine}


def peak_memory() -> int | None:
    """Largest memory use of this process so far, in bytes; None on Windows."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # Linux counts kilobytes
