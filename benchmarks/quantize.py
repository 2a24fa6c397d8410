"""Measure the time, memory and size of deriving each variant of an artifact's tower, without validation.

    python benchmarks/quantize.py build/large-artifact --tower vision

Each variant is derived in a separate process. Calibration repeats the bundled photos until the recipe has as many
samples as it asks for; their content does not matter for time and memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from siglip_onnx.quantize import RECIPES
from siglip_onnx.quantize.calibration.split import CalibrationSplit
from siglip_onnx.quantize.variant_builder import VariantBuilder
from siglip_onnx.runtime import Artifact
from siglip_onnx.runtime.artifact.contract import Precision, Role
from siglip_onnx.validate.data.images import Images
from siglip_onnx.validate.data.samples import BUNDLED, Samples

_GB = 1e9 / 1024  # ru_maxrss counts KiB


def pairs(count: int) -> Samples:
    """Repeat the bundled photos and captions to `count` pairs."""
    photos = Samples.read()
    names = list(photos.images)
    repeated = [names[i % len(names)] for i in range(count)]
    images = Images({f"{i}-{name}": BUNDLED / name for i, name in enumerate(repeated)})
    captions = tuple(photos.captions[i % len(names)] for i in range(count))
    return replace(photos, images=images, captions=captions)


def derive(folder: Path, precision: Precision, role: Role, target: Path) -> None:
    """Derive one tower into `target` and print its cost as JSON."""
    recipe = RECIPES[precision]()
    samples = pairs(recipe.samples)
    started = time.perf_counter()
    split = CalibrationSplit(samples, samples, samples)
    builder = VariantBuilder(Artifact.open(folder), target, recipe, split, lambda step: None)
    record, _ = builder.build((role,), None, cuda=False)
    builder.remove_borrowed()
    tower = record.towers[role]
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - started,
                "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _GB,
                "mb": tower.bytes / 1e6,
                "of_fp32": tower.bytes / tower.fp32_bytes,
                "samples": recipe.samples,
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--tower", type=Role, choices=[Role.VISION, Role.TEXT], default=Role.VISION)
    parser.add_argument("--precisions", nargs="+", type=Precision, default=list(RECIPES))
    parser.add_argument("--derive-into", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--output-dir", type=Path, help="Keep the files, in a subfolder for each variant.")
    args = parser.parse_args()
    if args.derive_into:
        derive(args.artifact, args.precisions[0], args.tower, args.derive_into)
        return
    print("| variant | samples | seconds | peak GB | MB | of fp32 |\n| --- | --- | --- | --- | --- | --- |")
    for precision in args.precisions:
        with tempfile.TemporaryDirectory(dir=args.artifact.parent) as scratch:
            target = args.output_dir / f"{args.tower}-{precision}" if args.output_dir else Path(scratch)
            if args.output_dir:
                shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, __file__, args.artifact, "--tower", args.tower, "--derive-into", target]
            done = subprocess.run([*command, "--precisions", precision], check=True, capture_output=True, text=True)
        cost = json.loads(done.stdout)
        print(
            f"| {precision} | {cost['samples']} | {cost['seconds']:.1f} | {cost['peak_gb']:.2f} | "
            f"{cost['mb']:,.1f} | {cost['of_fp32']:.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
