"""Small random checkpoints with the features of each published SigLIP model, written by transformers."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Siglip2Config, Siglip2Model, SiglipConfig, SiglipModel

from ..conftest import CHECKPOINT, EVAL

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
PIECES = 1000  # size of the small Gemma vocabulary
SPECIALS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>")  # in the order of Gemma's ids

Sizes = dict[str, Any]
BASE: Sizes = {}
LARGE: Sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16}
SO400M: Sizes = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
GIANT: Sizes = {"hidden_size": 1536, "intermediate_size": 6144, "num_hidden_layers": 40, "num_attention_heads": 16}


@dataclass(frozen=True)
class FamilyMember:
    """A published model, and a small model with its features.

    Attributes:
        vision: The published vision config, without transformers' defaults.
        text: The published text config, without transformers' defaults.
        small_vision: Sizes of the small model's vision tower.
        small_text: Sizes of the small model's text tower.
        parameters: The published number of parameters, if known.
        gemma: Whether it has SigLIP 2's Gemma vocabulary.
        naflex: Whether it is a NaFlex model.
    """

    vision: Sizes
    text: Sizes
    small_vision: Sizes = field(default_factory=dict)
    small_text: Sizes = field(default_factory=dict)
    parameters: int | None = None
    gemma: bool = False
    naflex: bool = False


MEMBERS = {
    "siglip-base-patch16-224": FamilyMember(BASE, BASE, {"image_size": 64, "patch_size": 16}, parameters=203_155_970),
    "siglip-base-patch16-512": FamilyMember({"image_size": 512}, BASE, {"image_size": 96, "patch_size": 16}),
    "siglip-base-patch16-256-multilingual": FamilyMember(
        {"image_size": 256}, {"vocab_size": 250_000}, {"image_size": 64, "patch_size": 16}
    ),
    "siglip-large-patch16-384": FamilyMember(
        {**LARGE, "image_size": 384}, LARGE, {"image_size": 96, "patch_size": 16}, parameters=652_478_466
    ),
    "siglip-so400m-patch14-384": FamilyMember(
        {**SO400M, "image_size": 384, "patch_size": 14},
        SO400M,
        {"image_size": 64, "patch_size": 14, "hidden_size": 36},  # 8 pixels fill no patch, like 6 of 384
        {"hidden_size": 36},
    ),
    "siglip2-base-patch16-224": FamilyMember(
        BASE, {"vocab_size": 256_000}, {"image_size": 64, "patch_size": 16}, gemma=True, parameters=375_187_970
    ),
    "siglip2-giant-opt-patch16-384": FamilyMember(
        {**GIANT, "image_size": 384},
        {**SO400M, "vocab_size": 256_000, "projection_size": 1536},
        {"image_size": 64, "patch_size": 16, "hidden_size": 48, "num_attention_heads": 4},
        {"projection_size": 48},
        gemma=True,
    ),
    "siglip2-base-patch16-naflex": FamilyMember(
        {"num_patches": 256}, {"vocab_size": 256_000}, {"num_patches": 36, "patch_size": 16}, gemma=True, naflex=True
    ),
}


def small(member: FamilyMember, folder: Path) -> Path:
    """Write a random checkpoint with the features of a published one; all parameters are random, so none is 0 or 1."""
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    vision = {**SMALL, **member.small_vision}
    text = {**SMALL, "vocab_size": PIECES if member.gemma else 2000, **member.small_text}
    if member.naflex:
        model: torch.nn.Module = Siglip2Model(Siglip2Config(vision_config=vision, text_config=text))
        processor: dict[str, Any] = {"image_processor_type": "Siglip2ImageProcessor", "patch_size": 16}
        processor |= {"max_num_patches": 50, "resample": 2}
    else:
        model = SiglipModel(SiglipConfig(vision_config=vision, text_config=text))
        size = {"height": vision["image_size"], "width": vision["image_size"]}
        processor = {"image_processor_type": "SiglipImageProcessor", "size": size}
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)  # type: ignore[operator]
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    if member.gemma:
        write_gemma(folder)
    else:
        for name in ("spiece.model", "tokenizer_config.json"):
            shutil.copy(CHECKPOINT / name, folder / name)
    return folder


def write_gemma(folder: Path) -> None:
    """Write a small vocabulary of Gemma's kind: byte-pair encoding with byte fallback, words marked by ▁."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))  # noqa: S106
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    octets = [f"<0x{octet:02X}>" for octet in range(256)]
    trainer = trainers.BpeTrainer(vocab_size=PIECES, special_tokens=[*SPECIALS, *octets], show_progress=False)
    lines = (EVAL / "captions.jsonl").read_text("utf-8").splitlines()
    tokenizer.train_from_iterator([json.loads(line)["text"] for line in lines], trainer)
    content = json.loads(tokenizer.to_str())
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] in SPECIALS]
    content["post_processor"] = _append_eos()
    (folder / "tokenizer.json").write_text(json.dumps(content))
    config = {name: f"<{name.removesuffix('_token')}>" for name in ("pad_token", "eos_token", "bos_token", "unk_token")}
    config |= {"tokenizer_class": "GemmaTokenizer", "padding_side": "right", "model_max_length": 10**30}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _append_eos() -> dict[str, Any]:
    """Post-processor of `add_eos_token`."""
    first, second = ({"Sequence": {"id": name, "type_id": 0}} for name in "AB")
    end = {"SpecialToken": {"id": "<eos>", "type_id": 0}}
    tokens = {"<eos>": {"id": "<eos>", "ids": [1], "tokens": ["<eos>"]}}
    return {
        "type": "TemplateProcessing",
        "single": [first, end],
        "pair": [first, end, second, end],
        "special_tokens": tokens,
    }
