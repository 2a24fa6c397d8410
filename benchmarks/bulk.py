"""Embed many generated images while processes are killed; check that every row exists once and memory stays flat.

    python benchmarks/bulk.py build/demo/emoji build/bulk --count 100000 --kills 12
    python benchmarks/bulk.py build/demo/emoji build/bulk --count 100000 --kills 6 --backend ray --workers 2

`local` kills the command itself (SIGKILL or SIGTERM, at random moments) and runs it again; `ray` kills workers that
hold a model, and the command continues. Linux only, because it reads /proc.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

PAGE = os.sysconf("SC_PAGE_SIZE")


def images(folder: Path, count: int) -> None:
    """Distinct images, a thousand in a folder; one in 997 is damaged."""
    rng = np.random.default_rng(0)
    for number in range(count):
        place = folder / f"{number // 1000:04}" / f"{number:07}.png"
        if number % 1000 == 0:
            place.parent.mkdir(parents=True, exist_ok=True)
        if place.exists():
            continue
        if number % 997 == 13:
            place.write_bytes(b"damaged")
        else:
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((64, 64)).save(place, compress_level=1)


def processes() -> Iterator[tuple[int, int, str]]:
    """Id, parent id and command line of every process."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                yield int(entry.name), parent, (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, IndexError, ValueError):
                continue


def workers() -> list[int]:
    """Ray's processes that hold a model."""
    return [process for process, _, command in processes() if "_Embedder" in command and "ray::" in command]


def resident(process: int) -> float:
    """Resident memory of one process in MB."""
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * PAGE / 1e6
    except (OSError, IndexError):
        return 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=12)
    parser.add_argument("--every", type=float, default=40.0, help="Seconds between kills, on average.")
    parser.add_argument("--backend", choices=["local", "ray"], default="local")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    source, out = args.folder / f"images-{args.count}", args.folder / f"{args.backend}-{args.count}.parquet"
    images(source, args.count)
    out.unlink(missing_ok=True)
    command = [sys.executable, "-m", "siglip_onnx", "embed", str(args.artifact), str(source), "-o", str(out)]
    command += ["--checkpoint-interval", "5", "--backend", args.backend, "--workers", str(args.workers)]
    chance, kills, runs, memory, began = random.Random(args.count), 0, 0, [], time.monotonic()
    while not out.exists():
        runs += 1
        process = subprocess.Popen(command)
        next_kill = time.monotonic() + chance.uniform(0.2, 2) * args.every
        sizes = []
        while process.poll() is None:
            time.sleep(0.5)
            sizes.append(max(map(resident, workers() if args.backend == "ray" else [process.pid]), default=0.0))
            if kills < args.kills and time.monotonic() > next_kill:
                next_kill = time.monotonic() + chance.uniform(0.2, 2) * args.every
                kills += kill(process, args.backend, chance)
        memory.append([size for size in sizes if size])
        if process.returncode not in (0, -signal.SIGKILL, 130, 143):
            raise SystemExit(f"embed ended with {process.returncode}")
    report(out, source, args.count, kills, runs, memory, time.monotonic() - began)


def kill(process: subprocess.Popen[bytes], backend: str, chance: random.Random) -> int:
    if backend == "local":
        process.send_signal(chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM]))
        process.wait()
        return 1
    candidates = workers()
    if candidates:
        os.kill(chance.choice(candidates), signal.SIGKILL)
    return bool(candidates)


def report(
    out: Path, source: Path, count: int, kills: int, runs: int, memory: list[list[float]], seconds: float
) -> None:
    table = pq.read_table(out, columns=["id", "error"])
    ids, errors = table.column("id").to_pylist(), table.column("error").to_pylist()
    expected = [str(source / f"{number // 1000:04}" / f"{number:07}.png") for number in range(count)]
    bad = [place for place, error in enumerate(errors) if error]
    print(f"rows {len(ids):,} of {count:,}; each once and in order: {ids == expected}")
    print(f"errors at the damaged images only: {bad == list(range(13, count, 997))} ({len(bad)})")
    print(f"kills {kills}, runs {runs}, {seconds:,.0f} s, {count / seconds:,.0f} images a second, kills included")
    digest = hashlib.sha256()
    for batch in pq.ParquetFile(out).iter_batches(8192, columns=["embedding"]):
        digest.update(batch.column(0).flatten().to_numpy().tobytes())
    print(f"SHA-256 of the vectors {digest.hexdigest()[:16]}")
    longest = max(memory, key=len)
    quarters = [statistics.median(part) for part in np.array_split(longest[5:], 4) if len(part)]
    print("MB of the largest process, median of each quarter of the longest run:", [round(mb) for mb in quarters])
    print(f"largest of all: {max(map(max, filter(None, memory))):.0f} MB")


if __name__ == "__main__":
    main()
