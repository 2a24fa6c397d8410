"""The main workflow on the bundled trained model: export, validate, quantize, validate all cells, classify.

make demo
"""

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
    """Print and run a command; if it fails, exit with its exit code."""
    words = list(map(str, arguments))
    print(f"\n$ {shlex.join(['siglip-onnx', *words])}", flush=True)
    code = subprocess.run([sys.executable, "-m", "siglip_onnx", *words], cwd=ROOT, check=False).returncode
    if code:
        sys.exit(code)


def main() -> None:
    """Run the commands of the workflow in order."""
    data = ("--data", EMOJI / "eval")
    reference = ("--reference", EMOJI / "checkpoint")
    run("export", EMOJI / "checkpoint", ARTIFACT, "--overwrite")
    run("validate", ARTIFACT, *reference, *data)
    run("quantize", ARTIFACT, "--precision", "int8", *data)
    run("validate", ARTIFACT, *reference, *data, "--precision", "all", "--provider", "cpu,openvino")
    images = [EMOJI / "eval" / name for name in IMAGES]
    run(
        *("classify", ARTIFACT, *images),
        *("--labels-from", EMOJI / "eval" / "labels.txt", "--top", "3", "--precision", "int8"),
    )
    print(f"\nOpen {ARTIFACT / 'reports' / 'parity.html'} to see the verdicts.")


if __name__ == "__main__":
    main()
