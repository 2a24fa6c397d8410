"""The main job on the bundled trained model: export it, judge it, make it smaller, use it. `make demo` runs this."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
EMOJI = Path("examples/emoji")
ARTIFACT = Path("build/demo/emoji")
IMAGES = ("distorted-noto-1f43b.webp", "held-out-twemoji-1f418.webp")


def run(*arguments: str | Path) -> None:
    """Show a command, run it, and end with its exit code if it fails."""
    words = ["siglip-onnx", *map(str, arguments)]
    print(f"\n$ {shlex.join(words)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "siglip_onnx", *words[1:]], cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(done.returncode)


def main() -> None:
    """Export, judge, quantize, judge every cell, classify."""
    run("export", EMOJI / "checkpoint", ARTIFACT, "--overwrite")
    run("validate", ARTIFACT, "--reference", EMOJI / "checkpoint", "--data", EMOJI / "eval")
    run("quantize", ARTIFACT, "--precision", "int8", "--data", EMOJI / "eval")
    judged_by = ("--reference", EMOJI / "checkpoint", "--data", EMOJI / "eval")
    run("validate", ARTIFACT, *judged_by, "--precision", "all", "--provider", "cpu,openvino")
    images = [EMOJI / "eval" / name for name in IMAGES]
    labels = ("--labels-from", EMOJI / "eval" / "labels.txt", "--top", "3")
    run("classify", ARTIFACT, *images, *labels, "--precision", "int8")
    print(f"\nOpen {ARTIFACT / 'reports' / 'parity.html'} to look at the verdicts.")


if __name__ == "__main__":
    main()
