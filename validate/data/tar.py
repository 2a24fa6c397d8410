"""Webdataset shards: tar files in which members of one key, such as 7.jpg, 7.txt and 7.cls, belong together."""

from __future__ import annotations

import json
import os
import posixpath
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from ...runtime.bulk.items import MAX_MEMBER, PACKED, ArchiveMember, StrictInfo
from ...runtime.errors import InputError
from .rows import DataOptions, Row, as_label, captions_of, columns, is_image, is_unicode, label_of, lines_of

_NOTES: Final = frozenset({".txt", ".json", ".cls"})
_MAX_NOTE: Final = 2**20  # bytes of one of these; a caption has some hundred
_IMAGE: Final = "image"


def read_shard(path: Path, name: str, options: DataOptions) -> list[Row]:
    """A row for each key of a shard. Nothing is unpacked; images are read where they lie.

    Captions are the lines of the key's .txt member, or else in its .json member; its class is in the .cls member, or
    else in the .json one. Members of other kinds are left alone.

    Args:
        path: An uncompressed tar file.
        name: What it is called in the names of images.
        options: Which keys of .json members to take.

    Raises:
        InputError: It is damaged or compressed, a member is a link or its path leads out of the archive, or a key has
            no image, several, or a caption or class that cannot be read.
    """
    try:
        _check_plain(path)
        with tarfile.open(path, "r:", tarinfo=StrictInfo) as archive:
            return [
                _row(archive, path, name, key, members, options) for key, members in _keys(archive, path, name).items()
            ]
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"{path} cannot be read as an archive ({error}).", "Copy it again.") from error


def _check_plain(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(6).startswith(PACKED):
            raise InputError(
                f"{path} is compressed, so its images can only be read from its beginning, and each is read several "
                "times.",
                "Decompress the archive; the tar file itself need not be unpacked.",
            )


def _keys(archive: tarfile.TarFile, path: Path, name: str) -> dict[str, dict[str, tarfile.TarInfo]]:
    """For each key its image and notes, in the order of the keys' first members."""
    keys: dict[str, dict[str, tarfile.TarInfo]] = {}
    for member in _files(archive, path):
        folder, file = posixpath.split(member.name)
        ending = os.path.splitext(file)[1].lower()
        kind = _IMAGE if is_image(file) else ending
        if kind != _IMAGE and kind not in _NOTES:
            continue
        key = posixpath.join(folder, file.split(".", 1)[0])
        parts = keys.setdefault(key, {})
        if kind in parts:
            raise InputError(
                f"In {name}, {parts[kind].name} and {member.name} are both the {kind.lstrip('.')} of the key {key}.",
                "Keep one; what stands behind the first dot of a name is no part of the key.",
            )
        parts[kind] = member
    return keys


def _files(archive: tarfile.TarFile, path: Path) -> Iterator[tarfile.TarInfo]:
    """The members that are files; whatever could lead out of the archive is refused."""
    for member in archive:
        steps = member.name.replace("\\", "/").split("/")
        if member.name.startswith(("/", "\\")) or ".." in steps or not is_unicode(member.name):
            raise InputError(f"{path} has a member named {member.name!r}, which leads out of it.", "Do not trust it.")
        if member.isdir():
            continue
        if not member.isreg() or member.issparse():
            raise InputError(
                f"{path} has a member {member.name} that is no plain file but a link, a device or sparse.",
                "Write the archive again with plain files alone.",
            )
        yield member


def _row(
    archive: tarfile.TarFile,
    path: Path,
    name: str,
    key: str,
    members: dict[str, tarfile.TarInfo],
    options: DataOptions,
) -> Row:
    where = f"The key {key} of {path}"
    image = members.get(_IMAGE)
    if image is None:
        others = ", ".join(member.name for member in members.values())
        raise InputError(f"{where} has no image, but {others}.", "Add it, or leave the others out.")
    if image.size > MAX_MEMBER:
        raise InputError(f"{where} has {image.size:,} bytes; {MAX_MEMBER:,} are read at most.", "Leave it out.")
    texts = {kind: _note(archive, path, member) for kind, member in members.items() if kind != _IMAGE}
    place = ArchiveMember(str(path), image.offset_data, image.size)
    return Row(f"{name}:{image.name}", place, *_about(texts, options, where), where)


def _about(texts: dict[str, str], options: DataOptions, where: str) -> tuple[tuple[str, ...], str | int | None]:
    """Captions and class that the notes of a key tell."""
    facts = _object(texts[".json"], where) if ".json" in texts else {}
    known = columns(tuple(facts), options, where)
    caption, label = (facts.get(column) if column else None for column in (known.caption, known.label))
    if ".txt" in texts and not options.caption_column:
        caption = lines_of(texts[".txt"]) or [""]
    if ".cls" in texts and not options.class_column:
        label = as_label(texts[".cls"])
    return captions_of(caption, where), label_of(label, where)


def _note(archive: tarfile.TarFile, path: Path, member: tarfile.TarInfo) -> str:
    where = f"{path}:{member.name}"
    if member.size > _MAX_NOTE:
        raise InputError(f"{where} has {member.size:,} bytes; {_MAX_NOTE:,} are read at most.", "Leave it out.")
    file = archive.extractfile(member)
    data = file.read() if file else b""
    if len(data) != member.size:
        raise InputError(f"{path} ends within {member.name}.", "Copy it again.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{where} is not UTF-8 ({error.reason} at byte {error.start}).", "Save it as UTF-8."
        ) from error


def _object(text: str, where: str) -> dict[str, Any]:
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} has a .json member that is no JSON ({error}).", "Write it again.") from error
    if not isinstance(facts, dict):
        raise InputError(f"{where} has a .json member that is no object.", "Write one with the keys caption and class.")
    return facts
