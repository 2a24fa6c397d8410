"""Graphs in ONNX Runtime for JavaScript: in Node, or in a page of headless Chromium.

The packages are the user's own, in the folder that `$SIGLIP_ONNX_NODE_MODULES` names; nothing is fetched. They are what
`import "onnxruntime-node"` and `import "onnxruntime-web"` find from that folder. For Node this is the very file that
transformers.js runs: its 4.3.1 depends on onnxruntime-node 1.30.0 and no other version, and npm keeps one copy for
both. For the web it has a nightly build of its own with kernels for WebGPU, which lacks others (bfloat16's, see
docs/compatibility.md); `web` is the released package with its plain WASM, as a page has it that names it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ...artifact.contract import Provider, TensorSpec
from ...artifact.external_data import external_locations
from ...errors import ArtifactError, ProviderError
from .. import host
from ..base import Array, GraphSource
from ..options import SessionOptions
from ..providers import PROVIDERS, ProviderSpec
from .process import Frame, NodeProcess

PACKAGES: Final = "SIGLIP_ONNX_NODE_MODULES"  # the variable that names a folder with node_modules in it
CHROMIUM: Final = "SIGLIP_ONNX_CHROMIUM"  # the variable that names the browser
_BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
# Seconds, far more than anything that works takes: 32 full-size images at fp32 keep the CPU provider busy for 44
# (docs/runtime.md), and WASM a few times as long.
LOADING: Final = 600.0
RUNNING: Final = 3600.0


class JsEngine:
    """A graph in ONNX Runtime for JavaScript, in a process of its own; see `Engine`.

    The process ends when the engine is closed, forgotten, or this process dies.

    Args:
        source: The graph.
        options: Its provider says which of the two; `threads` how many.

    Attributes:
        version: ONNX Runtime's.
        process: What runs it.

    Raises:
        ArtifactError: The graph cannot be read.
        ProviderError: Node, a package or the browser is missing, or the graph cannot be loaded.
    """

    def __init__(self, source: GraphSource, options: SessionOptions) -> None:
        spec = PROVIDERS[options.provider]
        self.name = str(source.graph) if isinstance(source.graph, Path) else "a graph that was just made"
        self._where = f"{next(iter(spec.npm))} ({options.provider})"
        job = {"packages": str(_packages(spec)), "provider": spec.name, "threads": options.threads or host.cores()}
        if options.provider is Provider.WEB:
            job["chromium"] = str(_browser())
        with _as_file(source.graph) as graph:
            files = {"graph": str(graph), "data": _external(graph)}
            self.process = NodeProcess(f"{options.provider}.mjs", {**job, **files})
            try:
                told = self._told(None, LOADING, "load")
            except BaseException:
                self.close()
                raise
        self.version: str = told.facts["version"]
        self.inputs, self.outputs = _specs(told.facts["inputs"]), _specs(told.facts["outputs"])
        self.placement: Mapping[str, int] = {}  # all of it: it is given no other provider to leave a node to

    def run(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """The outputs of these names.

        Raises:
            ProviderError: It failed while running the graph, crashed, or hung.
        """
        answer = self._told(Frame({"outputs": list(names)}, feeds), RUNNING, "run")
        return [answer.tensors[name] for name in names]

    def close(self) -> None:
        """End the process."""
        self.process.close()

    def _told(self, question: Frame | None, seconds: float, what: str) -> Frame:
        answer = self.process.ask(question, seconds)
        if "error" in answer.facts:
            raise ProviderError(
                f"{self._where} failed to {what} {self.name}: {answer.facts['error'].splitlines()[0]}",
                "Run `siglip-onnx doctor`; if memory is short, use smaller batches or another variant.",
            )
        return answer


def _packages(spec: ProviderSpec) -> Path:
    """The user's folder, in which every package is."""
    named = os.environ.get(PACKAGES)
    if not named:
        raise ProviderError(
            f"${PACKAGES} is not set, which names the folder with node_modules.",
            f"Run: {spec.install.format(folder='js')} && export {PACKAGES}=$PWD/js.",
        )
    folder = Path(named).absolute()
    missing = [name for name in spec.npm if not (folder / "node_modules" / name / "package.json").is_file()]
    if missing:
        raise ProviderError(
            f"{folder}, which ${PACKAGES} names, has no node_modules/{' and no node_modules/'.join(missing)}.",
            f"Run: {spec.install.format(folder=folder)}.",
        )
    return folder


def _browser() -> Path:
    named = os.environ.get(CHROMIUM)
    found = shutil.which(named) if named else next(filter(None, map(shutil.which, _BROWSERS)), None)
    if found is None:
        raise ProviderError(
            f"${CHROMIUM} is {named}, which is no program." if named else "There is no Chromium on the PATH.",
            f"Install it (on Debian: apt-get install chromium), or name its program in ${CHROMIUM}.",
        )
    return Path(found)


def _external(graph: Path) -> list[str]:
    """Where it reads weights from, relative to its folder; a page fetches these files by itself."""
    try:
        return sorted(external_locations(graph.read_bytes()))
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{graph} cannot be read ({error}).", "Export the checkpoint again.") from error


@contextlib.contextmanager
def _as_file(graph: Path | bytes) -> Iterator[Path]:
    if isinstance(graph, Path):
        yield graph.absolute()
        return
    with tempfile.TemporaryDirectory(prefix="siglip-onnx-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(graph)
        yield path


def _specs(told: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(spec["name"], spec["dtype"], tuple(spec["shape"])) for spec in told)
