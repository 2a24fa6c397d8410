"""Images a second on a GPU: fp16 graphs against PyTorch, eager and compiled; inputs lie on the device.

    python benchmarks/make_checkpoint.py build/large && siglip-onnx export build/large build/large-artifact
    siglip-onnx quantize build/large-artifact --precision fp16 --tower vision --cuda --keep-failing
    python benchmarks/gpu.py build/large build/large-artifact

All run in turns in one process. First the embeddings of each are compared with PyTorch's in float32 (largest difference
relative to the largest element), so that nothing is timed that computes something else. `--device cpu --precision fp32`
takes the same way through the same code where there is no GPU.
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
    called = torch.compile(model, mode="reduce-overhead") if compiled else model

    def run(pixels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return called(pixel_values=pixels.to(dtype)).pooler_output.clone()

    return run


def ours(artifact: Path, precision: str, device: str, *, graphs: bool) -> Run:
    options = SessionOptions(cuda_graphs=graphs) if device == "cuda" else None
    tower = Siglip.load(artifact, precision, device, options=options).on_device(Role.VISION)

    def run(pixels: torch.Tensor) -> torch.Tensor:
        return torch.from_dlpack(tower(pixels))

    return run


def uploaded(artifact: Path, precision: str, device: str, *, graphs: bool) -> Callable[[Any], Any]:
    """From images in the host's memory, each batch copied while the one before is computed."""
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
    parser.add_argument("--plain", type=Path, help="An artifact with a plain fp16 variant, to compare with.")
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
    print("| batch | program | images a second (range) | over torch.compile | largest relative error |")
    print("| --- | --- | --- | --- | --- |")
    for batch in args.batches:
        pixels = (torch.rand((batch, 3, size, size), generator=generator) * 2 - 1).to(args.device)
        due = exact(pixels).float()
        errors = {name: float((run(pixels).float() - due).abs().max() / due.abs().max()) for name, run in runs.items()}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for count in range(args.rounds + 1):
            for name, run in runs.items():
                taken = seconds(run, pixels, args.repeat)
                if count:
                    times[name].append(taken)
        for name in runs:
            rates = sorted(batch / taken for taken in times[name])
            ratio = statistics.median(b / a for a, b in zip(times[name], times["torch.compile"], strict=True))
            told = f"{statistics.median(rates):,.1f} ({rates[0]:,.1f} to {rates[-1]:,.1f})"
            print(f"| {batch} | {name} | {told} | {ratio:.2f} | {errors[name]:.1e} |", flush=True)
        for graphs, run in hosts.items():
            taken = min(seconds(run, pixels, 1) for _ in range(3)) / 4
            name = "ours, from the host" + (", CUDA graphs" if graphs else "")
            print(f"| {batch} | {name} | {batch / taken:,.1f} | | |", flush=True)


if __name__ == "__main__":
    main()
