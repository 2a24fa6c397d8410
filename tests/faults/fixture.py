"""Makes the good artifact that faults are put into: the bundled model with variants that have passed."""

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
from .fault import FaultFixture, write_captions
from .validation import CHECKPOINT, EVAL, LIMITS, store_report, validate_artifact

PAIRS: Final = 12
_LABELS: Final = 50
DERIVED: Final = (Precision.FP16, Precision.INT8)
_EXIF: Final = {0x0112: 6}  # orientation of a camera held upright


def make_fixture(folder: Path, derived: Sequence[Precision] = DERIVED) -> FaultFixture:
    """Export, quantize and validate the bundled model in a new or empty folder; takes about half a minute."""
    fixture = FaultFixture(folder)
    write_data(fixture.data)
    export(CHECKPOINT, fixture.artifact, progress=quiet)
    fixture.cache.mkdir()
    _store_pass(fixture, Precision.FP32)
    with tempfile.TemporaryDirectory() as calibration:
        request = QuantizeRequest(data=quick_pairs(Path(calibration)), limits=LIMITS)
        for precision in derived:
            quantize(fixture.artifact, RECIPES[precision](), request, progress=quiet)
            _store_pass(fixture, precision)
    return fixture


def write_data(folder: Path, pairs: int = PAIRS) -> None:
    """Write some images of the evaluation set with captions, and labels; the first image is a photo on its side."""
    folder.mkdir(parents=True)
    rows = [json.loads(line) for line in (EVAL / "captions.jsonl").read_text("utf-8").splitlines()[-pairs:]]
    for row in rows[1:]:
        shutil.copy(EVAL / row["image"], folder)
    rows[0] = {**rows[0], "image": _write_photo(EVAL / rows[0]["image"], folder)}
    write_captions(folder, rows)
    labels = [row["text"] for row in rows] + (EVAL / "labels.txt").read_text("utf-8").splitlines()[:_LABELS]
    (folder / "labels.txt").write_text("\n".join(labels), "utf-8")


def _write_photo(source: Path, folder: Path) -> str:
    """Write a JPEG several times the model's input size, with EXIF orientation as cameras set it; return its name."""
    exif = Image.Exif()
    exif.update(_EXIF)
    name = f"{source.stem}.jpg"
    with Image.open(source) as image:
        large = image.convert("RGB").resize((400, 300))
    large.save(folder / name, exif=exif, quality=95)
    return name


def _store_pass(fixture: FaultFixture, precision: Precision) -> None:
    """Validate a variant, which must pass, and store its report."""
    report = validate_artifact(fixture.artifact, fixture.data, precision=precision, cache=fixture.cache)
    report.require_pass()
    store_report(fixture.artifact, report)
