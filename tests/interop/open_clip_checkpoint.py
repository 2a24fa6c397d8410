"""Write a small SigLIP checkpoint as open_clip's push_to_hf_hub does, and open_clip's outputs for it.

    build/interop/open_clip/bin/python tests/interop/open_clip_checkpoint.py OUT [--family base|so400m]

OUT receives open_clip_model.safetensors, open_clip_config.json, spiece.model (the bundled model's) and expected.npz:

    pixel_values  float32 [3, 3, 64, 64]    image_embeds, text_embeds  float32 [rows, width], not normalized
    input_ids     int64 [4, 64]             image_embeds_normalized, text_embeds_normalized, logits_per_image

The configuration describes the vision tower only by the name of timm's architecture. A reader must derive the following
from that name; the values are those of timm's models:

    base     vit_base_patch16_siglip_…    heads of 64 channels, MLP 4 times as wide, exact GELU
    so400m   vit_so400m_patch16_siglip_…  heads of 72 channels, MLP 3.7362 times as wide, GELU's tanh approximation

The text tower's GELU is the tanh approximation if act_kwargs says so (as for SigLIP 2), else exact.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torchvision_operators  # noqa: F401 - must precede everything that imports torchvision

import numpy as np  # isort: skip
import open_clip
import sentencepiece
import timm
import torch
from open_clip.push_to_hf_hub import save_for_hf
from timm.models.vision_transformer import VisionTransformer

SPIECE: Final = Path(__file__).parents[2] / "examples" / "emoji" / "checkpoint" / "spiece.model"
TEXTS: Final = ("bear", "a red apple", "woman health worker", "a long text " * 40)
EOS: Final = 1  # end-of-text and padding id of SigLIP's vocabularies
SIZE: Final = 64
LENGTH: Final = 64
DEPTH: Final = 3
IMAGES: Final = 3


@dataclass(frozen=True)
class Family:
    """A family of timm's models, made small but with the same head width and activations."""

    name: str
    width: int
    heads: int
    mlp_ratio: float
    vision: dict[str, Any]
    text: dict[str, Any]


FAMILIES: Final = {
    "base": Family(f"vit_base_patch16_siglip_{SIZE}", 128, 2, 4.0, {}, {"act_kwargs": {"approximate": "tanh"}}),
    "so400m": Family(f"vit_so400m_patch16_siglip_{SIZE}", 144, 2, 3.7362, {"act_layer": "gelu_tanh"}, {}),
}


@dataclass(frozen=True)
class Spiece:
    """The part of a tokenizer that `save_for_hf` needs."""

    path: Path

    def save_pretrained(self, folder: Path) -> None:
        """Copy the vocabulary to the folder of the weights."""
        (folder / self.path.name).write_bytes(self.path.read_bytes())


def register(family: Family) -> None:
    """Register the small architecture with timm: the arguments of its own entry points except for the sizes."""

    def entry(pretrained: bool = False, **kwargs: Any) -> VisionTransformer:
        kwargs = {name: value for name, value in kwargs.items() if not name.startswith(("pretrained", "cache"))}
        sizes = {"img_size": SIZE, "patch_size": 16, "embed_dim": family.width, "depth": DEPTH}
        traits = {"num_heads": family.heads, "mlp_ratio": family.mlp_ratio, "class_token": False, **family.vision}
        return VisionTransformer(**{**sizes, **traits, **kwargs})

    entry.__name__ = family.name
    entry.__module__ = VisionTransformer.__module__
    timm.models.register_model(entry)


def configuration(family: Family, vocabulary: int) -> dict[str, Any]:
    """A configuration as in open_clip's ViT-B-16-SigLIP.json."""
    text = {
        "context_length": LENGTH,
        "vocab_size": vocabulary,
        "hf_tokenizer_name": "timm/ViT-B-16-SigLIP",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": family.width,
        "heads": family.heads,
        "layers": DEPTH,
        **({"mlp_ratio": family.mlp_ratio} if family.mlp_ratio != 4.0 else {}),
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
        **family.text,
    }
    vision = {
        "image_size": SIZE,
        "timm_model_name": family.name,
        "timm_model_pretrained": False,
        "timm_pool": "map",
        "timm_proj": "none",
    }
    return {
        "embed_dim": family.width,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": vision,
        "text_cfg": text,
    }


def build(name: str, config: dict[str, Any]) -> torch.nn.Module:
    """open_clip's model for a configuration, with SigLIP's preprocessing."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / f"{name}.json").write_text(json.dumps(config))
        open_clip.add_model_config(folder)
        half = (0.5, 0.5, 0.5)
        preprocessing = {"mean": half, "std": half, "interpolation": "bicubic", "resize_mode": "squash"}
        return open_clip.create_model(name, force_preprocess_cfg=preprocessing).eval()


def randomize(model: torch.nn.Module) -> None:
    """Give every parameter distinct values, so that swapped or missing ones change the outputs."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name in ("logit_scale", "logit_bias"):
            parameter.data += 0.1 * noise
        elif "norm" in name or ".ln_" in name or parameter.ndim < 2:
            parameter.data = (1.0 if name.endswith("weight") else 0.0) + 0.3 * noise
        else:
            # Large enough that attention is far from uniform and the two forms of GELU differ.
            fan_in = parameter[0].numel() if parameter.ndim == 4 else parameter.shape[-1]  # of patches, or of rows
            parameter.data = noise * 2 * fan_in**-0.5


def token_ids() -> torch.Tensor:
    """Token ids as from SigLIP's tokenizers: truncated, ended and padded with the end id; int64 [texts, LENGTH]."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(SPIECE))
    truncated = [[*processor.encode(text)[: LENGTH - 1], EOS] for text in TEXTS]
    return torch.tensor([ids + [EOS] * (LENGTH - len(ids)) for ids in truncated])


@torch.inference_mode()
def expected(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """Inputs, and open_clip's outputs for them."""
    pixels = torch.rand(IMAGES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    ids = token_ids()
    arrays = {
        "pixel_values": pixels,
        "input_ids": ids,
        "image_embeds": model.encode_image(pixels),
        "text_embeds": model.encode_text(ids),
        "image_embeds_normalized": model.encode_image(pixels, normalize=True),
        "text_embeds_normalized": model.encode_text(ids, normalize=True),
        "logits_per_image": model.get_logits(pixels, ids)[0],
        "logit_scale": model.logit_scale.exp(),
        "logit_bias": model.logit_bias,
    }
    return {name: tensor.numpy() for name, tensor in arrays.items()}


def main() -> None:
    """Write the folder."""
    parser = argparse.ArgumentParser(description="Write a small SigLIP checkpoint as open_clip does.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--family", choices=FAMILIES, default="base")
    options = parser.parse_args()
    family = FAMILIES[options.family]
    register(family)
    vocabulary = sentencepiece.SentencePieceProcessor(model_file=str(SPIECE)).vocab_size()
    name = f"siglip-onnx-{options.family}"
    model = build(name, configuration(family, vocabulary))
    randomize(model)
    config = open_clip.get_model_config(name)
    save_for_hf(model, Spiece(SPIECE), config, options.out, safe_serialization=True)
    np.savez(options.out / "expected.npz", **expected(model))


if __name__ == "__main__":
    main()
