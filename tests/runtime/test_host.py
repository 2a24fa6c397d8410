"""How many cores there really are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from siglip_onnx.runtime.engines import host


def groups(folder: Path, lines: str, files: dict[str, str]) -> tuple[Path, Path]:
    """A tree as under /sys/fs/cgroup, and a file as /proc/self/cgroup."""
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


def test_half_a_core_is_one_thread_and_a_quota_counts_more_than_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(96))
    for found, due in (([], 96), ([4.0], 4), ([2.9, 64.0], 2), ([0.5], 1)):
        monkeypatch.setattr(host, "quotas", lambda found=found: iter(found))
        assert host.cores() == due


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_a_process_pinned_to_one_core_starts_one_thread() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))});"
    code += "from siglip_onnx.runtime.engines.host import cores; from siglip_onnx.runtime import SessionOptions;"
    code += "from siglip_onnx.runtime.engines.ort import session_config;"
    code += "print(cores(), session_config(SessionOptions()).intra_op_num_threads)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["1", "1"]


def test_a_fingerprint_tells_processors_cores_and_options_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    here = host.fingerprint("f32")
    assert here == host.fingerprint("f32") != host.fingerprint("bf16")
    monkeypatch.setattr(host, "processor", lambda: host.Processor("another"))
    assert host.fingerprint("f32") != here


def test_features_have_the_names_of_what_they_are_for() -> None:
    found = host.Processor("x", ("fpu", "avx512_vnni", "avx_vnni", "amx_bf16", "asimddp")).features
    assert found == {"vnni", "amx-bf16", "dot-product"}


def test_the_processor_that_a_system_tells_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("vendor_id\t: GenuineIntel\nmodel name\t: Xeon\nflags\t\t: fpu avx2\n")
    monkeypatch.setattr(host, "_CPUINFO", cpuinfo)
    found = host.processor.__wrapped__()
    assert found == host.Processor("Xeon", ("fpu", "avx2"), "GenuineIntel")


def test_which_processors_overflow_in_16_bits() -> None:
    found = {flags: host.Processor("x", flags).saturates for flags in (("avx2",), ("avx2", "avx_vnni"), ("asimd",))}
    assert found == {("avx2",): True, ("avx2", "avx_vnni"): False, ("asimd",): False}
