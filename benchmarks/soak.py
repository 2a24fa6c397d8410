"""Soak test: sixteen threads share one model for ten minutes; results must stay equal and memory must not grow.

python benchmarks/soak.py build/demo/emoji examples/emoji/eval --minutes 10
"""

from __future__ import annotations

import argparse
import os
import random
import threading
import time
from pathlib import Path

import numpy as np

from siglip_onnx.runtime import Siglip

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--provider", default="cpu")
    args = parser.parse_args()
    model = Siglip.load(args.artifact, provider=args.provider)
    files = sorted(args.data.glob("*.webp"))[:16]
    labels = (args.data / "labels.txt").read_text("utf-8").splitlines()[:64]
    expected_images = np.stack([model.encode_image([file])[0] for file in files])
    expected_texts = np.stack([model.encode_text([label])[0] for label in labels])
    until, counts, wrong = time.monotonic() + 60 * args.minutes, [0] * args.threads, [0] * args.threads

    def work(number: int) -> None:
        rng = random.Random(number)
        while time.monotonic() < until:
            rows = rng.sample(range(len(files)), rng.randint(1, 6))
            images = model.encode_image([files[row] for row in rows], batch_size=1)
            wrong[number] += not np.array_equal(images, expected_images[rows])
            rows = rng.sample(range(len(labels)), rng.randint(1, 6))
            texts = model.encode_text([labels[row] for row in rows])
            new_text = model.encode_text([f"thread {number} at {counts[number]}"])  # not in the text cache yet
            wrong[number] += not np.array_equal(texts, expected_texts[rows]) or not np.isfinite(new_text).all()
            counts[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(args.threads)]
    for thread in threads:
        thread.start()
    sizes = []
    while any(thread.is_alive() for thread in threads):
        time.sleep(min(5, args.minutes * 3))
        sizes.append(resident())
    for thread in threads:
        thread.join()
    print(
        f"{args.threads} threads, {args.minutes:g} minutes, {sum(counts):,} rounds, results that differ: {sum(wrong)}"
    )
    minutes = [round(float(np.median(part))) for part in np.array_split(sizes, 10) if len(part)]
    print(f"resident MB, median of each tenth of the time: {minutes}")


if __name__ == "__main__":
    main()
