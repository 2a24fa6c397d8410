"""The same job on Ray's workers, one of which is killed in the middle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from siglip_onnx.runtime import Siglip
from siglip_onnx.runtime.bulk import Backend, Cluster, EmbedJob, Inputs, Modality, embed
from siglip_onnx.runtime.errors import InputError, ProviderError

from ..conftest import EVAL
from ..support.interrupt import StoppedError, stop_after
from .test_embed import collection

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def on_ray() -> Iterator[Cluster]:
    """A cluster of several processes on this machine."""
    yield Cluster(workers=2)
    import ray

    ray.shutdown()


def holding_a_model() -> list[int]:
    """Ray's processes that embed."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"ray::" in command and b"_Embedder" in command:
                found.append(int(entry.name))
    return found


@pytest.mark.filterwarnings("ignore::Warning")  # Ray's own
def test_ray_writes_the_same_file_as_one_process(model: Siglip, on_ray: Cluster, tmp_path: Path) -> None:
    for name, inputs in {
        "images": Inputs((str(EVAL), str(collection(tmp_path / "in", 100)))),
        "texts": Inputs((str(EVAL / "labels.txt"),), Modality.TEXT),
    }.items():
        local, ray = tmp_path / f"{name}-local.parquet", tmp_path / f"{name}-ray.parquet"
        embed(model, EmbedJob(inputs, local))
        embed(model, EmbedJob(inputs, ray, backend=Backend.RAY, cluster=on_ray))
        assert pq.read_table(ray).equals(pq.read_table(local)), name


@pytest.mark.filterwarnings("ignore::Warning")  # Ray's own
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_worker_that_is_killed_costs_no_row(model: Siglip, on_ray: Cluster, tmp_path: Path) -> None:
    job = EmbedJob(Inputs((str(collection(tmp_path / "in", 1200)),)), tmp_path / "o.parquet", checkpoint_interval=0)
    killed: list[int] = []

    def tell(done: int, errors: int) -> None:
        if done > 300 and not killed:
            killed.append(holding_a_model()[0])
            os.kill(killed[0], signal.SIGKILL)

    about = embed(
        model, EmbedJob(job.inputs, job.output, backend=Backend.RAY, cluster=on_ray, checkpoint_interval=0), tell
    )
    assert killed
    assert about.rows == 1200
    embed(model, EmbedJob(job.inputs, whole := tmp_path / "whole.parquet"))
    assert pq.read_table(job.output).equals(pq.read_table(whole))


@pytest.mark.filterwarnings("ignore::Warning")  # Ray's own
def test_begun_on_ray_and_finished_in_one_process(model: Siglip, on_ray: Cluster, tmp_path: Path) -> None:
    inputs, out = Inputs((str(collection(tmp_path / "in", 600)),)), tmp_path / "o.parquet"
    with pytest.raises(StoppedError):
        embed(model, EmbedJob(inputs, out, backend=Backend.RAY, cluster=on_ray, checkpoint_interval=0), stop_after(129))
    assert embed(model, EmbedJob(inputs, out)).rows == 600
    embed(model, EmbedJob(inputs, whole := tmp_path / "whole.parquet"))
    assert pq.read_table(out).equals(pq.read_table(whole))


@pytest.mark.filterwarnings("ignore::Warning")  # Ray's own
def test_workers_raise_the_same_errors_as_one_process(model: Siglip, on_ray: Cluster, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"a,b\n\xff\xfe,1\n")
    job = EmbedJob(Inputs((str(tmp_path / "t.csv"),), column="a"), tmp_path / "o.parquet", backend=Backend.RAY)
    with pytest.raises(InputError, match="is not UTF-8"):
        embed(model, job)


def test_an_unreachable_cluster_is_reported(artifact: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "siglip_onnx", "embed", artifact, EVAL, "-o", tmp_path / "o.parquet"]
    command += ["--backend", "ray", "--ray-address", "127.0.0.1:1"]
    started = time.monotonic()
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert run.returncode == ProviderError.exit_code
    assert "Ray cannot be reached at 127.0.0.1:1 (Connection refused)" in run.stderr.replace("\n", " ")
    assert time.monotonic() - started < 30
