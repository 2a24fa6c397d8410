"""Time, memory and size of deriving each variant of an artifact's tower, without judging it.

    python benchmarks/quantize.py build/large-artifact --tower vision

Each variant is derived in a process of its own. Calibration uses the bundled photos, as many times over as the recipe
likes to have samples: what they show does not matter for time and memory.
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
from siglip_onnx.quantize.calibration.split import Data
from siglip_onnx.quantize.variant_builder import VariantBuilder
from siglip_onnx.runtime import Artifact
from siglip_onnx.runtime.artifact.contract import Precision, Role
from siglip_onnx.validate.data.images import Images
from siglip_onnx.validate.data.samples import BUNDLED, Samples

_GB = 1e9 / 1024  # ru_maxrss counts KiB


def pairs(count: int) -> Samples:
    """The bundled photos and captions, repeated to `count` pairs."""
    photos = Samples.read()
    names = list(photos.images)
    chosen = [names[i % len(names)] for i in range(count)]
    images = Images({f"{i}-{name}": BUNDLED / name for i, name in enumerate(chosen)})
    captions = tuple(photos.captions[i % len(names)] for i in range(count))
    return replace(photos, images=images, captions=captions)


def one(folder: Path, precision: Precision, role: Role, target: Path) -> None:
    """Derive one tower into `target` and print what it took."""
    recipe = RECIPES[precision]()
    samples = pairs(recipe.samples)
    started = time.perf_counter()
    derivation = VariantBuilder(
        Artifact.open(folder), target, recipe, Data(samples, samples, samples), lambda step: None
    )
    record, _ = derivation.make((role,), None, cuda=False)
    derivation.return_borrowed()
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
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--keep", type=Path, help="Keep the files in this folder, one subfolder for each precision.")
    args = parser.parse_args()
    if args.one:
        one(args.artifact, args.precisions[0], args.tower, args.one)
        return
    print("| variant | samples | seconds | peak GB | MB | of fp32 |\n| --- | --- | --- | --- | --- | --- |")
    for precision in args.precisions:
        with tempfile.TemporaryDirectory(dir=args.artifact.parent) as scratch:
            target = args.keep / f"{args.tower}-{precision}" if args.keep else Path(scratch)
            if args.keep:
                shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True, exist_ok=True)
            command = [sys.executable, __file__, args.artifact, "--tower", args.tower, "--one", target]
            done = subprocess.run([*command, "--precisions", precision], check=True, capture_output=True, text=True)
        found = json.loads(done.stdout)
        print(
            f"| {precision} | {found['samples']} | {found['seconds']:.1f} | {found['peak_gb']:.2f} | "
            f"{found['mb']:,.1f} | {found['of_fp32']:.4f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
