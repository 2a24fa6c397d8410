"""One tower of the judged model, asked everything that the check groups want to know of it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from ...runtime.arrays import Float64Array
from ...runtime.artifact.contract import Role
from ...runtime.errors import SiglipOnnxError
from ...runtime.model import PROBABILITIES
from ..stats import metrics

if TYPE_CHECKING:
    from .context import CheckContext

Array = NDArray[Any]
BATCHES: Final = (2, 7, 32)
USERS: Final = 4  # images and texts that go through the functions which users call
HIDDEN: Final = "last_hidden_state"
_FROZEN: Final = ("logits", PROBABILITIES)  # outputs of a tower with labels in it


@dataclass(frozen=True)
class TowerRun:
    """What a tower answered.

    Attributes:
        wanted: The reference's embeddings of its own inputs, [rows, size].
        found: Ours of the same inputs, each row run alone.
        end_to_end: Ours of our own inputs; the tower ran again only where these differ.
        again: Ours of the first row, run a second time.
        users: The first few, of length 1, through the function that users call, or why that gives none.
        batches: For each batch size 1 - cosine of the worst row with itself alone, or why there is none.
        batched: Embeddings of the largest batch that ran; None where none did.
        batch_rows: Which rows these are.
        hidden: last_hidden_state of the first row, ours and the reference's; None where the graph does not give it.
        other: Further outputs of our own inputs, a row for each image.
        wanted_other: The fp32 variant's, where that is compared with.
        seconds: Median time of one row.
        placement: How many nodes ran where; empty where the program does not tell.
    """

    wanted: Array
    found: Array
    end_to_end: Array
    again: Array
    users: Array | str
    batches: Mapping[int, float | str]
    batched: Array | None
    batch_rows: Array
    hidden: tuple[Array, Array] | None
    other: Mapping[str, Array]
    wanted_other: Mapping[str, Array]
    seconds: float
    placement: Mapping[str, int]

    @cached_property
    def mean(self) -> Float64Array:
        """The mean of the reference's embeddings, each of length 1."""
        return np.asarray(metrics.unit_rows(self.wanted).mean(0))

    @cached_property
    def centered(self) -> Float64Array:
        """Centered cosine of each row with the reference's."""
        return metrics.centered_cosines(self.found, self.wanted, self.mean)


class _Rows:
    """What is kept of each row while they pass."""

    def __init__(self) -> None:
        self.wanted: list[Array] = []
        self.found: list[Array] = []
        self.end_to_end: list[Array] = []
        self.seconds: list[float] = []
        self.first: list[Array] = []  # inputs, as many as the largest batch holds
        self.theirs: Array | None = None  # the reference's input of the first row
        self.other: dict[str, list[Array]] = {}
        self.wanted_other: dict[str, list[Array]] = {}


def ask(context: CheckContext, role: Role) -> TowerRun:
    """Load a tower and ask it everything."""
    context.progress(f"Running the {role} tower")
    model, rows = context.model, _pass(context, role)
    found = np.concatenate(rows.found)
    batches, batched = _batches(context, role, rows, found)
    session = model.session(role)
    return TowerRun(
        wanted=np.concatenate(rows.wanted),
        found=found,
        end_to_end=np.concatenate(rows.end_to_end),
        again=model.encode(role, rows.first[0][None])[0],
        users=_users(context, role),
        batches=batches,
        batched=batched,
        batch_rows=_chosen(0 if batched is None else len(batched), len(found)),
        hidden=_hidden(context, role, rows),
        other={name: np.concatenate(values) for name, values in rows.other.items()},
        wanted_other={name: np.concatenate(values) for name, values in rows.wanted_other.items()},
        seconds=statistics.median(rows.seconds),
        placement=session.engine.placement,
    )


def _pass(context: CheckContext, role: Role) -> _Rows:
    kept, model = _Rows(), context.model
    model.encode(role, next(iter(context.inputs(role)))[1][None])  # the first run of a session is never the usual one
    for number, (theirs, given, ours) in enumerate(context.inputs(role)):
        if number % 100 == 0:
            context.progress(f"Running the {role} tower, row {number}")
        started = time.perf_counter()
        found = model.encode(role, given[None])
        kept.seconds.append(time.perf_counter() - started)
        kept.found.append(found)
        kept.end_to_end.append(found if ours is None else model.encode(role, ours[None]))
        kept.wanted.append(context.answers.embeddings(role, theirs[None]))
        if kept.theirs is None:
            kept.theirs = theirs[None]
        if len(kept.first) < max(BATCHES):
            kept.first.append(given)
        if context.frozen is not None:
            _keep_other(context, kept, theirs, given if ours is None else ours)
    return kept


def _keep_other(context: CheckContext, kept: _Rows, theirs: Array, ours: Array) -> None:
    """The outputs of frozen labels, which are part of what the vision graph gives."""
    found = context.model.session(Role.VISION).rows(ours[None], _FROZEN)
    for name in _FROZEN:
        kept.other.setdefault(name, []).append(found[name])
        if context.baseline is not None:
            wanted = context.answers.outputs(Role.VISION, name, theirs[None])
            kept.wanted_other.setdefault(name, []).append(wanted)


def _users(context: CheckContext, role: Role) -> Array | str:
    try:
        if role is Role.VISION:
            return context.model.encode_image(context.files[:USERS], batch_size=1)
        return context.model.encode_text(context.samples.texts[:USERS], batch_size=1)
    except SiglipOnnxError as error:
        return str(error)


def _chosen(size: int, count: int) -> Array:
    return np.arange(size) % count


def _batches(
    context: CheckContext, role: Role, rows: _Rows, found: Array
) -> tuple[dict[int, float | str], Array | None]:
    said: dict[int, float | str] = {}
    batched = None
    for size in BATCHES:
        chosen = _chosen(size, len(rows.first))
        try:
            together = context.model.encode(role, _stack(rows.first, chosen))
        except SiglipOnnxError as error:
            said[size] = str(error)
            continue
        cosines = metrics.row_cosines(together, found[chosen])
        said[size], batched = 1 - metrics.lower_quantile(cosines, 0.0), together
    return said, batched


def _stack(rows: Sequence[Array], chosen: Array) -> Array:
    return np.stack([rows[i] for i in chosen])


def _hidden(context: CheckContext, role: Role, rows: _Rows) -> tuple[Array, Array] | None:
    session = context.model.session(role)
    if rows.theirs is None or not context.compares_hidden(role):
        return None
    ours = session.rows(rows.first[0][None], [HIDDEN])[HIDDEN]
    return ours, context.answers.outputs(role, HIDDEN, rows.theirs)
