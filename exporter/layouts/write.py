"""Writing a layout: verified, whole or not at all, and only in the place of one of ours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec

from ... import __version__
from ...runtime.artifact.artifact import Artifact
from ...runtime.artifact.contract import Precision, Role
from ...runtime.errors import ExportError
from ...runtime.files import new_folder
from ..options import Layout
from . import immich, optimum, triton
from .common import LayoutSource, Progress, require_file, require_pixels

MARKER: Final = "siglip-layout.json"


@dataclass(frozen=True)
class Marker:
    """What `siglip-layout.json` says of a layout.

    Attributes:
        artifact: The artifact's name.
        sources: SHA-256 of each file of the artifact that the layout was made from.
    """

    layout: Layout
    artifact: str
    precision: Precision
    provenance: str
    sources: dict[str, str]
    schema_version: Literal[1] = 1


@dataclass(frozen=True)
class _Recipe:
    """Which graphs and other files of an artifact a layout is made from, and how."""

    roles: tuple[Role, ...]
    files: Callable[[LayoutSource], tuple[str, ...]]
    write: Callable[[LayoutSource, Path], None]


_RECIPES: Final = {
    Layout.IMMICH: _Recipe((Role.VISION, Role.TEXT), lambda source: immich.FILES, immich.write),
    Layout.TRITON: _Recipe((Role.VISION, Role.TEXT), lambda source: (), triton.write),
    Layout.OPTIMUM: _Recipe((Role.JOINT, Role.VISION, Role.TEXT), optimum.files, optimum.write),
}


def write_layout(
    artifact: Path,
    target: Path,
    layout: Layout,
    *,
    precision: Precision = Precision.FP32,
    overwrite: bool = False,
    copy: bool = False,
    progress: Progress = print,
) -> Path:
    """Write an artifact's graphs in a folder of another form.

    The artifact's files are verified first. Weights become hard links to the artifact's: they take no room, and stay
    when the artifact is removed or exported anew; where links are impossible they are copied, and `progress` is told.

    Args:
        artifact: The artifact's folder.
        target: The layout's folder.
        layout: Who is to read it.
        precision: Which variant.
        overwrite: Replace `target` if it is a layout of ours already.
        copy: Copy weights where they could be linked, for readers that refuse hard links, as the onnx package does.
        progress: Told what is being done, in a few words.

    Returns:
        The layout's folder as an absolute path.

    Raises:
        ArtifactError: The artifact is damaged, or lacks that precision or a file.
        ExportError: The layout cannot hold this model or its one tower, or cannot be written.
    """
    source, folder = LayoutSource(Artifact.open(artifact), precision, progress, copy), target.resolve()
    recipe = _RECIPES[layout]
    require_pixels(source)
    used = _used(source, recipe)
    with _writing(folder):
        _check_target(folder, overwrite, source.artifact)
        progress("Verifying the artifact")
        source.artifact.verify(used)
        with new_folder(folder, replace=overwrite) as partial:
            recipe.write(source, partial)
            (partial / MARKER).write_bytes(_marker(source, layout, used))
    return folder


def _used(source: LayoutSource, recipe: _Recipe) -> tuple[str, ...]:
    """The files that a layout is made from."""
    variant = source.contract.variant(source.precision)
    if variant is not None and (missing := [role for role in recipe.roles if role not in variant.graphs]):
        raise ExportError(
            f"The artifact {source.artifact.folder} has no {' and no '.join(missing)} graph, which the layout needs.",
            "Take an artifact with both towers, as `siglip-onnx export` writes it.",
        )
    graphs = [source.graph(role) for role in recipe.roles]
    files = [require_file(source, name) for name in recipe.files(source)]
    return tuple(dict.fromkeys((*(path for graph in graphs for path in (graph.path, *graph.data)), *files)))


def _marker(source: LayoutSource, layout: Layout, used: tuple[str, ...]) -> bytes:
    hashes = {inner: source.contract.files[inner].sha256 for inner in used}
    marker = Marker(layout, source.contract.name, source.precision, f"siglip-onnx {__version__}", hashes)
    return msgspec.json.format(msgspec.json.encode(marker), indent=2) + b"\n"


def _check_target(folder: Path, overwrite: bool, artifact: Artifact) -> None:
    if folder.is_relative_to(artifact.folder.resolve()):
        raise ExportError(f"{folder} lies in the artifact itself.", "Name a folder outside of it.")
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not overwrite:
        raise ExportError(f"{folder} exists already.", "Name another folder, or replace it with --overwrite.")
    if not _is_layout(folder):
        raise ExportError(
            f"{folder} is not a layout that siglip-onnx wrote, so it is not replaced.",
            "Name another folder, or remove this one yourself.",
        )


def _is_layout(folder: Path) -> bool:
    try:
        msgspec.json.decode((folder / MARKER).read_bytes(), type=Marker)
    except (OSError, msgspec.DecodeError):
        return False
    return True


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ExportError(
            f"The layout cannot be written to {folder} ({error.strerror or error}); nothing was left behind.",
            "Make room there, or name a folder that can be written.",
        ) from error
