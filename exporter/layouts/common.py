"""Shared parts of the layouts: linking and copying an artifact's files, and changing a tower's inputs and outputs."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx_ir as ir

from ...runtime.artifact.artifact import Artifact
from ...runtime.artifact.contract import Contract, EmbeddingSpec, Graph, Precision, Role
from ...runtime.errors import ArtifactError, ExportError
from ...runtime.progress import Progress
from ..graph.builder import append_unit_length, free_names
from ..graph.load import load_graph
from ..graph.naming import base_name

EMBEDDING: Final = "embedding"
MODEL: Final = "model.onnx"
_WIDEN: Final = "widen_ids"
# Errors of os.link if the target is on another disk, the disk has no links, a file has too many, or another owner.
_NO_LINK: Final = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@dataclass(frozen=True)
class LayoutSource:
    """An artifact's variant that a layout is made from.

    Attributes:
        artifact: The artifact.
        precision: Precision of the variant.
        progress: Called with a short description before each step.
        copy: Copy weights instead of linking them.
    """

    artifact: Artifact
    precision: Precision
    progress: Progress
    copy: bool = False

    @property
    def contract(self) -> Contract:
        """The artifact's contract."""
        return self.artifact.contract

    def graph(self, role: Role) -> Graph:
        """The portable graph of a role; raises ArtifactError if the artifact has none."""
        return self.artifact.graph(role, self.precision)

    def load(self, role: Role) -> ir.Model:
        """Load the model of a role; its weights stay on disk."""
        return load_graph(self.artifact.path(self.graph(role).path))

    def save(self, model: ir.Model, role: Role, folder: Path) -> None:
        """Write a changed graph as `folder`/model.onnx, and its weights beside it."""
        folder.mkdir(parents=True, exist_ok=True)
        ir.save(model, folder / MODEL)
        self.place_data(role, folder)

    def place_data(self, role: Role, folder: Path) -> None:
        """Link the weights of a role into `folder`, or copy them if they cannot be linked."""
        for inner in self.graph(role).data:
            target = folder / base_name(inner)
            if not target.exists():
                self._place(self.artifact.path(inner), target)

    def copy_file(self, inner: str, target: Path) -> None:
        """Copy a small file of the artifact, so that editing the copy leaves the artifact unchanged."""
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.artifact.path(inner), target)

    def _place(self, source: Path, target: Path) -> None:
        reason = "as requested"
        if not self.copy:
            try:
                os.link(source, target)
            except OSError as error:
                if error.errno not in _NO_LINK:
                    raise
                reason = f"because it cannot be linked: {error.strerror}"
            else:
                self.progress(f"Linked {source.name}")
                return
        self.progress(f"Copying {source.name}, {reason}")
        shutil.copyfile(source, target)


def require_pixels(source: LayoutSource) -> None:
    """Check that the vision graph takes normalized pixels, because every reader of a layout makes these.

    Raises:
        ExportError: The vision graph has another input.
    """
    inputs = source.graph(Role.VISION).inputs
    if [(spec.name, spec.dtype) for spec in inputs] != [("pixel_values", "float32")]:
        actual = ", ".join(f"{spec.name} ({spec.dtype})" for spec in inputs)
        raise ExportError(
            f"The vision graph of {source.artifact.folder} takes {actual}, but layouts need pixel_values (float32).",
            "Export the checkpoint again with the image input 'pixels'.",
        )


def require_file(source: LayoutSource, name: str) -> str:
    """Check that the artifact has a file, and return its name.

    Raises:
        ArtifactError: The artifact does not have the file.
    """
    if name not in source.contract.files:
        raise ArtifactError(
            f"The artifact {source.artifact.folder} has no {name}, which the layout needs.",
            "Export the checkpoint again with `siglip-onnx export`.",
        )
    return name


def embedding_only(model: ir.Model, spec: EmbeddingSpec) -> None:
    """Replace a tower's outputs by `embedding`, float32 [batch, size] with rows of length 1."""
    graph = model.graph
    pooled = next(value for value in graph.outputs if value.name == spec.output)
    graph.outputs.clear()
    free_names(graph, EMBEDDING)
    graph.outputs.append(pooled if spec.normalized else append_unit_length(graph, pooled, EMBEDDING))
    graph.outputs[0].name = EMBEDDING


def rename_input(model: ir.Model, name: str) -> None:
    """Rename a tower's only input."""
    free_names(model.graph, name)
    model.graph.inputs[0].name = name


def narrow_input(model: ir.Model, name: str) -> None:
    """Replace a tower's only input, int64, by an int32 input with another name."""
    graph, old = model.graph, model.graph.inputs[0]
    free_names(graph, name, _WIDEN)
    new = ir.Value(name=name, shape=old.shape, type=ir.TensorType(ir.DataType.INT32))
    wide = ir.Value(name=old.name, shape=old.shape, type=old.type)
    old.name = None  # `wide` has this name now, and names are unique in a graph
    old.replace_all_uses_with(wide)
    graph.inputs[:] = [new]
    graph.insert_before(graph[0], [ir.node("Cast", [new], {"to": ir.DataType.INT64}, outputs=[wide], name=_WIDEN)])
