"""Ask programs in other languages and environments: a job as JSON, answers as the last line that they print."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from siglip_onnx.runtime.engines.javascript.process import SCRIPTS

from . import environments

HERE: Final = Path(__file__).parent
# Longer than any of them takes, so that one that hangs is an error with a name.
TIMEOUT: Final = 300

# A job, and what comes back: whatever JSON can say.
Json = dict[str, Any]


@dataclass(frozen=True)
class Samples:
    """What every consumer is asked about.

    Attributes:
        images: PNG files of exactly the model's size, so that no consumer's own way to resize can matter.
        texts: As many texts.
        template: What the texts are put into where a consumer classifies.
        pixels: Model input, float32 [images, 3, S, S].
        ids: Model input, int64 [texts, L].
        folder: The tensors as raw files, for those that know no npz.
    """

    images: tuple[Path, ...]
    texts: tuple[str, ...]
    template: str
    pixels: NDArray[np.float32]
    ids: NDArray[np.int64]
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


def _raw(array: NDArray[Any], path: Path) -> Json:
    array.tofile(path)
    return {"file": str(path), "shape": list(array.shape)}


def node(script: str, job: Json, folder: Path) -> Json:
    """What a Node script says. Node looks for packages beside the script, so it runs from a copy beside them.

    Raises:
        MissingError: The environment is missing.
        RuntimeError: The script failed.
    """
    scripts = environments.folder("node") / "scripts"
    scripts.mkdir(exist_ok=True)
    for path in (*HERE.glob("*.mjs"), SCRIPTS / "chromium.mjs"):
        shutil.copy(path, scripts)
    return _ask(["node", str(scripts / script)], job, folder)


def python(interpreter: Path, script: str, job: Json, folder: Path) -> Json:
    """What a Python script says in another environment.

    Raises:
        RuntimeError: The script failed.
    """
    return _ask([str(interpreter), str(HERE / script)], job, folder)


def _ask(command: list[str], job: Json, folder: Path) -> Json:
    path = folder / "job.json"
    path.write_text(json.dumps(job))
    # Nobody may ask a hub: what an artifact lacks must be an error, not a download.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [*command, str(path)], capture_output=True, text=True, env=environment, timeout=TIMEOUT, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    said: Json = json.loads(done.stdout.splitlines()[-1])
    return said
