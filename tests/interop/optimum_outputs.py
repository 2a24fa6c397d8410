"""Runs Optimum's ORTModelForZeroShotImageClassification; uses the environment `optimum`, without siglip-onnx."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from optimum.onnxruntime import ORTModelForZeroShotImageClassification
from transformers import AutoImageProcessor, AutoTokenizer, pipeline

Json = dict[str, Any]


def main(job: Json) -> Json:
    """Outputs or error message of each variant."""
    outputs: Json = {}
    for name, options in job["variants"].items():
        try:
            outputs[name] = run(job, options)
        except Exception as error:
            outputs[name] = {"error": f"{type(error).__name__}: {error}"}
    return {"version": importlib.metadata.version("optimum-onnx"), "variants": outputs}


def run(job: Json, options: Json) -> Json:
    """Embeddings and logits of prepared tensors, and a pipeline's scores of images and texts."""
    model = ORTModelForZeroShotImageClassification.from_pretrained(**options, local_files_only=True)
    output = model(input_ids=tensor(job["ids"], np.int64), pixel_values=tensor(job["pixels"], np.float32))
    folder = options["model_id"]
    classify = pipeline(
        "zero-shot-image-classification",
        model=model,
        tokenizer=AutoTokenizer.from_pretrained(folder),
        image_processor=AutoImageProcessor.from_pretrained(folder, use_fast=False),
    )
    labels = classify(job["images"], candidate_labels=job["texts"], hypothesis_template=job["template"])
    return {
        "images": output.image_embeds.tolist(),
        "texts": output.text_embeds.tolist(),
        "logits": output.logits_per_image.tolist(),
        "pipeline": [{label["label"]: label["score"] for label in image} for image in labels],
    }


def tensor(raw: Json, dtype: type[np.generic]) -> torch.Tensor:
    """Read a tensor of the job."""
    return torch.from_numpy(np.fromfile(raw["file"], dtype).reshape(raw["shape"]))


if __name__ == "__main__":
    print("\n" + json.dumps(main(json.loads(Path(sys.argv[1]).read_text()))))
