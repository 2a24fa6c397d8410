"""The engine of ONNX Runtime for JavaScript: in Node, or in a page of headless Chromium.

The packages are the user's own, in the folder that `$SIGLIP_ONNX_NODE_MODULES` names; nothing is downloaded. `node` and
`web` import "onnxruntime-node" and "onnxruntime-web" from that folder. For Node this is the file that transformers.js
runs: its version 4.3.1 depends on onnxruntime-node 1.30.0 exactly, and npm keeps one copy for both. For the web,
transformers.js has a nightly build with kernels for WebGPU that lacks other kernels (those of bfloat16, see
docs/compatibility.md); `web` is the released package with its plain WASM, as a page that imports it gets it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ...arrays import AnyArray
from ...artifact.contract import Provider, TensorSpec
from ...artifact.external_data import external_locations
from ...errors import ArtifactError, ProviderError
from .. import host
from ..base import GraphSource
from ..options import SessionOptions
from ..providers import PROVIDERS, ProviderSpec
from .process import Frame, NodeProcess

PACKAGES: Final = "SIGLIP_ONNX_NODE_MODULES"  # variable with the folder that contains node_modules
CHROMIUM: Final = "SIGLIP_ONNX_CHROMIUM"  # variable with the browser's program
_BROWSERS: Final = ("chromium", "chromium-browser", "google-chrome")
# Time limits in seconds, far above the normal: the CPU provider takes 44 s for 32 full-size images at fp32
# (docs/runtime.md), and WASM a few times as long.
LOADING: Final = 600.0
RUNNING: Final = 3600.0


class JsEngine:
    """A graph in ONNX Runtime for JavaScript, in a separate process; see `Engine`.

    The process ends when the engine is closed or garbage-collected, and when this process ends.

    Args:
        source: The graph.
        options: Session options; only `provider` and `threads` apply.

    Attributes:
        name: Name of the graph in error messages.
        version: ONNX Runtime's version.
        process: The Node process.

    Raises:
        ArtifactError: The graph cannot be read.
        ProviderError: Node, a package or the browser is missing, or the graph cannot be loaded.
    """

    def __init__(self, source: GraphSource, options: SessionOptions) -> None:
        spec = PROVIDERS[options.provider]
        self.name = source.name
        self._engine = f"{next(iter(spec.npm))} ({options.provider})"
        job = {"packages": str(_packages(spec)), "provider": spec.name, "threads": options.threads or host.cores()}
        if options.provider is Provider.WEB:
            job["chromium"] = str(_browser())
        with _as_file(source.graph) as graph:
            files = {"graph": str(graph), "data": _external(graph)}
            self.process = NodeProcess(f"{options.provider}.mjs", {**job, **files})
            try:
                reply = self._ask(None, LOADING, "load")
            except BaseException:
                self.close()
                raise
        self.version: str = reply.facts["version"]
        self.inputs, self.outputs = _specs(reply.facts["inputs"]), _specs(reply.facts["outputs"])
        self.placement: Mapping[str, int] = {}  # the session has no other provider to place nodes on

    def run(self, names: Sequence[str], feeds: Mapping[str, AnyArray]) -> list[AnyArray]:
        """Compute the outputs of these names.

        Raises:
            ProviderError: ONNX Runtime failed, or its process crashed or exceeded its time limit.
        """
        reply = self._ask(Frame({"outputs": list(names)}, feeds), RUNNING, "run")
        return [reply.tensors[name] for name in names]

    def close(self) -> None:
        """End the process."""
        self.process.close()

    def _ask(self, request: Frame | None, seconds: float, verb: str) -> Frame:
        reply = self.process.ask(request, seconds)
        if "error" in reply.facts:
            raise ProviderError(
                f"{self._engine} failed to {verb} {self.name}: {reply.facts['error'].splitlines()[0]}",
                "Run `siglip-onnx doctor`; if memory is short, use smaller batches or another variant.",
            )
        return reply


def _packages(spec: ProviderSpec) -> Path:
    """The user's folder, which contains every package of the provider."""
    value = os.environ.get(PACKAGES)
    if not value:
        raise ProviderError(
            f"${PACKAGES} is not set; it must name the folder that contains node_modules.",
            f"Run: {spec.install.format(folder='js')} && export {PACKAGES}=$PWD/js.",
        )
    folder = Path(value).absolute()
    missing = [name for name in spec.npm if not (folder / "node_modules" / name / "package.json").is_file()]
    if missing:
        raise ProviderError(
            f"${PACKAGES} is {folder}, which has no node_modules/{' and no node_modules/'.join(missing)}.",
            f"Run: {spec.install.format(folder=folder)}.",
        )
    return folder


def _browser() -> Path:
    value = os.environ.get(CHROMIUM)
    program = shutil.which(value) if value else next(filter(None, map(shutil.which, _BROWSERS)), None)
    if program is None:
        raise ProviderError(
            f"${CHROMIUM} is {value}, which is not a program." if value else "There is no Chromium on the PATH.",
            f"Install it (on Debian: apt-get install chromium), or set ${CHROMIUM} to its program.",
        )
    return Path(program)


def _external(graph: Path) -> list[str]:
    """Data files of a graph, relative to its folder; a page has to fetch these itself."""
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


def _specs(specs: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(spec["name"], spec["dtype"], tuple(spec["shape"])) for spec in specs)
