"""Folders that the worker processes of pytest-xdist build once, instead of once each."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def is_worker() -> bool:
    """Whether this process is a worker of pytest-xdist."""
    return "PYTEST_XDIST_WORKER" in os.environ


def shared_folder(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], object]) -> Path:
    """The folder that `build` fills; the first process builds it while the others wait.

    After a failed build the next process builds it again, and reports the failure too.
    """
    base = factory.getbasetemp()
    folder = (base.parent if is_worker() else base) / name
    done = folder / "done"
    with FileLock(f"{folder}.lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            build(folder / "emoji")
            done.touch()
    return folder / "emoji"
