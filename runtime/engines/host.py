"""The machine: usable cores, the processor's instruction sets, and installed packages."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

_CGROUPS: Final = Path("/sys/fs/cgroup")
_OWN_GROUPS: Final = Path("/proc/self/cgroup")
_CPUINFO: Final = Path("/proc/cpuinfo")

# Linux's names of the instruction sets that decide how fast a variant is (arch/x86/include/asm/cpufeatures.h,
# arch/arm64/include/uapi/asm/hwcap.h), and the names used here.
FEATURES: Final = {
    "avx2": "avx2",
    "avx512f": "avx512",
    "avx_vnni": "vnni",
    "avx512_vnni": "vnni",
    "avx512_bf16": "bf16",
    "amx_int8": "amx-int8",
    "amx_bf16": "amx-bf16",
    "asimd": "neon",
    "asimddp": "dot-product",
    "i8mm": "int8-matmul",
}


@dataclass(frozen=True)
class Processor:
    """A processor.

    Attributes:
        name: Model name.
        flags: Linux's names of its features; empty on other systems.
        vendor: CPUID string, such as GenuineIntel or AuthenticAMD; empty unless on Linux and x86.
    """

    name: str
    flags: tuple[str, ...] = ()
    vendor: str = ""

    @property
    def features(self) -> frozenset[str]:
        """Instruction sets that decide the speed of variants: values of `FEATURES`."""
        return frozenset(FEATURES[flag] for flag in self.flags if flag in FEATURES)

    @property
    def saturates(self) -> bool:
        """Whether sums of two 8-bit products may overflow, as in the 16 bits of AVX2 without VNNI."""
        return "avx2" in self.features and not self.features & {"vnni", "amx-int8"}


def cores() -> int:
    """Cores that this process may use: the minimum of the machine's cores, the CPU affinity and the cgroup quotas."""
    affinity = getattr(os, "sched_getaffinity", None)
    allowed = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, int(min([allowed, *quotas()])))


def quotas(root: Path = _CGROUPS, own: Path = _OWN_GROUPS) -> Iterator[float]:
    """CPU quotas, in cores, of this process's cgroups and their ancestors.

    Files and units: https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max) and, for version 1,
    https://docs.kernel.org/scheduler/sched-bwc.html (cpu.cfs_quota_us). In a container the group's path may be missing;
    the root is then the container's own group.

    Args:
        root: Where cgroups are mounted.
        own: File that lists this process's cgroups.
    """
    for line in _read(own).splitlines():
        _, controllers, group = [*line.split(":", 2), "", ""][:3]
        within = PurePosixPath(group.lstrip("/"))
        for place in (within, *within.parents):
            if controllers == "":
                quota, _, period = _read(root / place / "cpu.max").strip().partition(" ")
            elif "cpu" in controllers.split(","):
                folder = root / "cpu" / place
                quota, period = (_read(folder / f"cpu.cfs_{kind}_us").strip() for kind in ("quota", "period"))
            else:
                continue
            if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):
                yield int(quota) / int(period)


@functools.cache
def processor() -> Processor:
    """The processor that this process runs on."""
    lines = (line.partition(":") for line in _read(_CPUINFO).splitlines())
    facts = {key.strip(): value.strip() for key, _, value in lines}  # of the last core, since all cores are alike
    name = facts.get("model name") or platform.processor() or platform.machine()
    flags = tuple((facts.get("flags") or facts.get("Features") or "").split())
    return Processor(name, flags, facts.get("vendor_id", ""))


def fingerprint(*parts: str) -> str:
    """Cache key (16 hex digits) of compiled models, which only run on an equal machine.

    It covers the system, the processor with all its flags, the number of usable cores, and `parts`.
    """
    cpu = processor()
    facts = (platform.system(), platform.machine(), cpu.name, *cpu.flags, str(cores()), *parts)
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:16]


def installed_version(package: str) -> str | None:
    """The version of an installed distribution, or None where it is not installed."""
    import importlib.metadata  # 5 MB with all that it imports

    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
