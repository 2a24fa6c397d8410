"""The JSON schemas of the reports, for whoever reads them in another language.

    python -m siglip_onnx.validate.report.json_schema docs/schema

A schema has its report's version in its file name and in its `$id`. Within a version nothing is taken away or changes
its meaning; fields, check groups and providers may be added.
"""

from __future__ import annotations

import inspect
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from ...runtime.errors import InputError
from ...runtime.files import as_json, write_file
from .matrix import MATRIX_VERSION, Matrix
from .report import REPORT_VERSION, Report

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True)
class _Kind:
    """A report that is published."""

    name: str
    version: int
    title: str
    type: type


_KINDS: Final = (
    _Kind("report", REPORT_VERSION, "siglip-onnx: parity report of one cell", Report),
    _Kind("matrix", MATRIX_VERSION, "siglip-onnx: parity report of a gate", Matrix),
)


def schemas() -> dict[str, bytes]:
    """Every schema as indented JSON, by its file name, such as `report-2.json`."""
    return {f"{kind.name}-{kind.version}.json": _schema(kind) for kind in _KINDS}


def _schema(kind: _Kind) -> bytes:
    (root,), parts = msgspec.json.schema_components([kind.type], ref_template="#/$defs/{name}")
    identity = f"urn:siglip-onnx:{kind.name}:{kind.version}"
    head = {"$schema": _DIALECT, "$id": identity, "title": kind.title, "version": kind.version}
    parts = {name: _described(_complete(parts[name])) for name in sorted(parts)}
    return as_json(head | root | {"$defs": parts})


def _complete(part: dict[str, Any]) -> dict[str, Any]:
    """An object with every field required: a reader may leave one out that has a default, a writer never does."""
    return part | {"required": list(part["properties"])} if "properties" in part else part


def _described(part: dict[str, Any]) -> dict[str, Any]:
    """What a docstring says of attributes, at these; msgspec hands it over as it stands in the source."""
    text, _, rest = inspect.cleandoc(part.get("description", "")).partition("\n\nAttributes:\n")
    notes = dict(re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", rest, re.MULTILINE))
    fields = {
        name: field | ({"description": " ".join(notes[name].split())} if name in notes else {})
        for name, field in part.get("properties", {}).items()
    }
    return part | ({"description": text} if text else {}) | ({"properties": fields} if fields else {})


def write(folder: Path) -> None:
    """Write every schema into a folder; raises InputError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in schemas().items():
            write_file(folder / name, data)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}).", "Name another folder.") from error


if __name__ == "__main__":
    write(Path(sys.argv[1]))
