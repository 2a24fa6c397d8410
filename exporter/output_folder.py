"""Output folders: complete or absent, and replacing nothing but another artifact or layout."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ..runtime.artifact.artifact import Artifact
from ..runtime.errors import ExportError
from ..runtime.files import new_folder

_OVERHEAD: Final = 1.05  # graphs and tokenizer files besides the weights


@contextmanager
def new_artifact(folder: Path, *, overwrite: bool, source: Path, needed: int) -> Iterator[Path]:
    """Temporary folder for an artifact; it is renamed to `folder` if the block succeeds, and removed if it fails.

    Args:
        folder: Folder of the artifact.
        overwrite: Replace `folder` if it is an artifact.
        source: Folder that the artifact is made from.
        needed: Bytes of the weights.

    Raises:
        ExportError: `folder` is `source`, exists and is not an artifact to overwrite, or cannot be written; or the
            disk has too little space.
        ArtifactError: `folder` is to be overwritten and is not an artifact.
    """
    with write_errors("artifact", folder):
        if folder == source.resolve():
            raise ExportError(f"The artifact would replace its own source, {folder}.", "Choose another folder.")
        if is_occupied(folder, overwrite=overwrite):
            Artifact.open(folder)  # raises for a folder that is not an artifact
        _check_space(folder, int(needed * _OVERHEAD))
        with new_folder(folder, replace=overwrite) as partial:
            yield partial


@contextmanager
def write_errors(name: str, folder: Path) -> Iterator[None]:
    """Convert an OSError to an ExportError about the artifact or layout (`name`) that is written to `folder`."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise ExportError(
            f"The {name} cannot be written to {folder} ({error.strerror or error}); no partial files remain.",
            "Free some disk space, or choose a folder on another disk." if full else "Choose a writable folder.",
        ) from error


def is_occupied(folder: Path, *, overwrite: bool) -> bool:
    """Whether `folder` is a file or a folder with content.

    Raises:
        ExportError: It is, and must not be overwritten.
    """
    occupied = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if occupied and not overwrite:
        raise ExportError(f"{folder} already exists.", "Choose another folder, or overwrite this one.")
    return occupied


def _check_space(folder: Path, needed: int) -> None:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise ExportError(
            f"The artifact needs {needed / 1e9:.2f} GB, but the disk of {folder} has only {free / 1e9:.2f} GB left.",
            "Free some disk space, or choose a folder on another disk.",
        )
