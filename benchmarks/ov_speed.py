"""Speed of a tower's graphs in OpenVINO's CPU plugin, in turns, each at a given inference precision.

    PYTHON benchmarks/ov_speed.py build/large-artifact/onnx/vision_model.onnx build/quantized --tower vision

PYTHON needs openvino and numpy, nothing of siglip-onnx.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np

sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # otherwise the import sends an event
import openvino as ov  # noqa: E402

CASES = (("fp32", "f32"), ("fp32", "bf16"), ("bf16", "bf16"), ("fp16", "bf16"), ("int8-static", "f32"),
         ("int8-static", "bf16"), ("int8", "f32"))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("fp32", type=Path)
    parser.add_argument("variants", type=Path)
    parser.add_argument("--tower", choices=["vision", "text"], default="vision")
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    shape = (1, 3, 384, 384)
    inputs = rng.uniform(-1, 1, shape).astype(np.float32) if args.tower == "vision" else rng.integers(0, 32000, (1, 64))
    core, runs = ov.Core(), {}
    for name, precision in CASES:
        folder = args.variants / f"{args.tower}-{name}" / "onnx"
        path = args.fp32 if name == "fp32" else next(folder.glob(f"{args.tower}_model_*.onnx"))
        options = {"INFERENCE_PRECISION_HINT": precision, "PERFORMANCE_HINT": "LATENCY"}
        runs[f"{name}, {precision}"] = core.compile_model(core.read_model(path), "CPU", options).create_infer_request()
    times: dict[str, list[float]] = {name: [] for name in runs}
    outputs = {}
    for count in range(args.rounds + 1):
        for name, request in runs.items():
            time.sleep(0.05)
            started = time.perf_counter()
            outputs[name] = request.infer([inputs])["pooler_output"].copy()
            if count:
                times[name].append(time.perf_counter() - started)
    first = next(iter(runs))
    print("| OpenVINO | median ms | speed over f32, median (range) | largest relative difference |")
    print("| --- | --- | --- | --- |")
    for name, seconds in times.items():
        ratios = [a / b for a, b in zip(times[first], seconds, strict=True)]
        error = np.abs(outputs[name] - outputs[first]).max() / np.abs(outputs[first]).max()
        print(
            f"| {name} | {1000 * statistics.median(seconds):,.0f} | {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}) | {error:.1e} |"
        )


if __name__ == "__main__":
    main()
