"""Write files and folders atomically, and hash files."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

_PARTIAL = ".partial-"
_OLD = "-old"


def sha256(path: Path) -> str:
    """The SHA-256 of a file (64 lower-case hex digits), read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_json(value: object) -> bytes:
    """A value as indented JSON (RFC 8259, UTF-8) with a final newline."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def write_file(path: Path, data: bytes) -> None:
    """Write `data` to a temporary file beside `path` and rename it into place."""
    partial = _partial_name(path)
    try:
        with partial.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` for the block; also deletes leftovers of dead processes."""
    _tidy_leftovers(target)
    partial = _partial_name(target)
    partial.mkdir()
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def new_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder for the block to fill; it is renamed to `target` after the block, or deleted if the block raises.

    Leftovers of killed processes beside `target` are deleted first.

    Args:
        target: The final path; an empty folder may exist there.
        replace: Replace a folder that is not empty.

    Raises:
        FileExistsError: `target` exists by now, is not empty, and may not be replaced.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder(target) as partial:
        yield partial
        sync(partial)
        _move_into_place(partial, target, replace)


def _move_into_place(partial: Path, target: Path, replace: bool) -> None:
    if not (target.exists() and replace):
        os.rename(partial, target)  # fails on a folder that is not empty
        return
    old = partial.with_name(partial.name + _OLD)
    try:
        os.rename(target, old)
        os.rename(partial, target)
    except BaseException:
        if not target.exists():
            os.rename(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _tidy_leftovers(target: Path) -> None:
    """Delete leftovers of dead processes; restore a folder that one of them had moved aside and not replaced."""
    pattern = re.compile(re.escape(f".{target.name}{_PARTIAL}") + r"(\d{1,9})-[0-9a-f]{8}(-old)?")
    for leftover in target.parent.iterdir():
        match = pattern.fullmatch(leftover.name)
        if match is None or _alive(int(match[1])):
            continue
        if match[2] and not target.exists():
            os.rename(leftover, target)
        else:
            shutil.rmtree(leftover, ignore_errors=True)


def _alive(process: int) -> bool:
    if os.name == "nt":
        return True  # os.kill would end the process on Windows, so leftovers stay there
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sync(folder: Path) -> None:
    """Flush every file to the disk, so that a rename never becomes visible before the content."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("r+b" if os.name == "nt" else "rb") as file:  # linked files may be read-only
                os.fsync(file.fileno())


def _partial_name(path: Path) -> Path:
    """A path beside `path` whose name contains the id of this process."""
    return path.with_name(f".{path.name}{_PARTIAL}{os.getpid()}-{secrets.token_hex(4)}")
