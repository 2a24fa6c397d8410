"""Webdataset shards: tar files in which members with one key, such as 7.jpg, 7.txt and 7.cls, belong together."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from ...runtime.data.images import FileSlice, is_image, suffix, too_large
from ...runtime.data.policy import REFUSE, apply_policy, value_or_error
from ...runtime.data.tables import json_object
from ...runtime.data.tar import ArchiveMember, is_compressed, read_archive
from ...runtime.data.texts import decode_text
from ...runtime.errors import InputError
from .annotations import AnnotatedImage, DataOptions, captions_of, find_columns, label_of, lines_of, parse_label

_NOTE_SUFFIXES: Final = frozenset({".txt", ".json", ".cls"})
_MAX_NOTE_BYTES: Final = 2**20  # a caption has some hundred
_IMAGE: Final = "image"


@dataclass
class _Key:
    """The members with one key: their names by `image` or suffix, the image's place, and the notes' texts by suffix."""

    names: dict[str, str] = field(default_factory=dict)
    place: FileSlice | None = None
    notes: dict[str, str] = field(default_factory=dict)


def read_shard(path: Path, name: str, options: DataOptions) -> list[AnnotatedImage]:
    """An image for each key of a shard. Nothing is unpacked; an image is read from its place in the shard.

    Captions are the lines of the key's .txt member, or else in its .json member; the class is in the .cls member, or
    else in the .json member. Other members are ignored.

    Args:
        path: An uncompressed tar file.
        name: Its name, a path from the data's folder.
        options: The keys of .json members to take.

    Raises:
        InputError: The shard is damaged or compressed, a member is a link or its name leads out of the archive, or a
            key has no image, several images, or a caption or class that cannot be read.
    """
    if is_compressed(path):
        raise InputError(
            f"{path} is compressed, and an image in a compressed archive can only be read from the beginning.",
            "Decompress the archive; the tar file need not be unpacked.",
        )
    keys: dict[str, _Key] = {}
    for kind, member in _members(path):
        key = keys.setdefault(_key(member.name), _Key())
        if kind in key.names:
            raise InputError(
                f"{name} has two members for the {kind.lstrip('.')} of the key {_key(member.name)}: {key.names[kind]} "
                f"and {member.name}.",
                "Keep one; a key ends at the first dot of a name.",
            )
        key.names[kind] = member.name
        _read_member(key, kind, member)
    return [_annotated(path, name, text, key, options) for text, key in keys.items()]


def _members(path: Path) -> Iterator[tuple[str, ArchiveMember]]:
    """Images and notes, each after its kind: `image` or the suffix of a note."""
    for member in apply_policy(read_archive(path), REFUSE):
        kind = _IMAGE if is_image(member.name) else suffix(member.name)
        if not member.is_folder and (kind == _IMAGE or kind in _NOTE_SUFFIXES):
            yield kind, member


def _key(name: str) -> str:
    folder, file = posixpath.split(name)
    return posixpath.join(folder, file.split(".", 1)[0])


def _read_member(key: _Key, kind: str, member: ArchiveMember) -> None:
    limit = None if kind == _IMAGE else _MAX_NOTE_BYTES
    problem = too_large(member.size, member.where, limit)
    if problem is not None:
        raise problem.error()
    if kind == _IMAGE:
        key.place = member.place
    else:
        key.notes[kind] = value_or_error(decode_text(member.read(), member.where))


def _annotated(path: Path, name: str, key_name: str, key: _Key, options: DataOptions) -> AnnotatedImage:
    where = f"The key {key_name} of {path}"
    if key.place is None:
        others = ", ".join(key.names.values())
        raise InputError(f"{where} has no image, but {others}.", "Add the image, or remove the other members.")
    facts = json_object(key.notes[".json"], f"{path}:{key.names['.json']}") if ".json" in key.notes else {}
    captions, label = _annotations(key.notes, value_or_error(facts), options, where)
    return AnnotatedImage(f"{name}:{key.names[_IMAGE]}", key.place, captions, label, where)


def _annotations(
    notes: dict[str, str], facts: dict[str, Any], options: DataOptions, where: str
) -> tuple[tuple[str, ...], str | int | None]:
    """Captions and class in the notes of a key, and in the facts of its .json member."""
    columns = find_columns(tuple(facts), options, where)
    caption, label = (facts.get(column) if column else None for column in (columns.caption, columns.label))
    if ".txt" in notes and not options.caption_column:
        caption = lines_of(notes[".txt"]) or [""]
    if ".cls" in notes and not options.class_column:
        label = parse_label(notes[".cls"])
    return captions_of(caption, where), label_of(label, where)
