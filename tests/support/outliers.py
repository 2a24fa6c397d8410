"""Changes to a checkpoint that keep its outputs but make it hard to quantize, like large trained towers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

Weights = dict[str, NDArray[np.float32]]


def rescale_norms(checkpoint: Path, channels: int = 4, seed: int = 0) -> None:
    """Multiply channels of each LayerNorm by 30 to 300, and divide the next weights by the same factors."""
    rng = np.random.default_rng(seed)
    weights = load_file(checkpoint / "model.safetensors")
    for norm, following in _norms(weights).items():
        chosen = rng.choice(len(weights[f"{norm}.weight"]), channels, replace=False)
        factors = rng.uniform(30, 300, channels).astype(np.float32)
        for name in (f"{norm}.weight", f"{norm}.bias"):
            weights[name][chosen] *= factors
        for name in following:
            weights[name][:, chosen] /= factors
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})


def rescale_values(checkpoint: Path, factor: float, channels: int = 2) -> None:
    """Multiply channels of each layer's attention values, and divide the output projection by the same factor."""
    weights = load_file(checkpoint / "model.safetensors")
    for name in [name for name in weights if name.endswith("self_attn.v_proj.weight")]:
        attention = name.removesuffix("v_proj.weight")
        weights[name][:channels] *= factor
        weights[f"{attention}v_proj.bias"][:channels] *= factor
        weights[f"{attention}out_proj.weight"][:, :channels] /= factor
    save_file(weights, checkpoint / "model.safetensors", {"format": "pt"})


def _norms(weights: Weights) -> dict[str, list[str]]:
    """Each LayerNorm inside the layers, with the matrices that it feeds."""
    norms = {}
    for name in weights:
        layer, norm, _ = name.rpartition(".layer_norm")
        if norm and name.endswith("1.weight"):
            norms[f"{layer}.layer_norm1"] = [f"{layer}.self_attn.{p}_proj.weight" for p in "qkv"]
        elif norm and name.endswith("2.weight"):
            norms[f"{layer}.layer_norm2"] = [f"{layer}.mlp.fc1.weight"]
    return norms
