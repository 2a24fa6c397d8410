"""Evaluate a checkpoint on emoji: zero-shot top-1 and top-5 among 1,852 labels, and retrieval in both directions.

    python examples/emoji/evaluate.py CHECKPOINT

`distorted`: drawings of the trained styles with new shifts, scales and tints. `held out`: the style that is not in the
training data. Labels with the same canonical text (the keycaps # and *) count as one.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import sentencepiece as spm
import torch
import torch.nn.functional as F
from data import EVALUATION, HELD_OUT_STYLE, TRAINED_STYLES, Concept, distort, load_concepts, load_drawings
from train import Texts, canonical
from transformers import SiglipModel

SEED = 20240


@torch.no_grad()
def embed_images(model: SiglipModel, images: torch.Tensor) -> torch.Tensor:
    """Normalized embeddings [n, width] of float32 [n, 3, 64, 64] in [0, 1]."""
    parts = [model.vision_model(part * 2 - 1).pooler_output for part in images.split(256)]
    return F.normalize(torch.cat(parts), dim=-1)


@torch.no_grad()
def embed_texts(model: SiglipModel, ids: torch.Tensor) -> torch.Tensor:
    parts = [model.text_model(part).pooler_output for part in ids.split(256)]
    return F.normalize(torch.cat(parts), dim=-1)


def scores(images: torch.Tensor, texts: torch.Tensor, labels: list[str]) -> dict[str, float]:
    """Top-1 and top-5 accuracy of images among labels, and recall of images for labels."""
    same = torch.tensor([[a == b for b in labels] for a in labels])
    cosines = images @ texts.T
    found: dict[str, float] = {}
    for name, table in (("image_to_text", cosines), ("text_to_image", cosines.T)):
        for k in (1, 5):
            best = table.topk(k, dim=1).indices
            found[f"{name}_R@{k}"] = same.gather(1, best).any(1).float().mean().item()
    return {key: round(value, 4) for key, value in found.items()}


def evaluate(checkpoint: Path, concepts: list[Concept]) -> dict[str, dict[str, float]]:
    model = SiglipModel.from_pretrained(checkpoint, dtype=torch.float32).eval()
    vocabulary = spm.SentencePieceProcessor(model_file=str(checkpoint / "spiece.model"))
    labels = [canonical(c.label) for c in concepts]
    texts = embed_texts(model, Texts(concepts, vocabulary).encode(labels))
    rng = torch.Generator().manual_seed(SEED)
    results = {}
    for style in (*TRAINED_STYLES, HELD_OUT_STYLE):
        drawings = load_drawings(concepts, style).float() / 255
        if style != HELD_OUT_STYLE:
            drawings = distort(drawings, EVALUATION, rng)
        kind = "held out" if style == HELD_OUT_STYLE else "distorted"
        results[f"{style} ({kind})"] = scores(embed_images(model, drawings), texts, labels)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    print(json.dumps(evaluate(parser.parse_args().checkpoint, load_concepts()), indent=2))


if __name__ == "__main__":
    main()
