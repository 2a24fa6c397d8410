"""Measure the accuracy of each variant of the trained emoji model, and of other quantizers on the same graphs.

    python benchmarks/accuracy.py                     # our variants, and ONNX Runtime's and transformers.js' settings
    python benchmarks/accuracy.py --nncf PYTHON       # and NNCF, run by a Python that has nncf and onnx

Calibration takes pairs of examples/emoji/eval, some of which are also measured. The measurement takes 5,556 images
(every concept in three styles, distorted anew in the styles of the training) and 1,852 labels. R@1 is that of images
to texts, and of texts to images within each style; the interval is that of the paired difference from fp32, from 1,000
bootstrap samples of the images or texts. Speed is the median ratio to fp32 over 40 alternating runs, one image or text
each.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parent.parent
EMOJI = ROOT / "examples" / "emoji"
sys.path.insert(0, str(EMOJI))

from data import EVALUATION, HELD_OUT_STYLE, TRAINED_STYLES, distort, load_concepts, load_drawings  # noqa: E402

from siglip_onnx.exporter import export  # noqa: E402
from siglip_onnx.quantize import (  # noqa: E402
    Bf16,
    Fp16,
    Goal,
    Int4,
    Int8,
    Int8Static,
    Int8Weights,
    QuantizeRequest,
    Recipe,
    quantize,
)
from siglip_onnx.quantize.calibration.split import split_pairs  # noqa: E402
from siglip_onnx.quantize.search.evaluate import embed, tower_runner  # noqa: E402
from siglip_onnx.runtime import Siglip, privacy  # noqa: E402
from siglip_onnx.runtime.arrays import AnyArray, BoolArray  # noqa: E402
from siglip_onnx.runtime.artifact.contract import Role  # noqa: E402
from siglip_onnx.runtime.vectors import normalized  # noqa: E402
from siglip_onnx.validate import store_verdict, validate  # noqa: E402
from siglip_onnx.validate.stats import metrics  # noqa: E402

STYLES = (*TRAINED_STYLES, HELD_OUT_STYLE)
ROUNDS, BOOTSTRAPS, SEED = 40, 1000, 99
COLUMNS = (
    "variant",
    "MB (of fp32)",
    "image, speed",
    "text, speed",
    "centered cosine, images",
    "centered cosine, texts",
    "logit sigma",
    "top-1 agreement",
    "R@1 images to texts",
    "R@1 texts to images",
)
OURS: dict[str, tuple[Recipe, float | None]] = {
    "fp16": (Fp16(), None),
    "bf16": (Bf16(), None),
    "int8": (Int8(), None),
    "int8, w8": (Int8(weight_bits=8), None),
    "int8, w8, --search 0.999": (Int8(weight_bits=8), 0.999),
    "int8-static": (Int8Static(), None),
    "int8-static, w8": (Int8Static(weight_bits=8), None),
    "int8-static, w8, percentile": (Int8Static(weight_bits=8, ranges="percentile"), None),
    "int8-static, w8, entropy": (Int8Static(weight_bits=8, ranges="entropy"), None),
    "int8-weights": (Int8Weights(), None),
    "int4": (Int4(), None),
    "int4, nearest": (Int4(rounding="nearest"), None),
    "int4, --search 0.998": (Int4(), 0.998),
}


@dataclass(frozen=True)
class EvaluationData:
    """Inputs to measure on, and the embeddings of the fp32 towers."""

    pixels: AnyArray
    ids: AnyArray
    logits: Callable[[AnyArray, AnyArray], AnyArray]
    fp32: dict[Role, Path]
    expected: dict[Role, AnyArray]

    @property
    def truth(self) -> BoolArray:
        """Whether two labels have the same tokens, [labels, labels]."""
        return np.asarray((self.ids[:, None] == self.ids[None]).all(2))


def images(model: Siglip) -> AnyArray:
    import torch

    rng = torch.Generator().manual_seed(SEED)
    concepts, parts = load_concepts(), []
    for style in STYLES:
        drawings = load_drawings(concepts, style).float() / 255
        parts.append(drawings if style == HELD_OUT_STYLE else distort(drawings, EVALUATION, rng))
    return (torch.cat(parts) * 2 - 1).numpy()


def read_data(folder: Path) -> EvaluationData:
    model = Siglip.load(folder)
    paths = {role: model.artifact.path(model.artifact.graph(role, model.precision).path) for role in Role}
    labels = [concept.label for concept in load_concepts()]
    rows = {Role.VISION: images(model), Role.TEXT: model.tokenizer(labels)}
    expected = {role: embed(tower_runner(paths[role]), rows[role]) for role in rows}
    return EvaluationData(rows[Role.VISION], rows[Role.TEXT], model.logits, paths, expected)


def hits(logits: AnyArray, truth: BoolArray) -> dict[str, AnyArray]:
    """Whether each image ranks its text first, and each text its image within each style."""
    n = len(truth)
    best = logits.argmax(1)
    matched = [truth[np.arange(n), best[s * n : (s + 1) * n]] for s in range(len(STYLES))]
    by_text = [truth[np.arange(n), logits[s * n : (s + 1) * n].argmax(0)] for s in range(len(STYLES))]
    return {"images": np.concatenate(matched), "texts": np.concatenate(by_text)}


def interval(ours: AnyArray, theirs: AnyArray) -> str:
    """R@1 in percent, its change in points, and the 95 % interval of the paired bootstrap."""
    change = 100 * (ours.astype(float) - theirs)
    rng = np.random.default_rng(0)
    means = [change[rng.integers(0, len(change), len(change))].mean() for _ in range(BOOTSTRAPS)]
    low, high = np.quantile(means, (0.025, 0.975))
    return f"{100 * ours.mean():.2f} ({change.mean():+.2f}; {low:+.2f} to {high:+.2f})"


def speeds(paths: dict[Role, Path], data: EvaluationData) -> list[str]:
    ratios = []
    for role, rows in ((Role.VISION, data.pixels), (Role.TEXT, data.ids)):
        runs = [tower_runner(path) for path in (data.fp32[role], paths[role])]
        for run in runs:
            run(rows[:1])
        times: list[list[float]] = [[], []]
        for _ in range(ROUNDS):
            for run, seconds in zip(runs, times, strict=True):
                started = time.perf_counter()
                run(rows[:1])
                seconds.append(time.perf_counter() - started)
                time.sleep(0.002)  # the threads of one session must sleep before the other runs
        ratios.append(f"{np.median(np.divide(*times)):.2f}")
    return ratios


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in (path, path.with_name(path.name + "_data")) if file.exists())


def row(name: str, paths: dict[Role, Path], data: EvaluationData) -> None:
    actual = {
        Role.VISION: embed(tower_runner(paths[Role.VISION]), data.pixels),
        Role.TEXT: embed(tower_runner(paths[Role.TEXT]), data.ids),
    }
    ours, theirs = (data.logits(*(normalized(e[r]) for r in (Role.VISION, Role.TEXT))) for e in (actual, data.expected))
    cosines = [f"{metrics.centered_cosines(actual[r], data.expected[r]).mean():.6f}" for r in (Role.VISION, Role.TEXT)]
    bytes_, before = (sum(size(p[role]) for role in (Role.VISION, Role.TEXT)) for p in (paths, data.fp32))
    after, first = hits(ours, data.truth), hits(theirs, data.truth)
    cells = [
        name,
        f"{bytes_ / 1e6:.2f} ({bytes_ / before:.3f})",
        *speeds(paths, data),
        *cosines,
        f"{metrics.residual_sigma(ours, theirs):.4f}",
        f"{metrics.agreement(ours, theirs).top1:.4f}",
        interval(after["images"], first["images"]),
        interval(after["texts"], first["texts"]),
    ]
    print("| " + " | ".join(cells) + " |", flush=True)


def ours(folder: Path, data: EvaluationData, only: list[str]) -> None:
    row("fp32", data.fp32, data)
    for name, (recipe, target) in OURS.items():
        if only and name not in only:
            continue
        goal = Goal(target) if target else None
        request = QuantizeRequest(data=EMOJI / "eval", goal=goal, overwrite=True, keep_failing=True)
        result = quantize(folder, recipe, request, progress=lambda step: None)
        verdict = result.reports[0].verdict
        paths = {role: folder / result.artifact.graph(role, recipe.precision).path for role in data.fp32}
        row(f"{name}: {verdict}", paths, data)


def others(data: EvaluationData, scratch: Path, nncf: str | None, folder: Path) -> None:
    privacy.opt_out()
    from onnxruntime.quantization import QuantType, quantize_dynamic

    script = {"EnableSubgraph": True, "MatMulConstBOnly": True}  # transformers.js, scripts/quantize.py
    settings: dict[str, dict[str, Any]] = {
        "ONNX Runtime quantize_dynamic, defaults": {},
        "transformers.js q8, graph without Conv": {"weight_type": QuantType.QInt8, "extra_options": script},
        "transformers.js q8, graph with Conv": {"weight_type": QuantType.QUInt8, "extra_options": script},
    }
    for name, options in settings.items():
        paths = {}
        for role in (Role.VISION, Role.TEXT):
            paths[role] = scratch / f"{role}-{len(name)}.onnx"
            quantize_dynamic(data.fp32[role], paths[role], **options)
        row(name, paths, data)
    if nncf:
        by_nncf(data, scratch, nncf, folder)


def by_nncf(data: EvaluationData, scratch: Path, python: str, folder: Path) -> None:
    """Run NNCF in another environment, on the pairs that calibrate int8-static."""
    model = Siglip.load(folder)
    pairs = split_pairs(EMOJI / "eval", Int8Static().samples, None, skip_unreadable=False).calibration
    np.savez(scratch / "rows.npz", vision=model.images(list(pairs.images.values())), text=model.tokenizer(pairs.pairs))
    program = (
        "import sys, json, numpy as np, onnx, nncf\n"
        "path, rows, role, target, kind = sys.argv[1:]\n"
        "model = onnx.load(path); name = model.graph.input[0].name\n"
        "data = [{name: row[None]} for row in np.load(rows)[role]]\n"
        "options = {'model_type': nncf.ModelType.TRANSFORMER} if kind == 'transformer' else {}\n"
        "quantized = nncf.quantize(model, nncf.Dataset(data), subset_size=len(data), **options)\n"
        "onnx.save(quantized, target)\n"
    )
    for kind in ("defaults", "transformer"):
        paths = {}
        for role in (Role.VISION, Role.TEXT):
            paths[role] = scratch / f"{role}-nncf-{kind}.onnx"
            arguments = [data.fp32[role], scratch / "rows.npz", role, paths[role], kind]
            subprocess.run([python, "-c", program, *map(str, arguments)], check=True, capture_output=True)
        row(f"NNCF, {kind}", paths, data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scratch", type=Path, default=ROOT / "build" / "accuracy")
    parser.add_argument("--nncf", help="Python interpreter that has nncf and onnx.")
    parser.add_argument("--only", nargs="+", default=[], help="Measure only these of our variants, by name.")
    args = parser.parse_args()
    folder = args.scratch / "emoji"
    export(EMOJI / "checkpoint", folder, overwrite=folder.exists(), progress=lambda step: None)
    model = Siglip.load(folder)
    result = validate(model, EMOJI / "checkpoint", EMOJI / "eval", progress=lambda step: None)
    store_verdict(model.artifact, result)
    data = read_data(folder)
    print("| " + " | ".join(COLUMNS) + " |\n" + "| --- " * len(COLUMNS) + "|")
    ours(folder, data, args.only)
    if not args.only:
        others(data, args.scratch, args.nncf, folder)
    print(json.dumps({"images": len(data.pixels), "texts": len(data.ids)}))


if __name__ == "__main__":
    main()
