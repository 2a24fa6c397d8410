"""Time of one image and one text: an artifact on ONNX Runtime's CPU provider compared with the PyTorch reference.

    python benchmarks/speed.py build/large build/large-artifact --rounds 8

Both run in this process, in turns (round robin), so that other load on the machine affects both. The output has the
median times and the median ratio with its range over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from siglip_onnx.exporter import Checkpoint
from siglip_onnx.runtime import Siglip
from siglip_onnx.runtime.artifact.contract import Role
from siglip_onnx.validate.reference.pytorch import PyTorchReference


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def compare(name: str, ours: Callable[[], object], theirs: Callable[[], object], rounds: int) -> None:
    ours()
    theirs()
    times = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
    ratios = [b / a for a, b in times]
    mine, other = (1000 * statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"{name:16} ONNX Runtime {mine:7.1f} ms   PyTorch {other:7.1f} ms   "
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--rounds", type=int, default=8)
    args = parser.parse_args()
    source = Checkpoint.open(args.checkpoint)
    model, reference = Siglip.load(args.artifact), PyTorchReference(source)
    rng = np.random.default_rng(0)
    size, spec = source.image.height, source.tokenizer
    pixels = rng.uniform(-1, 1, (1, 3, size, size)).astype(np.float32)
    ids = rng.integers(0, spec.vocab_size, (1, spec.length))
    compare(
        "vision, batch 1",
        lambda: model.encode(Role.VISION, pixels),
        lambda: reference.embeddings(Role.VISION, pixels),
        args.rounds,
    )
    compare(
        "text, batch 1",
        lambda: model.encode(Role.TEXT, ids),
        lambda: reference.embeddings(Role.TEXT, ids),
        args.rounds,
    )


if __name__ == "__main__":
    main()
