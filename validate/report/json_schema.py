"""JSON schemas of the reports, generated from their dataclasses.

    python -m siglip_onnx.validate.report.json_schema docs/schema

The file name and the `$id` of a schema contain the report's version. Within one version, fields, check groups and
providers may be added; nothing is removed or changes its meaning.
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
class _ReportKind:
    """Kind of report with a published schema."""

    name: str
    version: int
    title: str
    type: type


_KINDS: Final = (
    _ReportKind("report", REPORT_VERSION, "siglip-onnx: parity report of one cell", Report),
    _ReportKind("matrix", MATRIX_VERSION, "siglip-onnx: parity report of a gate", Matrix),
)


def schemas() -> dict[str, bytes]:
    """All schemas as indented JSON, by file name, such as `report-3.json`."""
    return {f"{kind.name}-{kind.version}.json": _schema(kind) for kind in _KINDS}


def _schema(kind: _ReportKind) -> bytes:
    (root,), parts = msgspec.json.schema_components([kind.type], ref_template="#/$defs/{name}")
    identity = f"urn:siglip-onnx:{kind.name}:{kind.version}"
    head = {"$schema": _DIALECT, "$id": identity, "title": kind.title, "version": kind.version}
    parts = {name: _with_descriptions(_all_required(parts[name])) for name in sorted(parts)}
    return as_json(head | root | {"$defs": parts})


def _all_required(part: dict[str, Any]) -> dict[str, Any]:
    """Mark all fields as required: msgspec makes fields with a default optional, but reports always contain them."""
    return part | {"required": list(part["properties"])} if "properties" in part else part


def _with_descriptions(part: dict[str, Any]) -> dict[str, Any]:
    """Move the "Attributes" section of a docstring, which msgspec copies verbatim, to the fields it describes."""
    text, _, rest = inspect.cleandoc(part.get("description", "")).partition("\n\nAttributes:\n")
    notes = dict(re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", rest, re.MULTILINE))
    fields = {
        name: field | ({"description": " ".join(notes[name].split())} if name in notes else {})
        for name, field in part.get("properties", {}).items()
    }
    return part | ({"description": text} if text else {}) | ({"properties": fields} if fields else {})


def write(folder: Path) -> None:
    """Write all schemas into a folder.

    Raises:
        InputError: The folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in schemas().items():
            write_file(folder / name, data)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}).", "Choose another folder.") from error


if __name__ == "__main__":
    write(Path(sys.argv[1]))
