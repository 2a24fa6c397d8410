"""Time from the start of a process to its first result, and peak memory for one image; files are in the page cache.

    python benchmarks/cold_start.py build/large-artifact --precision int8

The result is that of `siglip-onnx classify` for one photo and two labels, both towers loaded and all hashes checked.
Memory is the largest resident set of a process that encodes one image, compared with the size of the tower's files.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from siglip_onnx.runtime import Artifact
from siglip_onnx.runtime.artifact.contract import Precision, Role

PHOTO = Path(__file__).parent.parent / "tests" / "data" / "images" / "photos" / "skimage_chelsea.png"
ENCODE_ONE = (
    "import resource, sys; from siglip_onnx.runtime import Siglip;"
    "Siglip.load(*sys.argv[1:4]).encode_image([sys.argv[4]]);"
    "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"
)


def first_line(command: list[str]) -> float:
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--precision", default="int8")
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--runs", type=int, default=9)
    args = parser.parse_args()
    variant = ["--precision", args.precision, "--provider", args.provider]
    command = [sys.executable, "-m", "siglip_onnx", "classify", str(args.artifact), str(PHOTO), *variant]
    times = [first_line([*command, "--label", "a cat", "--label", "a dog"]) for _ in range(args.runs + 1)][1:]
    print(f"first result: median {statistics.median(times):.2f} s, {min(times):.2f} to {max(times):.2f}")
    artifact = Artifact.open(args.artifact)
    graph = artifact.graph(Role.VISION, Precision(args.precision))
    size = sum(artifact.contract.files[path].bytes for path in (graph.path, *graph.data)) / 1e6
    process = [sys.executable, "-c", ENCODE_ONE, str(args.artifact), args.precision, args.provider, str(PHOTO)]
    peak = int(subprocess.check_output(process, text=True)) * 1.024 / 1e3
    print(f"peak memory of one image: {peak:.1f} MB, {peak / size:.3f} times the files' {size:.1f} MB")


if __name__ == "__main__":
    main()
