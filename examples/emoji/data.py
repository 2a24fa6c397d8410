"""Emoji image-text pairs: reading, building a vocabulary, distorting drawings."""

from __future__ import annotations

import io
import json
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece as spm
import torch
import torch.nn.functional as F
from PIL import Image

HERE = Path(__file__).parent
PAIRS = HERE / "emoji_pairs.zip"
TRAINED_STYLES = ("noto", "fluent3d")
HELD_OUT_STYLE = "twemoji"
IMAGE_SIZE = 64
VOCAB_SIZE = 2000


@dataclass(frozen=True)
class Concept:
    """One emoji: its code points, its unique label, related emoji, and all texts that describe it (label first)."""

    id: str
    label: str
    subcategory: str
    texts: tuple[str, ...]


def load_concepts() -> list[Concept]:
    with zipfile.ZipFile(PAIRS) as pairs:
        lines = pairs.read("emoji_pairs/captions.jsonl").decode().splitlines()
    rows = [json.loads(line) for line in lines]
    labels = {row["label"].lower() for row in rows}
    return [
        Concept(
            row["id"],
            row["label"],
            row["subcategory"],
            # another concept's label does not describe this one: the label of a cat face must not be "cat"
            (row["label"].lower(), *sorted(set(row["texts"]) - labels)),
        )
        for row in rows
    ]


def load_drawings(concepts: list[Concept], style: str) -> torch.Tensor:
    """All drawings of one style, uint8 [concept, 3, 64, 64]."""
    with zipfile.ZipFile(PAIRS) as pairs:
        images = [Image.open(io.BytesIO(pairs.read(f"emoji_pairs/{style}/{c.id}.webp"))) for c in concepts]
    return torch.stack([torch.from_numpy(np.array(i.convert("RGB"))).permute(2, 0, 1) for i in images])


def train_vocabulary(texts: list[str], prefix: Path) -> None:
    """A unigram vocabulary with SigLIP's special ids (pad 0, eos 1, unk 2) and byte fallback, as `prefix`.model."""
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(prefix),
        model_type="unigram",
        vocab_size=VOCAB_SIZE,
        byte_fallback=True,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        pad_piece="<pad>",
        hard_vocab_limit=True,
        minloglevel=1,
    )


@dataclass(frozen=True)
class Distortion:
    """Limits of random distortion; each amount is drawn uniformly from [-x, x]."""

    shift: float = 0.14  # of the image's width
    scale: float = 0.25  # in log2 units
    rotate: float = 0.22  # radians
    shear: float = 0.15
    tint: float = 0.25  # gain of each color channel
    hue: float = 0.35  # radians around the gray axis
    saturation: float = 0.5
    contrast: float = 0.35
    blur: float = 0.25  # share of the drawings that lose half of their resolution
    noise: float = 0.04  # standard deviation, on the [0, 1] scale


# Strong at first, so that the model does not memorize a drawing style, then closer to the evaluation's distortions.
EARLY = Distortion()
LATE = Distortion(rotate=0.15, shear=0.1, hue=0.2, saturation=0.35, contrast=0.25, blur=0.15, noise=0.03)
# The evaluation's distortions: shift, scale and tint only.
EVALUATION = Distortion(rotate=0.0, shear=0.0, hue=0.0, saturation=0.0, contrast=0.0, blur=0.0, noise=0.0)


def distort(images: torch.Tensor, how: Distortion, rng: torch.Generator) -> torch.Tensor:
    """Distort float32 [batch, 3, S, S] in [0, 1] on white; the result has the same shape, range and background."""

    def uniform(*shape: int, to: float) -> torch.Tensor:
        return (torch.rand(*shape, generator=rng) * 2 - 1) * to

    n = len(images)
    ink = 1 - images  # white becomes zero, the padding value of grid_sample
    ink = F.grid_sample(ink, _affine(n, how, uniform, images.shape), padding_mode="zeros", align_corners=False)
    if how.blur:
        chosen = torch.rand(n, generator=rng) < how.blur
        small = F.avg_pool2d(ink[chosen], 2)
        ink[chosen] = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
    colors = 1 - torch.einsum("nij,njhw->nihw", _recolor(n, how, uniform), ink)
    contrast = torch.exp(uniform(n, 1, 1, 1, to=how.contrast)) if how.contrast else 1.0
    colors = 0.5 + (colors - 0.5) * contrast
    if how.noise:
        level = torch.rand(n, 1, 1, 1, generator=rng) * how.noise
        colors = colors + torch.randn(colors.shape, generator=rng) * level
    return colors.clamp(0, 1)


def _affine(n, how, uniform, shape):  # type: ignore[no-untyped-def]
    angle, zoom = uniform(n, to=how.rotate), torch.exp2(uniform(n, to=how.scale))
    shear, dx, dy = uniform(n, to=how.shear), uniform(n, to=2 * how.shift), uniform(n, to=2 * how.shift)
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    theta = torch.stack([cos, shear - sin, dx, sin, cos, dy], 1).view(n, 2, 3)
    return F.affine_grid(theta, list(shape), align_corners=False)


def _recolor(n, how, uniform):  # type: ignore[no-untyped-def]
    """Per-drawing 3x3 color matrices: a rotation around the gray axis, desaturation, and a gain per channel."""
    angle = uniform(n, to=how.hue)[:, None, None]
    gray = torch.full((3, 3), 1 / 3)
    cross = torch.tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turn = torch.cos(angle) * torch.eye(3) + torch.sin(angle) * cross + (1 - torch.cos(angle)) * gray
    pull = uniform(n, to=how.saturation)[:, None, None]
    turn = turn * (1 + pull) - pull * gray
    return turn * (1 + uniform(n, to=how.tint)[:, None, None] / 3 + uniform(n, 3, 1, to=how.tint))
