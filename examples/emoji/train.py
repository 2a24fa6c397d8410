"""Train a small SigLIP on emoji drawings and write it as a Hugging Face checkpoint folder.

    python examples/emoji/train.py OUTPUT [--steps 4200]

Two drawing styles are learned, the third (`data.HELD_OUT_STYLE`) is never seen. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import sentencepiece as spm
import torch
import torch.nn.functional as F
from data import (
    EARLY,
    IMAGE_SIZE,
    LATE,
    TRAINED_STYLES,
    VOCAB_SIZE,
    Concept,
    Distortion,
    distort,
    load_concepts,
    load_drawings,
    train_vocabulary,
)
from transformers import SiglipConfig, SiglipModel

TEXT_LENGTH = 64
EOS = 1
ATTENTION = "eager"  # with few patches faster on a CPU than the fused kernels, forward and backward
TEMPLATES = ("{}", "an emoji of {}", "an image of {}", "this is a photo of {}", "a drawing of {}", "{} icon")
CONFIG = {
    "text_config": {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "vocab_size": VOCAB_SIZE,
        "projection_size": 192,
    },
    "vision_config": {
        "hidden_size": 192,
        "intermediate_size": 576,
        "num_hidden_layers": 6,
        "num_attention_heads": 3,
        "image_size": IMAGE_SIZE,
        "patch_size": 8,
    },
}


def canonical(text: str) -> str:
    """SigLIP's canonical text: lower case, no ASCII punctuation, single spaces (big_vision, `canonicalize_text`)."""
    kept = "".join(c for c in text.lower() if c.isalnum() or c.isspace() or ord(c) > 127)
    return " ".join(kept.split())


class Texts:
    """Samples a description for each concept, and knows all concepts that a description applies to."""

    def __init__(self, concepts: list[Concept], vocabulary: spm.SentencePieceProcessor, seed: int = 0):
        self.concepts, self.vocabulary, self.rng = concepts, vocabulary, random.Random(seed)
        self.known = [frozenset(c.texts) for c in concepts]

    def draw(self, chosen: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """(ids int64 [n, 64], truth bool [n, n]: whether text j applies to concept i)."""
        facts = [self._facts(self.concepts[i].texts) for i in chosen]
        truth = torch.tensor([[f <= self.known[i] for f in facts] for i in chosen])
        texts = [self.rng.choice(TEMPLATES).format(", ".join(self.rng.sample(sorted(f), len(f)))) for f in facts]
        return self.encode(texts), truth

    def _facts(self, texts: tuple[str, ...]) -> frozenset[str]:
        if self.rng.random() < 0.7:
            return frozenset(texts[:1])
        return frozenset(self.rng.sample(texts, min(len(texts), self.rng.choice((1, 1, 2, 3)))))

    def encode(self, texts: list[str]) -> torch.Tensor:
        ids = [self.vocabulary.encode(canonical(t))[: TEXT_LENGTH - 1] for t in texts]
        return torch.tensor([row + [EOS] * (TEXT_LENGTH - len(row)) for row in ids])


def image_embeddings(model: SiglipModel, pixels: torch.Tensor, keep: float) -> torch.Tensor:
    """The vision tower on a random share of the patches (FLIP, arXiv:2212.00794): half the compute, regularizing."""
    tower = model.vision_model
    patches = tower.embeddings(pixels)
    if keep < 1:
        order = torch.rand(patches.shape[:2]).argsort(1)[:, : int(patches.shape[1] * keep)]
        patches = patches.gather(1, order[..., None].expand(-1, -1, patches.shape[2]))
    hidden = tower.encoder(inputs_embeds=patches).last_hidden_state
    return F.normalize(tower.head(tower.post_layernorm(hidden)).float(), dim=-1)


def sigmoid_loss(model: SiglipModel, images: torch.Tensor, texts: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """The pairwise sigmoid loss, summed over the texts and averaged over the images (arXiv:2303.15343, algorithm 1)."""
    logits = images @ texts.T * model.logit_scale.exp() + model.logit_bias
    return -F.logsigmoid(logits * (truth.float() * 2 - 1)).sum(1).mean()


def optimizers(model: SiglipModel, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the layers' matrices, AdamW for everything else (embeddings, norms, biases, probe).

    The logit scale and bias learn ten times as fast: in so short a training they have far to go.
    """
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and ".layers." in n]
    logit = [model.logit_scale, model.logit_bias]
    apart = {id(p) for p in matrices + logit}
    rest = [p for p in model.parameters() if id(p) not in apart]
    groups = [{"params": rest, "rate": lr}, {"params": logit, "rate": 10 * lr, "weight_decay": 0.0}]
    return [
        torch.optim.Muon(
            [{"params": matrices, "rate": lr}], weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.02),
    ]


def pixel_batch(styles: torch.Tensor, chosen: torch.Tensor, how: Distortion, rng: torch.Generator) -> torch.Tensor:
    """Two images of each chosen concept: random blends of its drawings (mostly one drawing), distorted, in [-1, 1]."""
    n = len(chosen)
    blend = torch.rand(2 * n, generator=rng)
    blend = torch.where(torch.rand(2 * n, generator=rng) < 0.7, (torch.arange(2 * n) >= n).float(), blend)
    blend = blend[:, None, None, None]
    first, second = (styles[s][chosen].repeat(2, 1, 1, 1).float() / 255 for s in (0, 1))
    return distort(first * (1 - blend) + second * blend, how, rng) * 2 - 1


def schedule(progress: float) -> float:
    """Learning-rate factor at `progress` in [0, 1]: short warm-up, flat, then down to zero over the last 60 %."""
    if progress < 0.02:
        return progress / 0.02
    return 1.0 if progress < 0.4 else (1 + math.cos(math.pi * (progress - 0.4) / 0.6)) / 2


def epoch(concepts: list[Concept], kin: int, rng: torch.Generator) -> list[int]:
    """All concepts, in groups of `kin` from the same subcategory: flags are learned by contrast with other flags."""
    order = torch.randperm(len(concepts), generator=rng).tolist()
    order.sort(key=lambda i: concepts[i].subcategory)  # a stable sort: groups stay shuffled inside a subcategory
    groups = [order[at : at + kin] for at in range(0, len(order), kin)]
    return [i for group in torch.randperm(len(groups), generator=rng).tolist() for i in groups[group]]


@dataclass(frozen=True)
class Stage:
    """Settings of one part of the training, up to the share `until` of its steps."""

    until: float
    distortion: Distortion
    kin: int
    keep: float


STAGES = (
    Stage(until=1 / 3, distortion=EARLY, kin=1, keep=0.5),
    Stage(until=0.9, distortion=LATE, kin=8, keep=0.5),
    Stage(until=1.0, distortion=LATE, kin=8, keep=1.0),  # whole images at the end, as in inference
)


class Trainer:
    """State of the training: model, optimizers, and position in the data."""

    def __init__(self, output: Path, batch: int, lr: float, seed: int, resume: bool):
        torch.manual_seed(seed)
        self.rng, self.batch, self.output = torch.Generator().manual_seed(seed), batch, output
        self.concepts = load_concepts()
        if not resume:
            output.mkdir(parents=True, exist_ok=True)
            texts = [canonical(t) for c in self.concepts for t in (*c.texts, *TEMPLATES)]
            train_vocabulary(texts, output / "spiece")
            write_processor_files(output)
        vocabulary = spm.SentencePieceProcessor(model_file=str(output / "spiece.model"))
        self.texts = Texts(self.concepts, vocabulary, seed)
        self.styles = torch.stack([load_drawings(self.concepts, style) for style in TRAINED_STYLES])
        self.model = self._resumed() if resume else new_model()
        self.optimizers = optimizers(self.model, lr)
        self.order: list[int] = []

    def _resumed(self) -> SiglipModel:
        return SiglipModel.from_pretrained(self.output, dtype=torch.float32, attn_implementation=ATTENTION).train()

    def step(self, progress: float) -> float:
        """One step at `progress` in [0, 1]; the loss."""
        stage = next(s for s in STAGES if progress <= s.until)
        self._set_rate(schedule(progress))
        if len(self.order) < self.batch:
            self.order += epoch(self.concepts, stage.kin, self.rng)
        chosen, self.order = self.order[: self.batch], self.order[self.batch :]
        ids, truth = self.texts.draw(chosen)
        pixels = pixel_batch(self.styles, torch.tensor(chosen), stage.distortion, self.rng)
        with torch.autocast("cpu", torch.bfloat16):
            image = image_embeddings(self.model, pixels, stage.keep)
            text = F.normalize(self.model.text_model(input_ids=ids).pooler_output.float(), dim=-1)
        loss = sigmoid_loss(self.model, image, text, truth.repeat(2, 1))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return loss.item()

    def _set_rate(self, factor: float) -> None:
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * factor


def write_processor_files(folder: Path) -> None:
    """Tokenizer and preprocessor configuration, with the entries of a published SigLIP checkpoint."""
    piece = {"lstrip": True, "normalized": False, "rstrip": True, "single_word": False}
    special = {name: {"content": "</s>", **piece} for name in ("eos_token", "pad_token")}
    special["unk_token"] = {"content": "<unk>", **piece}
    added = {"1": {"content": "</s>", **piece, "special": True}, "2": {"content": "<unk>", **piece, "special": True}}
    files = {
        "special_tokens_map.json": special,
        "tokenizer_config.json": {
            "added_tokens_decoder": added,
            "do_lower_case": True,
            "eos_token": "</s>",
            "model_input_names": ["input_ids"],
            "model_max_length": TEXT_LENGTH,
            "pad_token": "</s>",
            "processor_class": "SiglipProcessor",
            "tokenizer_class": "SiglipTokenizer",
            "unk_token": "<unk>",
        },
        "preprocessor_config.json": {
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_processor_type": "SiglipImageProcessor",
            "image_std": [0.5, 0.5, 0.5],
            "processor_class": "SiglipProcessor",
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        },
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def new_model() -> SiglipModel:
    model = SiglipModel(SiglipConfig(**CONFIG, attn_implementation=ATTENTION)).train()
    torch.nn.init.constant_(model.logit_scale, math.log(10))  # arXiv:2303.15343, section 3.2
    torch.nn.init.constant_(model.logit_bias, -10)
    return model


def train(trainer: Trainer, steps: int, start: int) -> None:
    started = time.monotonic()
    with (trainer.output / "train.log").open("a" if start else "w") as log:
        for step in range(start, steps):
            loss = trainer.step(step / steps)
            if step % 20 == 0 or step == steps - 1:
                line = {"step": step, "loss": round(loss, 4), "seconds": round(time.monotonic() - started)}
                print(json.dumps(line), file=log, flush=True)
            if step % 500 == 499 or step == steps - 1:
                trainer.model.save_pretrained(trainer.output)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--steps", type=int, default=4200)
    parser.add_argument("--batch", type=int, default=160, help="concepts a step; two drawings of each")
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="go on from this step with the weights in OUTPUT")
    args = parser.parse_args()
    train(Trainer(args.output, args.batch, args.lr, args.seed, args.start > 0), args.steps, args.start)


if __name__ == "__main__":
    main()
