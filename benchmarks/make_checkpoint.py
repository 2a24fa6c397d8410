"""Write a full-size siglip-large-patch16-384 checkpoint with random weights (652,478,466 parameters, 2.6 GB).

    python benchmarks/make_checkpoint.py build/large

The checkpoint is only for measuring size and speed: it is not trained. Configuration and vocabulary are the published
ones. The weights are drawn from a fixed seed and written tensor by tensor.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import IO

import numpy as np

from siglip_onnx.exporter.checkpoint.config import read_config
from siglip_onnx.exporter.checkpoint.expected_shapes import expected_shapes

SOURCE = Path(__file__).parent.parent / "tests" / "data" / "siglip-large-patch16-384"


def tensor(name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Random tensor with the range of a trained one: norms near 1, matrices scaled by their inputs, small biases."""
    if name == "logit_scale":
        return np.array([np.log(117.33)], np.float32)  # close to the published models
    if name == "logit_bias":
        return np.array([-12.93], np.float32)
    noise = rng.standard_normal(shape, dtype=np.float32)
    if "norm" in name and name.endswith("weight"):
        return 1 + 0.1 * noise
    if name.endswith("bias"):
        return 0.02 * noise
    if "embedding" in name and "patch" not in name:
        return noise / np.sqrt(np.float32(shape[-1]))
    return noise / np.sqrt(np.float32(np.prod(shape[1:])))


def write(folder: Path, seed: int) -> None:
    folder.mkdir(parents=True)
    for path in SOURCE.iterdir():
        shutil.copyfile(path, folder / path.name)
    shapes = expected_shapes(read_config(folder))
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    with (folder / "model.safetensors").open("wb") as file:
        _write_header(file, header)
        rng = np.random.default_rng(seed)
        for name, shape in shapes.items():
            file.write(np.ascontiguousarray(tensor(name, shape, rng), np.float32).tobytes())
    print(f"{offset // 4:,} parameters in {folder}")


def _write_header(file: IO[bytes], header: dict[str, object]) -> None:
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    write(args.folder, args.seed)


if __name__ == "__main__":
    main()
