"""Faults in the data and in the reference cache."""

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
from .fault import Fault, FaultArea, FaultTarget, read_captions, write_captions


def _in_captions(edit: Callable[[list[dict[str, str]]], list[dict[str, str]]]) -> Change:
    return lambda folder: write_captions(folder, edit(read_captions(folder)))


def _first(folder: Path) -> Path:
    return folder / read_captions(folder)[0]["image"]


def _not_an_image(folder: Path) -> None:
    _first(folder).write_bytes(b"<!doctype html><title>404</title>")


def _truncated_image(folder: Path) -> None:
    data = _first(folder).read_bytes()
    _first(folder).write_bytes(data[: len(data) // 2])


def _missing(folder: Path) -> None:
    _first(folder).unlink()


def _all_the_same(folder: Path) -> None:
    """A script copied one file over all others."""
    for row in read_captions(folder)[1:]:
        shutil.copy(_first(folder), folder / row["image"])


def _shifted(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """A table whose columns are shifted by one row."""
    return [{**row, "text": other["text"]} for row, other in zip(rows, [*rows[1:], rows[0]], strict=True)]


def _same_caption(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{**row, "text": rows[0]["text"]} for row in rows]


def _empty(folder: Path) -> None:
    (folder / "captions.jsonl").write_text("")


def _half_surrogate(folder: Path) -> None:
    text = (folder / "captions.jsonl").read_text("utf-8")
    (folder / "captions.jsonl").write_text(text + '\n{"image": "x.png", "text": "\\ud800"}', "utf-8")


def _in_cache(edit: Callable[[dict[str, Any]], None]) -> Change:
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
    """A cache of other data or of another model under the correct file name."""

    def edit(arrays: dict[str, Any]) -> None:
        meta = msgspec.json.decode(arrays["meta"].tobytes(), type=dict[str, Any])
        arrays["meta"] = np.frombuffer(msgspec.json.encode({**meta, **changes}), np.uint8)

    return edit


def _truncated_cache(folder: Path) -> None:
    (path,) = folder.glob("*.npz")
    path.write_bytes(path.read_bytes()[:5000])


def _refused(name: str, make: Change) -> Fault:
    return Fault(name, FaultArea.DATA, InputError, make, target=FaultTarget.DATA)


def _undecided(name: str, make: Change, group: CheckGroup) -> Fault:
    return Fault(name, FaultArea.DATA, group, make, target=FaultTarget.DATA, verdict=Verdict.INCONCLUSIVE)


def _cache(name: str, make: Change) -> Fault:
    return Fault(name, FaultArea.DATA, InputError, make, target=FaultTarget.CACHE)


FAULTS: Final = (
    _refused("no samples", _empty),
    _refused("file that is not an image", _not_an_image),
    _refused("truncated image", _truncated_image),
    _refused("missing image", _missing),
    _refused("image listed twice", _in_captions(lambda rows: [*rows, rows[0]])),
    _refused("caption that is not valid Unicode", _half_surrogate),
    _undecided("three samples", _in_captions(lambda rows: rows[:3]), CheckGroup.EMBEDDINGS),
    # Equal embeddings minus their mean leave only rounding errors to compare.
    Fault(
        "same content in every image file",
        FaultArea.DATA,
        CheckGroup.EMBEDDINGS,
        _all_the_same,
        target=FaultTarget.DATA,
    ),
    _undecided("captions shifted by one image", _in_captions(_shifted), CheckGroup.NON_INFERIORITY),
    _undecided("one caption for all images", _in_captions(_same_caption), CheckGroup.RETRIEVAL),
    _cache("reference cache of another model", _in_cache(_meta(identity="0" * 64))),
    _cache("reference cache of other data", _in_cache(_meta(data="0" * 64))),
    _cache("truncated reference cache", _truncated_cache),
)
