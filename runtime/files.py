"""Writing files and folders whole or not at all, and hashing them."""

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
    """The SHA-256 of a file in lower-case hex, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_json(value: object) -> bytes:
    """A value as indented JSON (RFC 8259, UTF-8), with a line's end behind it."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def write_file(path: Path, data: bytes) -> None:
    """Write `data` beside `path` and rename it into place."""
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
    """A folder beside `target` to work in, which vanishes when the block ends; leftovers of dead processes go, too."""
    _tidy_leftovers(target)
    partial = _partial_name(target)
    partial.mkdir()
    try:
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def new_folder(target: Path, *, replace: bool = False) -> Iterator[Path]:
    """A folder to fill, which becomes `target` when the block ends well and vanishes when it does not.

    It lies beside `target` and is renamed into place. What a killed process left beside `target` is tidied first.

    Args:
        target: Where the folder will be; it may be an empty folder already.
        replace: Put it in the place of a folder that is not empty.

    Raises:
        FileExistsError: `target` came to be in the meantime, and may not be replaced.
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
    """Remove what dead processes left; put back what one of them had moved aside and not replaced."""
    ours = re.compile(re.escape(f".{target.name}{_PARTIAL}") + r"(\d{1,9})-[0-9a-f]{8}(-old)?")
    for leftover in target.parent.iterdir():
        named = ours.fullmatch(leftover.name)
        if named is None or _alive(int(named[1])):
            continue
        if named[2] and not target.exists():
            os.rename(leftover, target)
        else:
            shutil.rmtree(leftover, ignore_errors=True)


def _alive(process: int) -> bool:
    if os.name == "nt":
        return True  # there os.kill would end it; such leftovers stay
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def sync(folder: Path) -> None:
    """Push every file to the disk, so that the rename never becomes visible before the content."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("r+b" if os.name == "nt" else "rb") as file:  # linked files may be readable alone
                os.fsync(file.fileno())


def _partial_name(path: Path) -> Path:
    """A name beside `path` that tells which process writes it."""
    return path.with_name(f".{path.name}{_PARTIAL}{os.getpid()}-{secrets.token_hex(4)}")
