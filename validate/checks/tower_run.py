"""One run of a tower of the candidate over all rows, which measures everything that the checks compare."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np

from ...runtime.arrays import AnyArray, Float64Array
from ...runtime.artifact.contract import Precision, Role
from ...runtime.errors import SiglipOnnxError
from ...runtime.model import PROBABILITIES, Siglip
from ...runtime.progress import Progress
from ..data.samples import Samples
from ..reference.cache import ReferenceCache
from ..stats import metrics
from .reference_inputs import InputRow, ReferenceInputs

BATCH_SIZES: Final = (2, 7, 32)
USER_ROWS: Final = 4  # images and texts that go through encode_image and encode_text
HIDDEN: Final = "last_hidden_state"
_FROZEN_OUTPUTS: Final = ("logits", PROBABILITIES)  # outputs of a vision graph with frozen labels
_PROGRESS_ROWS: Final = 100


@dataclass(frozen=True)
class TowerRun:
    """Measurements of one tower.

    Attributes:
        expected: The reference's embeddings of the reference's inputs, [rows, size].
        actual: The candidate's embeddings of the same inputs, each row run alone.
        end_to_end: The candidate's embeddings of its own inputs.
        again: The candidate's embedding of the first row in a second run, [size].
        users: Embeddings of the first rows, of length 1, by encode_image or encode_text; or the error message.
        batches: For each batch size, 1 - cosine between batched and single runs of the worst row; or the error message.
        batched: Embeddings of the largest batch that ran; None if none ran.
        batch_rows: The rows in that batch.
        hidden: last_hidden_state of the first row, candidate's and reference's; None where a graph lacks it.
        outputs: Further outputs of the candidate for its own inputs, a row for each image.
        expected_outputs: The same outputs of the fp32 variant, where it is the reference.
        seconds: Median time of one row.
        placement: Nodes by the provider that ran them; empty where the engine does not report it.
    """

    expected: AnyArray
    actual: AnyArray
    end_to_end: AnyArray
    again: AnyArray
    users: AnyArray | str
    batches: Mapping[int, float | str]
    batched: AnyArray | None
    batch_rows: AnyArray
    hidden: tuple[AnyArray, AnyArray] | None
    outputs: Mapping[str, AnyArray]
    expected_outputs: Mapping[str, AnyArray]
    seconds: float
    placement: Mapping[str, int]

    @cached_property
    def mean(self) -> Float64Array:
        """Mean of the reference's embeddings, each of length 1, [size]."""
        return np.asarray(metrics.unit_rows(self.expected).mean(0))

    @cached_property
    def centered(self) -> Float64Array:
        """Centered cosine of each row with the reference's, [rows]."""
        return metrics.centered_cosines(self.actual, self.expected, self.mean)


@dataclass
class _Rows:
    """Measurements of the rows so far."""

    expected: list[AnyArray] = field(default_factory=list)
    actual: list[AnyArray] = field(default_factory=list)
    end_to_end: list[AnyArray] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    first: list[InputRow] = field(default_factory=list)  # as many as the largest batch holds
    outputs: dict[str, list[AnyArray]] = field(default_factory=dict)
    expected_outputs: dict[str, list[AnyArray]] = field(default_factory=dict)


def has_hidden_state(model: Siglip, reference: ReferenceCache, role: Role) -> bool:
    """Whether both the candidate's graph and the reference give last_hidden_state."""
    precisions = [model.precision] if reference.fp32 is None else [model.precision, Precision.FP32]
    graphs = [model.artifact.graph(role, precision, model.options.provider) for precision in precisions]
    return all(HIDDEN in {spec.name for spec in graph.outputs} for graph in graphs)


class Towers:
    """The towers of the candidate; each is loaded, run over all rows once, and released.

    Args:
        model: The candidate.
        reference: The reference.
        inputs: The rows of both towers.
        samples: Images and texts.
        progress: Receives a short description of each step.
    """

    def __init__(
        self, model: Siglip, reference: ReferenceCache, inputs: ReferenceInputs, samples: Samples, progress: Progress
    ) -> None:
        self._model, self._reference, self._inputs = model, reference, inputs
        self._texts, self._progress = samples.texts, progress
        self._results: dict[Role, TowerRun | Exception] = {}

    def run(self, role: Role) -> TowerRun:
        """The measurements of a tower; raises the error of the first call again."""
        if role not in self._results:
            try:
                self._results[role] = self._measure(role)
            except Exception as error:  # a broken artifact may raise anything; each group that needs it reports it
                self._results[role] = error
            self._model.release(role)
        result = self._results[role]
        if isinstance(result, Exception):
            raise result
        return result

    def _measure(self, role: Role) -> TowerRun:
        self._progress(f"Running the {role} tower")
        rows = self._run_rows(role)
        actual, fed = np.concatenate(rows.actual), [row.fed for row in rows.first]
        batches, batched = self._run_batches(role, fed, actual)
        return TowerRun(
            expected=np.concatenate(rows.expected),
            actual=actual,
            end_to_end=np.concatenate(rows.end_to_end),
            again=self._model.encode(role, fed[0][None])[0],
            users=self._run_as_users(role),
            batches=batches,
            batched=batched,
            batch_rows=_batch_rows(0 if batched is None else len(batched), len(actual)),
            hidden=self._hidden(role, rows.first[0]),
            outputs={name: np.concatenate(values) for name, values in rows.outputs.items()},
            expected_outputs={name: np.concatenate(values) for name, values in rows.expected_outputs.items()},
            seconds=statistics.median(rows.seconds),
            placement=self._model.session(role).engine.placement,
        )

    def _run_rows(self, role: Role) -> _Rows:
        rows = _Rows()
        for number, row in enumerate(self._inputs.rows(role)):
            if number == 0:
                self._model.encode(role, row.fed[None])  # warm up: the first run of a session is slower
            if number % _PROGRESS_ROWS == 0:
                self._progress(f"Running the {role} tower, row {number}")
            self._run_row(role, row, rows)
        return rows

    def _run_row(self, role: Role, row: InputRow, rows: _Rows) -> None:
        started = time.perf_counter()
        actual = self._model.encode(role, row.fed[None])
        rows.seconds.append(time.perf_counter() - started)
        rows.actual.append(actual)
        rows.end_to_end.append(actual if row.own is None else self._model.encode(role, row.own[None]))
        rows.expected.append(self._reference.embeddings(role, row.reference[None]))
        if len(rows.first) < max(BATCH_SIZES):
            rows.first.append(row)
        if self._model.contract.labels is not None:
            self._run_frozen(row, rows)

    def _run_frozen(self, row: InputRow, rows: _Rows) -> None:
        """Run the outputs of frozen labels, which the vision graph has besides the embedding."""
        own = row.fed if row.own is None else row.own
        actual = self._model.session(Role.VISION).rows(own[None], _FROZEN_OUTPUTS)
        for name in _FROZEN_OUTPUTS:
            rows.outputs.setdefault(name, []).append(actual[name])
            if self._reference.fp32 is not None:
                expected = self._reference.outputs(Role.VISION, name, row.reference[None])
                rows.expected_outputs.setdefault(name, []).append(expected)

    def _run_as_users(self, role: Role) -> AnyArray | str:
        try:
            if role is Role.VISION:
                return self._model.encode_image(self._inputs.images[:USER_ROWS], batch_size=1)
            return self._model.encode_text(self._texts[:USER_ROWS], batch_size=1)
        except SiglipOnnxError as error:
            return str(error)

    def _run_batches(
        self, role: Role, fed: Sequence[AnyArray], actual: AnyArray
    ) -> tuple[dict[int, float | str], AnyArray | None]:
        results, batched = dict[int, float | str](), None
        for size in BATCH_SIZES:
            rows = _batch_rows(size, len(fed))
            try:
                embeddings = self._model.encode(role, np.stack([fed[i] for i in rows]))
            except SiglipOnnxError as error:
                results[size] = str(error)
                continue
            cosines = metrics.row_cosines(embeddings, actual[rows])
            results[size], batched = 1 - metrics.lower_quantile(cosines, 0.0), embeddings
        return results, batched

    def _hidden(self, role: Role, row: InputRow) -> tuple[AnyArray, AnyArray] | None:
        if not has_hidden_state(self._model, self._reference, role):
            return None
        actual = self._model.session(role).rows(row.fed[None], [HIDDEN])[HIDDEN]
        return actual, self._reference.outputs(role, HIDDEN, row.reference[None])


def _batch_rows(size: int, count: int) -> AnyArray:
    """The rows of a batch: the first ones, repeated where there are fewer than `size`."""
    return np.arange(size) % count
