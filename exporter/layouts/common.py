"""What the layouts share: files that are linked or copied out of an artifact, and changes to a tower's interface."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import onnx_ir as ir

from ...runtime.artifact.artifact import Artifact
from ...runtime.artifact.contract import Contract, EmbeddingSpec, Graph, Precision, Role
from ...runtime.errors import ArtifactError, ExportError
from ..graph.builder import append_unit_length, free_names
from ..graph.naming import base_name

Progress = Callable[[str], None]

EMBEDDING: Final = "embedding"
MODEL: Final = "model.onnx"
_WIDEN: Final = "widen_ids"
# What os.link says where there are two disks, a disk without links, too many links, or files of somebody else.
_NO_LINK: Final = {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}


@dataclass(frozen=True)
class LayoutSource:
    """An artifact at one precision, out of which a layout is made.

    Attributes:
        artifact: The artifact.
        precision: Which variant.
        progress: Told what is being done.
        copy: Copy weights where they could be linked.
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
        """The portable graph of a role.

        Raises:
            ArtifactError: The artifact has no such graph.
        """
        return self.artifact.graph(role, self.precision)

    def load(self, role: Role) -> ir.Model:
        """The model of a role, whose weights stay on the disk."""
        return ir.load(self.artifact.path(self.graph(role).path))

    def save(self, model: ir.Model, role: Role, folder: Path) -> None:
        """Write a changed graph as `folder`/model.onnx, beside the weights that it reads."""
        folder.mkdir(parents=True, exist_ok=True)
        ir.save(model, folder / MODEL)
        self.place_data(role, folder)

    def place_data(self, role: Role, folder: Path) -> None:
        """Put the weights of a role into `folder`; they take no room unless they must be copied."""
        for inner in self.graph(role).data:
            target = folder / base_name(inner)
            if not target.exists():
                self._place(self.artifact.path(inner), target)

    def take(self, inner: str, target: Path) -> None:
        """Copy a small file of the artifact, so that it can be edited without harm to the artifact."""
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.artifact.path(inner), target)

    def _place(self, source: Path, target: Path) -> None:
        reason = "as asked"
        if not self.copy:
            try:
                os.link(source, target)
            except OSError as error:
                if error.errno not in _NO_LINK:
                    raise
                reason = f"since it cannot be linked there: {error.strerror}"
            else:
                self.progress(f"Linked {source.name}")
                return
        self.progress(f"Copying {source.name}, {reason}")
        shutil.copyfile(source, target)


def require_pixels(source: LayoutSource) -> None:
    """Check that the vision graph takes normalized pixels, which is what the layouts' readers feed.

    Raises:
        ExportError: It takes something else.
    """
    inputs = source.graph(Role.VISION).inputs
    if [(spec.name, spec.dtype) for spec in inputs] != [("pixel_values", "float32")]:
        found = ", ".join(f"{spec.name} ({spec.dtype})" for spec in inputs)
        raise ExportError(
            f"The vision graph of {source.artifact.folder} takes {found}, where layouts need pixel_values (float32).",
            "Export the checkpoint again without options that change what the vision graph takes.",
        )


def require_file(source: LayoutSource, name: str) -> str:
    """A file that the artifact must have.

    Raises:
        ArtifactError: The artifact does not have it.
    """
    if name not in source.contract.files:
        raise ArtifactError(
            f"The artifact {source.artifact.folder} has no {name}, which the layout needs.",
            "Export the checkpoint again with `siglip-onnx export`.",
        )
    return name


def embedding_only(model: ir.Model, spec: EmbeddingSpec) -> None:
    """Make `embedding`, float32 [batch, size] of length 1, the only output of a tower."""
    graph = model.graph
    pooled = next(value for value in graph.outputs if value.name == spec.output)
    graph.outputs.clear()
    free_names(graph, EMBEDDING)
    graph.outputs.append(pooled if spec.normalized else append_unit_length(graph, pooled, EMBEDDING))
    graph.outputs[0].name = EMBEDDING


def rename_input(model: ir.Model, name: str) -> None:
    """Give another name to a tower's one input."""
    free_names(model.graph, name)
    model.graph.inputs[0].name = name


def narrow_input(model: ir.Model, name: str) -> None:
    """Make a tower's one input, int64, an int32 of another name."""
    graph, old = model.graph, model.graph.inputs[0]
    free_names(graph, name, _WIDEN)
    new = ir.Value(name=name, shape=old.shape, type=ir.TensorType(ir.DataType.INT32))
    wide = ir.Value(name=old.name, shape=old.shape, type=old.type)
    old.name = None  # free for the value that takes its place
    old.replace_all_uses_with(wide)
    graph.inputs[:] = [new]
    graph.insert_before(graph[0], [ir.node("Cast", [new], {"to": ir.DataType.INT64}, outputs=[wide], name=_WIDEN)])
