"""Write the small evaluation set in eval/: 128 distorted drawings of the trained styles, 128 of the held-out one.

    python examples/emoji/make_eval.py

Each of the 256 images shows another concept; labels.txt has all 1,852 labels to choose among.
"""

from __future__ import annotations

import json
import shutil

import torch
from data import EVALUATION, HELD_OUT_STYLE, HERE, TRAINED_STYLES, distort, load_concepts, load_drawings
from PIL import Image

EACH = 128
SEED = 7


def main() -> None:
    folder = HERE / "eval"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    concepts = load_concepts()
    rng = torch.Generator().manual_seed(SEED)
    chosen = torch.randperm(len(concepts), generator=rng)[: 2 * EACH]
    trained = [load_drawings(concepts, style).float() / 255 for style in TRAINED_STYLES]
    held_out = load_drawings(concepts, HELD_OUT_STYLE)
    rows = []
    for place, index in enumerate(chosen.tolist()):
        concept = concepts[index]
        if place < EACH:
            style = TRAINED_STYLES[place % 2]
            image = distort(trained[place % 2][index : index + 1], EVALUATION, rng)[0].mul(255).round().byte()
        else:
            style, image = HELD_OUT_STYLE, held_out[index]
        name = f"{'distorted' if place < EACH else 'held-out'}-{style}-{concept.id}.webp"
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / name, lossless=True, method=6)
        rows.append(json.dumps({"image": name, "text": concept.label}, ensure_ascii=False))
    (folder / "captions.jsonl").write_text("\n".join(rows) + "\n", "utf-8")
    (folder / "labels.txt").write_text("\n".join(c.label for c in concepts) + "\n", "utf-8")


if __name__ == "__main__":
    main()
