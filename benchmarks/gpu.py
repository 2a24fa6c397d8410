"""Images per second on a GPU: fp16 graphs compared with PyTorch, eager and compiled; inputs are on the device.

    python benchmarks/make_checkpoint.py build/large && siglip-onnx export build/large build/large-artifact
    siglip-onnx quantize build/large-artifact --precision fp16 --tower vision --cuda --keep-failing
    python benchmarks/gpu.py build/large build/large-artifact

The programs run in turns in one process. Before it is timed, each program's embeddings are compared with PyTorch's in
float32 (largest difference relative to the largest element). `--device cpu --precision fp32` runs the same code on a
machine without a GPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import SiglipVisionModel

from siglip_onnx.runtime import SessionOptions, Siglip
from siglip_onnx.runtime.artifact.contract import Role

Run = Callable[[torch.Tensor], torch.Tensor]


def pytorch(checkpoint: str, dtype: torch.dtype, device: str, *, compiled: bool = False) -> Run:
    model = SiglipVisionModel.from_pretrained(checkpoint, dtype=dtype, attn_implementation="sdpa").eval().to(device)
    network = torch.compile(model, mode="reduce-overhead") if compiled else model

    def run(pixels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return network(pixel_values=pixels.to(dtype)).pooler_output.clone()

    return run


def ours(artifact: Path, precision: str, device: str, *, graphs: bool) -> Run:
    options = SessionOptions(cuda_graphs=graphs) if device == "cuda" else None
    tower = Siglip.load(artifact, precision, device, options=options).on_device(Role.VISION)

    def run(pixels: torch.Tensor) -> torch.Tensor:
        return torch.from_dlpack(tower(pixels))

    return run


def uploaded(artifact: Path, precision: str, device: str, *, graphs: bool) -> Callable[[Any], Any]:
    """Encode images from host memory; each batch is copied while the previous one is computed."""
    options = SessionOptions(cuda_graphs=graphs) if device == "cuda" else None
    tower = Siglip.load(artifact, precision, device, options=options).on_device(Role.VISION)
    return lambda pixels: list(tower.encode([pixels.cpu().numpy()] * 4))


def seconds(run: Callable[[Any], Any], pixels: torch.Tensor, repeat: int) -> float:
    wait = torch.cuda.synchronize if pixels.is_cuda else (lambda: None)
    wait()
    started = time.perf_counter()
    for _ in range(repeat):
        run(pixels)
    wait()
    return (time.perf_counter() - started) / repeat


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--precision", default="fp16")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--plain", type=Path, help="Artifact with a plain fp16 variant to compare with.")
    args = parser.parse_args()
    size = Siglip.load(args.artifact).contract.image.height
    dtype = torch.float16 if args.precision == "fp16" else torch.float32
    runs: dict[str, Run] = {"torch eager": pytorch(args.checkpoint, dtype, args.device)}
    runs["torch.compile"] = pytorch(args.checkpoint, dtype, args.device, compiled=True)
    runs["ours"] = ours(args.artifact, args.precision, args.device, graphs=False)
    if args.plain:
        runs["plain fp16"] = ours(args.plain, args.precision, args.device, graphs=False)
    exact = pytorch(args.checkpoint, torch.float32, args.device)
    generator = torch.Generator().manual_seed(0)
    hosts = {graphs: uploaded(args.artifact, args.precision, args.device, graphs=graphs) for graphs in (False, True)}
    print("| batch | program | images per second (range) | relative to torch.compile | largest relative error |")
    print("| --- | --- | --- | --- | --- |")
    for batch in args.batches:
        pixels = (torch.rand((batch, 3, size, size), generator=generator) * 2 - 1).to(args.device)
        expected = exact(pixels).float()
        largest = expected.abs().max()
        errors = {name: float((run(pixels).float() - expected).abs().max() / largest) for name, run in runs.items()}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for count in range(args.rounds + 1):
            for name, run in runs.items():
                elapsed = seconds(run, pixels, args.repeat)
                if count:  # the first round warms up
                    times[name].append(elapsed)
        for name in runs:
            rates = sorted(batch / elapsed for elapsed in times[name])
            ratio = statistics.median(b / a for a, b in zip(times[name], times["torch.compile"], strict=True))
            rate = f"{statistics.median(rates):,.1f} ({rates[0]:,.1f} to {rates[-1]:,.1f})"
            print(f"| {batch} | {name} | {rate} | {ratio:.2f} | {errors[name]:.1e} |", flush=True)
        for graphs, run in hosts.items():
            elapsed = min(seconds(run, pixels, 1) for _ in range(3)) / 4
            name = "ours, from the host" + (", CUDA graphs" if graphs else "")
            print(f"| {batch} | {name} | {batch / elapsed:,.1f} | | |", flush=True)


if __name__ == "__main__":
    main()
