"""The good artifact that faults are put into: the bundled model with three variants that have passed."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image

from siglip_onnx.exporter import export
from siglip_onnx.quantize import RECIPES, QuantizeRequest, quantize
from siglip_onnx.runtime.artifact.contract import Precision

from ..conftest import quick_pairs, quiet
from .fault import Bench, write_lines
from .judge import CHECKPOINT, DEFAULT_LIMITS, EVAL, judge, keep

PAIRS: Final = 12
_LABELS: Final = 50
DERIVED: Final = (Precision.FP16, Precision.INT8)
_EXIF: Final = {0x0112: 6}  # the orientation: a camera held upright


def make_bench(folder: Path, derived: Sequence[Precision] = DERIVED) -> Bench:
    """Export, derive and judge, in a folder that is empty or not there; takes about half a minute."""
    bench = Bench(folder)
    write_data(bench.data)
    export(CHECKPOINT, bench.artifact, progress=quiet)
    bench.answers.mkdir()
    _judge(bench, Precision.FP32)
    with tempfile.TemporaryDirectory() as calibration:
        job = QuantizeRequest(data=quick_pairs(Path(calibration)), limits=DEFAULT_LIMITS)
        for precision in derived:
            quantize(bench.artifact, RECIPES[precision](), job, progress=quiet)
            _judge(bench, precision)
    return bench


def write_data(folder: Path, pairs: int = PAIRS) -> None:
    """Some images of the evaluation set with their captions, and labels; the first image is a photo on its side."""
    folder.mkdir(parents=True)
    rows = [json.loads(line) for line in (EVAL / "captions.jsonl").read_text("utf-8").splitlines()[-pairs:]]
    for row in rows[1:]:
        shutil.copy(EVAL / row["image"], folder)
    rows[0] = {**rows[0], "image": _photo(EVAL / rows[0]["image"], folder)}
    write_lines(folder, rows)
    labels = [row["text"] for row in rows] + (EVAL / "labels.txt").read_text("utf-8").splitlines()[:_LABELS]
    (folder / "labels.txt").write_text("\n".join(labels), "utf-8")


def _photo(source: Path, folder: Path) -> str:
    """A JPEG several times the size that the model sees, with the orientation that cameras write; its name."""
    exif = Image.Exif()
    exif.update(_EXIF)
    name = f"{source.stem}.jpg"
    with Image.open(source) as image:
        large = image.convert("RGB").resize((400, 300))
    large.save(folder / name, exif=exif, quality=95)
    return name


def _judge(bench: Bench, precision: Precision) -> None:
    """Store the verdict, which is a PASS."""
    report = judge(bench.artifact, bench.data, precision=precision, answers=bench.answers)
    report.require_pass()
    keep(bench.artifact, report)
