"""Where an artifact is written: beside its place first, and only over another artifact."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ..runtime.artifact.artifact import Artifact
from ..runtime.errors import ExportError
from ..runtime.files import new_folder

Progress = Callable[[str], None]

_ROOM: Final = 1.05  # graphs and tokenizer files beside the weights


@contextmanager
def new_artifact(folder: Path, *, overwrite: bool, source: Path, needed: int) -> Iterator[Path]:
    """A folder to fill, which becomes `folder` when the block ends well and vanishes when it does not.

    Args:
        folder: The artifact's folder.
        overwrite: Replace it if it is an artifact already.
        source: The folder that it is made from.
        needed: Bytes of its weights.

    Raises:
        ExportError: It would replace what it is made from, or something that is no artifact, or cannot be written.
    """
    try:
        _check_target(folder, overwrite, source, int(needed * _ROOM))
        with new_folder(folder, replace=overwrite) as partial:
            yield partial
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise ExportError(
            f"The artifact cannot be written to {folder} ({error.strerror or error}); nothing was left behind.",
            "Make room on that disk, or name a folder on another." if full else "Name a folder that can be written.",
        ) from error


def _check_target(folder: Path, overwrite: bool, source: Path, needed: int) -> None:
    if folder == source.resolve():
        raise ExportError(f"The artifact would replace what it is made from, {folder}.", "Name another folder.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not overwrite:
            raise ExportError(f"{folder} exists already.", "Name another folder, or replace it with --overwrite.")
        Artifact.open(folder)  # what is not an artifact is never replaced
    room = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free = shutil.disk_usage(room).free
    if free < needed:
        raise ExportError(
            f"The artifact needs {needed / 1e9:.2f} GB, but the disk of {folder} has only {free / 1e9:.2f} GB left.",
            "Make room, or name a folder on another disk.",
        )
