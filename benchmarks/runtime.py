r"""Full-size speed of every variant on every provider, compared with PyTorch, Optimum and transformers.js' files.

    python benchmarks/runtime.py build/large build/large-artifact --js build/js --rounds 3 \
        --optimum build/tools/optimum/bin/python --optimum-export build/optimum

Each program runs in its own process, which loads the model and waits. Groups of programs, always including PyTorch, run
in turns (round robin), so that other load on the machine affects all of them. The output has medians, and the ratio to
PyTorch in float32 with its range over the rounds. Cold start is the time from the start of the process to the first
image and text; peak memory is the largest resident set with both towers loaded, after one image and one text.

Make Optimum's export with `optimum-cli export onnx --model build/large --task zero-shot-image-classification
build/optimum` in its own environment. `--js FOLDER` makes transformers.js' files from our fp32 graphs as its conversion
script does: with ONNX Runtime's quantize_dynamic and unsigned weights.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

WORK = ("vision 1", "vision 8", "text 1", "text 32")
PAIRS = ("pair 1 1", "pair 8 32")  # Optimum's class runs both towers together only
GROUP_SIZE = 4  # programs besides PyTorch that fit into 24 GB
CHOICES = (
    *("fp32:cpu", "int8:cpu", "int8-static:cpu", "fp32:openvino", "bf16:openvino", "int8-static:openvino"),
    *("int8-static:openvino:bf16", "bf16:openvino-ort"),
)
CONTENDER = Path(__file__).parent / "contender.py"
BASE = "PyTorch fp32"


@dataclass
class Program:
    """A program under test in its own process."""

    name: str
    command: list[str]
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def start(self) -> None:
        began = time.monotonic()
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout
        if self.process.stdout.readline().strip() != "ready":
            raise SystemExit(f"{self.name} did not start: {' '.join(self.command)}")
        self.cold = time.monotonic() - began
        self.peak = self.ask("peak")

    def ask(self, line: str) -> float:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{line}\n")
        self.process.stdin.flush()
        return float(self.process.stdout.readline())

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def contenders_of(args: argparse.Namespace) -> list[Program]:
    here = [sys.executable, str(CONTENDER)]
    contenders = [
        Program(BASE, [*here, "torch", args.checkpoint]),
        Program("PyTorch bf16", [*here, "torch", args.checkpoint, "bf16"]),
    ]
    for choice in args.choices:
        precision, provider, *openvino_precision = choice.split(":")
        name = f"{precision} on {provider}" + (f" in {openvino_precision[0]}" if openvino_precision else "")
        contenders.append(Program(name, [*here, "ours", args.artifact, precision, provider, *openvino_precision]))
    if args.js:
        contenders.append(Program("transformers.js q8", [*here, "plain", args.js, "_quantized"]))
        contenders.append(Program("transformers.js fp32", [*here, "plain", f"{args.artifact}/onnx"]))
    if args.optimum:
        command = [args.optimum, str(CONTENDER), "optimum", args.optimum_export]
        contenders.append(Program("Optimum", command))
    return [
        program for program in contenders if not args.only or any(word in program.name for word in [BASE, *args.only])
    ]


def quantize_like_transformers_js(artifact: str, folder: Path) -> None:
    """Quantize the towers like transformers.js' script for its default dtype on WebAssembly, q8."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folder.mkdir(parents=True, exist_ok=True)
    for tower in ("vision", "text"):
        output = folder / f"{tower}_model_quantized.onnx"
        if not output.exists():
            source = Path(artifact) / "onnx" / f"{tower}_model.onnx"
            quantize_dynamic(source, output, weight_type=QuantType.QUInt8, use_external_data_format=True)
    shutil.rmtree(folder / "tmp", ignore_errors=True)


def measure(programs: list[Program], work: tuple[str, ...], rounds: int) -> None:
    """Start programs, run them in turns, and print their times relative to the first program."""
    for program in programs:
        program.start()
    for line in (line for line in work if line.endswith(" 1")):
        for program in programs:
            program.ask(line)  # warms up
    for _ in range(rounds):
        for line in work:
            for program in programs:
                time.sleep(0.05)  # until the threads of the previous program sleep
                program.seconds.setdefault(line, []).append(program.ask(line))
    print("\n| | cold start, s | peak MB | " + " | ".join(work) + " |")
    print("| --- " * (len(work) + 3) + "|")
    for program in programs:
        cells = " | ".join(cell(program, programs[0], line) for line in work)
        print(f"| {program.name} | {program.cold:.2f} | {program.peak:,.0f} | {cells} |", flush=True)
        program.stop()


def cell(program: Program, base: Program, line: str) -> str:
    ratios = [b / a for a, b in zip(program.seconds[line], base.seconds[line], strict=True)]
    median = 1000 * statistics.median(program.seconds[line])
    return f"{median:,.0f} ms, {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("artifact")
    parser.add_argument("--choices", nargs="+", default=CHOICES, help="PRECISION:PROVIDER[:OPENVINO_PRECISION].")
    parser.add_argument("--optimum", help="Python with optimum-onnx.")
    parser.add_argument("--optimum-export", help="Folder with optimum-cli's export of the checkpoint.")
    parser.add_argument("--js", help="Folder for transformers.js' files.")
    parser.add_argument("--only", nargs="+", help="Only programs with one of these words in their names.")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    if args.js:
        quantize_like_transformers_js(args.artifact, Path(args.js))
    base, *others = contenders_of(args)
    pairs = [program for program in others if program.name == "Optimum"]
    alone = [program for program in others if program not in pairs]
    for start in range(0, len(alone), GROUP_SIZE):
        measure([base, *alone[start : start + GROUP_SIZE]], WORK, args.rounds)
        base.seconds = {}
    if pairs:
        ours = [program for program in alone if program.name in ("fp32 on cpu", "int8 on cpu", "bf16 on openvino")]
        measure([base, *pairs, *ours], PAIRS, args.rounds)


if __name__ == "__main__":
    main()
