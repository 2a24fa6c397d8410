"""Measure the speed of a tower's variants on ONNX Runtime's CPU provider, relative to fp32 in the same process.

    python benchmarks/quantize.py build/large-artifact --tower vision --output-dir build/quantized
    python benchmarks/variants.py build/large-artifact build/quantized --tower vision --batch 1 --rounds 12
    python benchmarks/variants.py build/large-artifact build/quantized --tower vision --others

Variants take turns (round robin), so that other load on the machine affects all of them, with a pause in between, so that
the threads of the last session go to sleep. `--others` adds the graphs of ONNX Runtime's quantize_dynamic, with its
defaults and with the unsigned weights that transformers.js' script chooses for graphs with a Conv.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from siglip_onnx.quantize.search.evaluate import tower_runner
from siglip_onnx.runtime import Artifact, privacy
from siglip_onnx.runtime.artifact.contract import Precision, Role

PAUSE = 0.05


def rows(artifact: Artifact, role: Role, batch: int) -> np.ndarray[Any, np.dtype[Any]]:
    rng = np.random.default_rng(0)
    image, text = artifact.contract.image, artifact.contract.tokenizer
    if role is Role.VISION:
        return rng.uniform(-1, 1, (batch, 3, image.height, image.width)).astype(np.float32)
    return rng.integers(0, text.vocab_size, (batch, text.length))


def size(path: Path) -> int:
    """Bytes of a graph and its data, whose name depends on the tool that wrote it."""
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


def others(source: Path, folder: Path) -> dict[str, Path]:
    privacy.opt_out()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    paths = {}
    for name, kind in (("quantize_dynamic, defaults", QuantType.QInt8), ("unsigned weights", QuantType.QUInt8)):
        paths[name] = folder / f"other-{kind.name}" / source.name
        if not paths[name].exists():
            paths[name].parent.mkdir(parents=True, exist_ok=True)
            quantize_dynamic(source, paths[name], weight_type=kind, use_external_data_format=True)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("variants", type=Path, help="Folder where benchmarks/quantize.py --output-dir wrote them.")
    parser.add_argument("--tower", type=Role, choices=[Role.VISION, Role.TEXT], default=Role.VISION)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--only", nargs="+", help="Names of variants; all by default.")
    parser.add_argument("--others", action="store_true")
    args = parser.parse_args()
    artifact = Artifact.open(args.artifact)
    source = artifact.path(artifact.graph(args.tower, Precision.FP32).path)
    paths = {"fp32": source}
    for folder in sorted(args.variants.glob(f"{args.tower}-*")):
        paths[folder.name.removeprefix(f"{args.tower}-")] = next(folder.glob(f"onnx/{args.tower}_model_*.onnx"))
    if args.others:
        paths |= others(source, args.variants)
    paths = {name: path for name, path in paths.items() if not args.only or name in ("fp32", *args.only)}
    runs = {name: tower_runner(path) for name, path in paths.items()}
    inputs = rows(artifact, args.tower, args.batch)
    times: dict[str, list[float]] = {name: [] for name in runs}
    for count in range(args.rounds + 1):
        for name, run in runs.items():
            time.sleep(PAUSE)
            started = time.perf_counter()
            run(inputs)
            if count:  # the first round warms up
                times[name].append(time.perf_counter() - started)
    print(f"| {args.tower}, batch {args.batch} | MB | of fp32 | median ms | speed, median (range) |")
    print("| --- | --- | --- | --- | --- |")
    for name, path in paths.items():
        ratios = [a / b for a, b in zip(times["fp32"], times[name], strict=True)]
        print(
            f"| {name} | {size(path) / 1e6:,.1f} | {size(path) / size(source):.4f} | "
            f"{1000 * statistics.median(times[name]):,.0f} | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
        )


if __name__ == "__main__":
    main()
