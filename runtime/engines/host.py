"""What this process may use of the machine: cores by the real quota, and what the processor can do."""

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

# Linux' names of the instruction sets that decide how fast a variant is (arch/x86/include/asm/cpufeatures.h,
# arch/arm64/include/uapi/asm/hwcap.h), and what they are called here.
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
    """A processor: its name, its flags, and its vendor's CPUID string; flags and vendor are known on Linux only."""

    name: str
    flags: tuple[str, ...] = ()
    vendor: str = ""  # GenuineIntel, AuthenticAMD; on x86 alone

    @property
    def features(self) -> frozenset[str]:
        """Instruction sets that matter here, by the names on the right of `FEATURES`."""
        return frozenset(FEATURES[flag] for flag in self.flags if flag in FEATURES)

    @property
    def saturates(self) -> bool:
        """Whether it adds pairs of eight-bit products in 16 bits, where they may overflow: AVX2 without VNNI."""
        return "avx2" in self.features and not self.features & {"vnni", "amx-int8"}


def cores() -> int:
    """Cores that this process may keep busy: the smallest of the host's, its affinity's, and its cgroups' CPU quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    allowed = len(affinity(0)) if affinity else os.cpu_count() or 1
    return max(1, int(min([allowed, *quotas()])))


def quotas(root: Path = _CGROUPS, own: Path = _OWN_GROUPS) -> Iterator[float]:
    """CPU quotas, in cores, of the cgroups that this process is in and of those above them.

    Files and units: https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max) and, for version 1,
    https://docs.kernel.org/scheduler/sched-bwc.html (cpu.cfs_quota_us). In a container the group's own path may not be
    there, but the root, which is then the container's own, is.
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
    facts = {key.strip(): value.strip() for key, _, value in lines}  # of the last core; all are of one kind
    name = facts.get("model name") or platform.processor() or platform.machine()
    flags = tuple((facts.get("flags") or facts.get("Features") or "").split())
    return Processor(name, flags, facts.get("vendor_id", ""))


def fingerprint(*parts: str) -> str:
    """What has to be equal before something made on one machine is used again, as 16 hex digits.

    It covers the system, the processor with all its instruction sets, the number of cores, and `parts`.
    """
    found = processor()
    facts = (platform.system(), platform.machine(), found.name, *found.flags, str(cores()), *parts)
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:16]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
