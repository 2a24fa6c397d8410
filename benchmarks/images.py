"""Share of the time in which the tower is busy while images are decoded, and the effect of `reduced_jpeg` on pixels.

    python benchmarks/images.py build/large-artifact --precision int8
    python benchmarks/images.py build/large-artifact --drift

The images are two-megapixel JPEGs (1,732 x 1,155) made from the photos in tests/data. The busy share is the time in
which the tower runs, divided by the time from its first call to the end of its last.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from siglip_onnx.runtime import ImageOptions, Siglip
from siglip_onnx.runtime.artifact.contract import Role
from siglip_onnx.runtime.preprocessing.image import ImageProcessor

PHOTOS = Path(__file__).parent.parent / "tests" / "data" / "images" / "photos"
SIZE = (1732, 1155)


def jpegs(folder: Path, count: int) -> list[Path]:
    photos = sorted(path for path in PHOTOS.iterdir() if path.suffix in (".jpg", ".jpeg", ".png"))
    paths = []
    for number in range(count):
        with Image.open(photos[number % len(photos)]) as photo:
            path = folder / f"{number:03}.jpg"
            photo.convert("RGB").resize(SIZE, Image.Resampling.LANCZOS).save(path, quality=90)
            paths.append(path)
    return paths


def busy(model: Siglip, files: list[Path]) -> tuple[float, float, float]:
    """Total seconds, share of them in which the tower runs, and seconds to decode one image alone."""
    session = model.session(Role.VISION)
    spans: list[tuple[float, float]] = []
    run = session.engine.run

    def timed(*arguments: Any) -> Any:
        started = time.perf_counter()
        try:
            return run(*arguments)
        finally:
            spans.append((started, time.perf_counter()))

    session.engine.run = timed  # type: ignore[method-assign]
    started = time.perf_counter()
    model.encode_image(files)
    elapsed = time.perf_counter() - started
    session.engine.run = run  # type: ignore[method-assign]
    within = sum(end - start for start, end in spans) / (spans[-1][1] - spans[0][0])
    started = time.perf_counter()
    for path in files[:8]:
        model.images.one(path)
    return elapsed, within, (time.perf_counter() - started) / 8


def drift(model: Siglip, files: list[Path]) -> None:
    exact, reduced = (ImageProcessor(model.contract.image, ImageOptions(reduced_jpeg=on)) for on in (False, True))
    pixels = [np.abs(exact.one(path) - reduced.one(path)) for path in files]
    times = []
    for processor in (exact, reduced):
        started = time.perf_counter()
        for path in files:
            processor.one(path)
        times.append((time.perf_counter() - started) / len(files))
    print(f"pixels, on a scale from -1 to 1: mean {np.mean(pixels):.4f}, largest {np.max(pixels):.2f}")
    print(f"milliseconds per image: {1000 * times[0]:.1f}, reduced {1000 * times[1]:.1f}")
    rows = [np.concatenate([model.encode(Role.VISION, p.one(f)[None]) for f in files]) for p in (exact, reduced)]
    centered = [row - rows[0].mean(axis=0) for row in rows]
    for name, (a, b) in {"cosine": rows, "centered cosine": centered}.items():
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        print(f"{name} of the embeddings: median {np.median(cosines):.5f}, smallest {cosines.min():.5f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--count", type=int, default=38)
    parser.add_argument("--drift", action="store_true")
    args = parser.parse_args()
    model = Siglip.load(args.artifact, args.precision, args.provider)
    with tempfile.TemporaryDirectory() as folder:
        files = jpegs(Path(folder), args.count)
        if args.drift:
            drift(model, files[:19])
            return
        model.encode_image(files[:1])
        elapsed, within, decoding = busy(model, files)
        each = 1000 * elapsed / len(files)
        print(f"{len(files)} images in {elapsed:.2f} s: {each:.0f} ms each; tower busy {within:.1%}")
        print(f"decoding and resizing one image: {1000 * decoding:.1f} ms")


if __name__ == "__main__":
    main()
