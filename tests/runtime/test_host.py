"""Usable cores and processor features."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from siglip_onnx.runtime.engines import host


def groups(folder: Path, lines: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A tree like /sys/fs/cgroup, and a file like /proc/self/cgroup."""
    root, own = folder / "cgroup", folder / "self"
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    own.write_text(lines)
    return root, own


@pytest.mark.parametrize(
    ("lines", "files", "quotas"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, [1.5]),
        ("0::/a/b\n", {"a/cpu.max": "400000 100000\n", "a/b/cpu.max": "max 100000\n"}, [4.0]),
        ("0::/not/visible/here\n", {"cpu.max": "50000 100000\n"}, [0.5]),
        ("4:cpu,cpuacct:/x\n", {"cpu/x/cpu.cfs_quota_us": "300000", "cpu/x/cpu.cfs_period_us": "100000"}, [3.0]),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, []),
        ("0::/\n", {"cpu.max": "nonsense"}, []),
        ("nonsense", {}, []),
        ("5:memory:/x\n", {"cpu/x/cpu.cfs_quota_us": "300000", "cpu/x/cpu.cfs_period_us": "100000"}, []),
    ],
)
def test_quotas_of_control_groups(tmp_path: Path, lines: str, files: dict[str, str], quotas: list[float]) -> None:
    assert list(host.quotas(*groups(tmp_path, lines, files))) == quotas


def test_cores_are_limited_by_quotas_and_at_least_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(96))
    for quotas, expected in (([], 96), ([4.0], 4), ([2.9, 64.0], 2), ([0.5], 1)):
        monkeypatch.setattr(host, "quotas", lambda quotas=quotas: iter(quotas))
        assert host.cores() == expected


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_process_pinned_to_one_core_starts_one_thread() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
    code += "from siglip_onnx.runtime.engines.host import cores; from siglip_onnx.runtime import SessionOptions;"
    code += "from siglip_onnx.runtime.engines.ort import session_config;"
    code += "print(cores(), session_config(SessionOptions()).intra_op_num_threads)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["1", "1"]


def test_fingerprint_depends_on_processor_and_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    here = host.fingerprint("f32")
    assert here == host.fingerprint("f32") != host.fingerprint("bf16")
    monkeypatch.setattr(host, "processor", lambda: host.Processor("another"))
    assert host.fingerprint("f32") != here


def test_features_of_processor_flags() -> None:
    found = host.Processor("x", ("fpu", "avx512_vnni", "avx_vnni", "amx_bf16", "asimddp")).features
    assert found == {"vnni", "amx-bf16", "dot-product"}


def test_processor_is_read_from_cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("vendor_id\t: GenuineIntel\nmodel name\t: Xeon\nflags\t\t: fpu avx2\n")
    monkeypatch.setattr(host, "_CPUINFO", cpuinfo)
    found = host.processor.__wrapped__()
    assert found == host.Processor("Xeon", ("fpu", "avx2"), "GenuineIntel")


def test_processors_without_vnni_saturate() -> None:
    found = {flags: host.Processor("x", flags).saturates for flags in (("avx2",), ("avx2", "avx_vnni"), ("asimd",))}
    assert found == {("avx2",): True, ("avx2", "avx_vnni"): False, ("asimd",): False}
