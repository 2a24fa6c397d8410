"""One program under test: loads, says so, and then encodes what it is told, a line at a time. See runtime.py.

    PYTHON benchmarks/contender.py KIND FOLDER [PRECISION PROVIDER [HINT]]

A line `vision 8` is answered with the seconds that eight images took, `text 32` likewise, `pair 1 1` with those of a
image and a text; `peak` with the largest resident set so far, in MB.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

RNG = np.random.default_rng(0)
SIZE, LENGTH, VOCABULARY, THREADS = 384, 64, 32000, 2


def pixels(rows: int) -> Any:
    return RNG.uniform(-1, 1, (rows, 3, SIZE, SIZE)).astype(np.float32)


def ids(rows: int) -> Any:
    return RNG.integers(0, VOCABULARY, (rows, LENGTH))


class Ours:
    """siglip-onnx, with its own batches."""

    def __init__(
        self, folder: str, precision: str = "fp32", provider: str = "cpu", openvino_precision: str = ""
    ) -> None:
        from siglip_onnx.runtime import SessionOptions, Siglip
        from siglip_onnx.runtime.artifact.contract import Provider, Role
        from siglip_onnx.runtime.engines.options import OpenVinoPrecision
        from siglip_onnx.runtime.engines.providers import PROVIDERS

        options = SessionOptions(
            openvino_precision=OpenVinoPrecision(openvino_precision) if openvino_precision else None
        )
        self.model, self.roles = Siglip.load(folder, precision, provider, options=options), Role
        self.sizes = PROVIDERS[Provider(provider)].batch
        self.model.load_towers()

    def vision(self, rows: Any) -> Any:
        return self._run(self.roles.VISION, rows)

    def text(self, rows: Any) -> Any:
        return self._run(self.roles.TEXT, rows)

    def _run(self, role: Any, rows: Any) -> Any:
        size = self.sizes[role]
        batches = (rows[start : start + size] for start in range(0, len(rows), size))
        return np.concatenate(list(self.model.encode_batches(role, batches)))


class Torch:
    """transformers' SiglipModel."""

    def __init__(self, folder: str, precision: str = "fp32") -> None:
        import torch
        from transformers import SiglipModel

        torch.set_num_threads(THREADS)
        self.torch, self.dtype = torch, {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
        self.model = SiglipModel.from_pretrained(folder, dtype=self.dtype).eval()

    def vision(self, rows: Any) -> Any:
        with self.torch.inference_mode():
            tensor = self.torch.from_numpy(rows).to(self.dtype)
            return self.model.vision_model(pixel_values=tensor).pooler_output.float().numpy()

    def text(self, rows: Any) -> Any:
        with self.torch.inference_mode():
            return self.model.text_model(input_ids=self.torch.from_numpy(rows)).pooler_output.float().numpy()


class Optimum:
    """Optimum's export under its own class, which runs both towers at once."""

    def __init__(self, folder: str) -> None:
        from optimum.onnxruntime import ORTModelForZeroShotImageClassification

        self.model = ORTModelForZeroShotImageClassification.from_pretrained(folder)

    def pair(self, images: Any, texts: Any) -> Any:
        import torch

        return self.model(pixel_values=torch.from_numpy(images), input_ids=torch.from_numpy(texts)).logits_per_image


class Plain:
    """Two towers in ONNX Runtime as it is out of the box."""

    def __init__(self, folder: str, suffix: str = "") -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        import onnxruntime

        providers = ["CPUExecutionProvider"]
        self.sessions = [
            onnxruntime.InferenceSession(str(Path(folder) / f"{tower}_model{suffix}.onnx"), providers=providers)
            for tower in ("vision", "text")
        ]

    def vision(self, rows: Any) -> Any:
        return self.sessions[0].run(["pooler_output"], {"pixel_values": rows})[0]

    def text(self, rows: Any) -> Any:
        return self.sessions[1].run(["pooler_output"], {"input_ids": rows})[0]


KINDS = {"ours": Ours, "torch": Torch, "optimum": Optimum, "plain": Plain}


def run(program: Any, tower: str, *counts: int) -> float:
    """Seconds for so many images or texts, or for images and texts."""
    inputs = [make(count) for make, count in zip((pixels, ids), counts, strict=False)]
    if tower == "text":
        inputs = [ids(counts[0])]
    started = time.perf_counter()
    if tower != "pair":
        getattr(program, tower)(*inputs)
    elif hasattr(program, "pair"):
        program.pair(*inputs)
    else:
        program.vision(inputs[0])
        program.text(inputs[1])
    return time.perf_counter() - started


def peak() -> float:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1e3


def main() -> None:
    kind, *arguments = sys.argv[1:]
    program = KINDS[kind](*arguments)
    run(program, "pair", 1, 1)
    print("ready", flush=True)
    for line in sys.stdin:
        tower, *counts = line.split()
        answer = peak() if tower == "peak" else run(program, tower, *map(int, counts))
        print(answer, flush=True)


if __name__ == "__main__":
    main()
