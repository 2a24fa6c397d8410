"""A folder in which the commands and examples of the docs run: every name that a page uses, with small real files.

A page may say `siglip-large`, `photos/` or a hub id; here they are the bundled emoji model and drawings. For a new name
in a page, add a row to one of these tables.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Final

from siglip_onnx.exporter.layouts import Layout, write_layout
from siglip_onnx.runtime.artifact.contract import Precision

from ..conftest import CHECKPOINT, EVAL
from ..layers import ROOT

# Folders with a checkpoint: local ones, and hub ids, which name a folder if there is one of that name.
CHECKPOINTS: Final = (
    "CHECKPOINT",
    "build/large",
    "checkpoint",
    "path/to/siglip-large-patch16-384",
    "google/siglip-base-patch16-224",
    "google/siglip-large-patch16-384",
)
# Artifacts with a PASS for fp32, and with variants.
ARTIFACTS: Final = (
    "siglip-large",
    "my-model",
    "emoji",
    "build/large-artifact",
    "build/demo/emoji",
)
VARIANTS: Final = (Precision.INT8, Precision.BF16, Precision.FP16)
# Models in other tools' folders.
TRANSFORMERS_JS: Final = "Xenova/siglip-base-patch16-224"
OPTIMUM: Final = "exported-by-optimum"
# Folders of images with captions.
PAIRS: Final = ("my-images", "pairs", "PAIRS")
# Files that commands read; what they hold is written by `_write_tables`.
IMAGES: Final = ("cat.jpg", "dog.jpg", "photos/cat.jpg", "photos/dog.jpg", "photos/beach.jpg")
LABELS: Final = "a cat\na dog\na beach\n"
CAPTION: Final = "a drawing of an animal"
COUNT: Final = 12  # pairs


def make_workspace(folder: Path, artifact: Path) -> Path:
    """Fill a folder; `artifact` has a PASS for fp32 and the variants of `VARIANTS`."""
    for name in CHECKPOINTS:
        shutil.copytree(CHECKPOINT, folder / name)
    for name in ARTIFACTS:
        shutil.copytree(artifact, folder / name)
    shutil.copytree(artifact, folder / TRANSFORMERS_JS, ignore=shutil.ignore_patterns("siglip.json", "reports"))
    write_layout(folder / ARTIFACTS[0], folder / OPTIMUM, Layout.OPTIMUM, copy=True)
    for name in PAIRS:
        copy_pairs(folder / name)
    _copy_images(folder)
    _write_tables(folder)
    (folder / "examples").symlink_to(ROOT / "examples")
    return folder


def _drawings() -> list[Path]:
    return sorted(EVAL.glob("distorted-noto-*.webp"))


def copy_pairs(folder: Path) -> Path:
    """Write the first pairs of the bundled evaluation set into a new folder."""
    folder.mkdir(parents=True)
    lines = (EVAL / "captions.jsonl").read_text().splitlines()[:COUNT]
    for line in lines:
        shutil.copy(EVAL / json.loads(line)["image"], folder)
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder


def _copy_images(folder: Path) -> None:
    from PIL import Image

    for name, drawing in zip(IMAGES, _drawings(), strict=False):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.open(drawing).convert("RGB").save(folder / name)
    for kind in ("cat", "dog"):
        (folder / "animals" / kind).mkdir(parents=True)
        for number, drawing in enumerate(_drawings()[:5]):
            Image.open(drawing).convert("RGB").save(folder / "animals" / kind / f"{number}.jpg")


def _write_tables(folder: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    (folder / "labels.txt").write_text(LABELS)
    rows = [f"{name},{CAPTION} {number}" for number, name in enumerate(IMAGES)]
    for name, header in {"pairs.csv": "image,alt", "eval.csv": "image,caption"}.items():
        (folder / name).write_text("\n".join([header, *rows]))
    (folder / "products.csv").write_text("title,price\na red apple,1\na green pear,2\n")
    (folder / "limits.toml").write_text("[default]\nmargin = 0.25\n")
    (folder / "data").mkdir()
    table = {"image": [(folder / name).read_bytes() for name in IMAGES], "caption": [row[-30:] for row in rows]}
    parquet.write_table(pyarrow.table(table), folder / "data" / "test-00000-of-00001.parquet")
    (folder / "shards").mkdir()
    with tarfile.open(folder / "shards" / "00000.tar", "w") as shard:
        for number, name in enumerate(IMAGES):
            text = folder / "shards" / f"{number}.txt"
            text.write_text(f"{CAPTION} {number}")
            shard.add(folder / name, f"{number}.jpg")
            shard.add(text, f"{number}.txt")
            text.unlink()
