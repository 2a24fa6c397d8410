"""Measure time and peak memory of an export (both towers and the joint graph), each run in a separate process.

    python benchmarks/make_checkpoint.py build/large
    python benchmarks/export.py build/large --runs 3

Peak memory is the largest resident set of the exporting process, including mapped files (getrusage's ru_maxrss).
The exit code is 1 if a limit is exceeded.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

LIMIT_SECONDS, LIMIT_GB = 60, 1.3


def export_once(checkpoint: str, folder: str) -> None:
    """Export in this process, and print time and memory as JSON."""
    started = time.monotonic()
    from siglip_onnx.exporter import export

    export(checkpoint, Path(folder) / "artifact", progress=lambda step: None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    print(json.dumps({"seconds": time.monotonic() - started, "peak_gb": peak}))


def measure(checkpoint: Path, scratch: Path) -> dict[str, float]:
    folder = Path(tempfile.mkdtemp(dir=scratch))
    try:
        command = [sys.executable, __file__, "--child", str(folder), str(checkpoint)]
        result: dict[str, float] = json.loads(subprocess.check_output(command, text=True))
        return result
    finally:
        shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        export_once(str(args.checkpoint), args.child)
        return
    runs = [measure(args.checkpoint, args.checkpoint.parent) for _ in range(args.runs)]
    seconds, peak = [r["seconds"] for r in runs], [r["peak_gb"] for r in runs]
    for name, values, limit in (("seconds", seconds, LIMIT_SECONDS), ("peak GB", peak, LIMIT_GB)):
        median = statistics.median(values)
        print(f"{name:8} median {median:.2f}, {min(values):.2f} to {max(values):.2f} (limit {limit})")
    sys.exit(statistics.median(seconds) > LIMIT_SECONDS or max(peak) > LIMIT_GB)


if __name__ == "__main__":
    main()
