"""Runs transformers' SiglipModel on a checkpoint; uses any environment with transformers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import AutoTokenizer, SiglipModel

Json = dict[str, Any]


@torch.inference_mode()
def main(job: Json) -> Json:
    """Pixels, token ids, embeddings and logits."""
    model = SiglipModel.from_pretrained(job["checkpoint"]).eval()
    pixels, ids = tensor(job["pixels"], np.float32), tensor(job["ids"], np.int64)
    joint = model(input_ids=ids, pixel_values=pixels)
    return {
        "version": transformers.__version__,
        "images": model.vision_model(pixel_values=pixels).pooler_output.tolist(),
        "texts": model.text_model(input_ids=ids).pooler_output.tolist(),
        "joint_images": joint.image_embeds.tolist(),
        "joint_texts": joint.text_embeds.tolist(),
        "logits": joint.logits_per_image.tolist(),
        "pixels": images(job).tolist(),
        "tokens": tokens(job),
    }


def images(job: Json) -> torch.Tensor:
    """Pixels from its own image processor for Pillow, which has another name in transformers 5."""
    processor_class = getattr(transformers, "SiglipImageProcessorPil", None) or transformers.SiglipImageProcessor
    processor = processor_class.from_pretrained(job["checkpoint"])
    opened = [Image.open(path) for path in job["images"]]
    return processor(opened, return_tensors="pt").pixel_values


def tokens(job: Json) -> list[list[int]]:
    """Token ids from its own tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(job["checkpoint"])
    length = job["ids"]["shape"][1]
    return tokenizer(job["tokenizer_texts"], padding="max_length", truncation=True, max_length=length).input_ids


def tensor(raw: Json, dtype: type[np.generic]) -> torch.Tensor:
    """Read a tensor of the job."""
    return torch.from_numpy(np.fromfile(raw["file"], dtype).reshape(raw["shape"]))


if __name__ == "__main__":
    print("\n" + json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
