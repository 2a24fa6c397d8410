"""Runs programs in other languages and environments: a job as JSON goes in, the last line printed is the result."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from siglip_onnx.runtime.arrays import AnyArray, FloatArray, IntArray
from siglip_onnx.runtime.engines.javascript.process import SCRIPTS

from . import environments

HERE: Final = Path(__file__).parent
TIMEOUT: Final = 300  # seconds, longer than any of them takes

# A job or a result.
Json = dict[str, Any]


@dataclass(frozen=True)
class ConsumerSamples:
    """The inputs of every consumer.

    Attributes:
        images: PNG files of exactly the model's size, so that no consumer resizes them.
        texts: One text for each image.
        template: Prompt template for the texts in a zero-shot pipeline.
        pixels: Model input, float32 [images, 3, S, S].
        ids: Model input, int64 [texts, L].
        folder: Folder for the tensors as raw files, since not every consumer reads npz.
    """

    images: tuple[Path, ...]
    texts: tuple[str, ...]
    template: str
    pixels: FloatArray
    ids: IntArray
    folder: Path

    def job(self) -> Json:
        """The samples as JSON."""
        return {
            "pixels": _raw(self.pixels, self.folder / "pixels.bin"),
            "ids": _raw(self.ids, self.folder / "ids.bin"),
            "images": [str(path) for path in self.images],
            "texts": list(self.texts),
            "template": self.template,
        }


def _raw(array: AnyArray, path: Path) -> Json:
    array.tofile(path)
    return {"file": str(path), "shape": list(array.shape)}


def node(script: str, job: Json, folder: Path) -> Json:
    """Run a Node script. Node looks for packages beside the script, so a copy beside the packages runs.

    Raises:
        MissingError: The environment is not set up.
        RuntimeError: The script failed.
    """
    scripts = environments.folder("node") / "scripts"
    scripts.mkdir(exist_ok=True)
    for path in (*HERE.glob("*.mjs"), SCRIPTS / "chromium.mjs"):
        shutil.copy(path, scripts)
    return _run(["node", str(scripts / script)], job, folder)


def python(interpreter: Path, script: str, job: Json, folder: Path) -> Json:
    """Run a Python script in another environment.

    Raises:
        RuntimeError: The script failed.
    """
    return _run([str(interpreter), str(HERE / script)], job, folder)


def _run(command: list[str], job: Json, folder: Path) -> Json:
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    # Offline, so that a file that the artifact lacks is an error, not a download.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [*command, str(path)], capture_output=True, text=True, env=environment, timeout=TIMEOUT, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    result: Json = json.loads(done.stdout.splitlines()[-1])
    return result
