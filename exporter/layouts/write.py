"""Writing of a layout: verified, complete or absent, and replacing nothing but another layout."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec

from ... import __version__
from ...runtime.artifact.artifact import Artifact
from ...runtime.artifact.contract import Precision, Role
from ...runtime.errors import ExportError
from ...runtime.files import new_folder
from ...runtime.progress import Progress
from ..options import Layout
from ..output_folder import is_occupied, write_errors
from . import immich, optimum, triton
from .common import LayoutSource, require_file, require_pixels

MARKER: Final = "siglip-layout.json"


@dataclass(frozen=True)
class Marker:
    """Content of siglip-layout.json, the file that marks a layout.

    Attributes:
        layout: The layout.
        artifact: Name of the artifact.
        precision: Precision of the variant.
        provenance: Tool and version that wrote the layout.
        sources: SHA-256 of each artifact file that the layout was made from.
    """

    layout: Layout
    artifact: str
    precision: Precision
    provenance: str
    sources: dict[str, str]
    schema_version: Literal[1] = 1


@dataclass(frozen=True)
class _LayoutSpec:
    """Sources of a layout, and the function that writes it.

    Attributes:
        roles: Graphs that the layout is made from.
        files: Returns the artifact's other files that the layout is made from.
        write: Writes the layout into a folder.
    """

    roles: tuple[Role, ...]
    files: Callable[[LayoutSource], tuple[str, ...]]
    write: Callable[[LayoutSource, Path], None]


_SPECS: Final = {
    Layout.IMMICH: _LayoutSpec((Role.VISION, Role.TEXT), lambda source: immich.FILES, immich.write),
    Layout.TRITON: _LayoutSpec((Role.VISION, Role.TEXT), lambda source: (), triton.write),
    Layout.OPTIMUM: _LayoutSpec((Role.JOINT, Role.VISION, Role.TEXT), optimum.files, optimum.write),
}


def write_layout(
    artifact: str | Path,
    target: str | Path,
    layout: Layout,
    *,
    precision: Precision = Precision.FP32,
    overwrite: bool = False,
    copy: bool = False,
    progress: Progress = print,
) -> Path:
    """Write an artifact's graphs into a folder for another server or library.

    The artifact's files are verified first. Weights become hard links to the artifact's weights: they take no extra
    disk, and remain if the artifact is removed or exported again. If links are impossible, weights are copied, and
    `progress` receives the reason.

    Args:
        artifact: Folder of the artifact.
        target: Folder of the layout.
        layout: Server or library that will read the folder.
        precision: Precision of the variant.
        overwrite: Replace `target` if it is a layout.
        copy: Copy weights instead of linking them, for readers that refuse hard links, such as the onnx package.
        progress: Called with a short description before each step.

    Returns:
        The absolute path of the layout's folder.

    Raises:
        ArtifactError: The artifact is damaged, or lacks the precision or a file.
        ExportError: The layout does not support this model, the artifact lacks a tower, `target` exists and is not a
            layout to overwrite, or the layout cannot be written.
    """
    source, folder = LayoutSource(Artifact.open(artifact), precision, progress, copy), Path(target).resolve()
    spec = _SPECS[layout]
    require_pixels(source)
    used = _used(source, spec)
    with write_errors("layout", folder):
        _check_target(folder, overwrite, source.artifact)
        progress("Verifying the artifact")
        source.artifact.verify(used)
        with new_folder(folder, replace=overwrite) as partial:
            spec.write(source, partial)
            (partial / MARKER).write_bytes(_marker(source, layout, used))
    return folder


def _used(source: LayoutSource, spec: _LayoutSpec) -> tuple[str, ...]:
    """Files of the artifact that a layout is made from."""
    variant = source.contract.variant(source.precision)
    if variant is not None and (missing := [role for role in spec.roles if role not in variant.graphs]):
        raise ExportError(
            f"The artifact {source.artifact.folder} has no {' and no '.join(missing)} graph, which the layout needs.",
            "Use an artifact with both towers, as `siglip-onnx export` writes it.",
        )
    graphs = [source.graph(role) for role in spec.roles]
    files = [require_file(source, name) for name in spec.files(source)]
    return tuple(dict.fromkeys((*(path for graph in graphs for path in (graph.path, *graph.data)), *files)))


def _marker(source: LayoutSource, layout: Layout, used: tuple[str, ...]) -> bytes:
    hashes = {inner: source.contract.files[inner].sha256 for inner in used}
    marker = Marker(layout, source.contract.name, source.precision, f"siglip-onnx {__version__}", hashes)
    return msgspec.json.format(msgspec.json.encode(marker), indent=2) + b"\n"


def _check_target(folder: Path, overwrite: bool, artifact: Artifact) -> None:
    if folder.is_relative_to(artifact.folder.resolve()):
        raise ExportError(f"{folder} is inside the artifact.", "Choose a folder outside of the artifact.")
    if is_occupied(folder, overwrite=overwrite) and not _is_layout(folder):
        raise ExportError(
            f"{folder} is not a layout written by siglip-onnx, so it is not replaced.",
            "Choose another folder, or remove this one yourself.",
        )


def _is_layout(folder: Path) -> bool:
    try:
        msgspec.json.decode((folder / MARKER).read_bytes(), type=Marker)
    except (OSError, msgspec.DecodeError):
        return False
    return True
