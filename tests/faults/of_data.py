"""Data that no verdict can stand on, and answers that are not the reference's."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from siglip_onnx.runtime.artifact.contract import Verdict
from siglip_onnx.runtime.errors import InputError
from siglip_onnx.validate import CheckGroup

from .edits import Change
from .fault import Fault, FaultArea, Place, lines, write_lines


def _in_lines(edit: Callable[[list[dict[str, str]]], list[dict[str, str]]]) -> Change:
    return lambda folder: write_lines(folder, edit(lines(folder)))


def _first(folder: Path) -> Path:
    return folder / lines(folder)[0]["image"]


def _no_image(folder: Path) -> None:
    _first(folder).write_bytes(b"<!doctype html><title>404</title>")


def _half_an_image(folder: Path) -> None:
    data = _first(folder).read_bytes()
    _first(folder).write_bytes(data[: len(data) // 2])


def _missing(folder: Path) -> None:
    _first(folder).unlink()


def _all_the_same(folder: Path) -> None:
    """A shuffling script that copied one file over all others."""
    for row in lines(folder)[1:]:
        shutil.copy(_first(folder), folder / row["image"])


def _shifted(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """A table whose columns slipped by a line."""
    return [{**row, "text": other["text"]} for row, other in zip(rows, [*rows[1:], rows[0]], strict=True)]


def _same_caption(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{**row, "text": rows[0]["text"]} for row in rows]


def _empty(folder: Path) -> None:
    (folder / "captions.jsonl").write_text("")


def _half_surrogate(folder: Path) -> None:
    text = (folder / "captions.jsonl").read_text("utf-8")
    (folder / "captions.jsonl").write_text(text + '\n{"image": "x.png", "text": "\\ud800"}', "utf-8")


def _in_answers(edit: Callable[[dict[str, Any]], None]) -> Change:
    def make(folder: Path) -> None:
        (path,) = folder.glob("*.npz")
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored}
        edit(arrays)
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        path.write_bytes(buffer.getvalue())

    return make


def _meta(**changes: Any) -> Callable[[dict[str, Any]], None]:
    """Answers to other questions, or of another model, under the name of the right ones."""

    def edit(arrays: dict[str, Any]) -> None:
        meta = msgspec.json.decode(arrays["meta"].tobytes(), type=dict[str, Any])
        arrays["meta"] = np.frombuffer(msgspec.json.encode({**meta, **changes}), np.uint8)

    return edit


def _cut(folder: Path) -> None:
    (path,) = folder.glob("*.npz")
    path.write_bytes(path.read_bytes()[:5000])


def _refused(name: str, make: Change) -> Fault:
    return Fault(name, FaultArea.DATA, InputError, make, place=Place.DATA)


def _undecided(name: str, make: Change, group: CheckGroup) -> Fault:
    return Fault(name, FaultArea.DATA, group, make, place=Place.DATA, verdict=Verdict.INCONCLUSIVE)


def _answers(name: str, make: Change) -> Fault:
    return Fault(name, FaultArea.DATA, InputError, make, place=Place.ANSWERS)


FAULTS: Final = (
    _refused("no sample at all", _empty),
    _refused("an image that is none", _no_image),
    _refused("half an image", _half_an_image),
    _refused("an image that is missing", _missing),
    _refused("an image named twice", _in_lines(lambda rows: [*rows, rows[0]])),
    _refused("a caption that is no Unicode", _half_surrogate),
    _undecided("three samples", _in_lines(lambda rows: rows[:3]), CheckGroup.EMBEDDINGS),
    # Once the mean of equal embeddings is taken off, rounding is all that is left to compare.
    Fault("one image for all names", FaultArea.DATA, CheckGroup.EMBEDDINGS, _all_the_same, place=Place.DATA),
    _undecided("captions shifted by one image", _in_lines(_shifted), CheckGroup.NON_INFERIORITY),
    _undecided("one caption for all images", _in_lines(_same_caption), CheckGroup.RETRIEVAL),
    _answers("answers of another model", _in_answers(_meta(identity="0" * 64))),
    _answers("answers about other data", _in_answers(_meta(data="0" * 64))),
    _answers("answers cut off", _cut),
)
