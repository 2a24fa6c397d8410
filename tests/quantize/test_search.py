"""The search for what to leave at higher precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from siglip_onnx.quantize import Goal, Metric
from siglip_onnx.quantize.search import search
from siglip_onnx.quantize.search.search import Measurement, SearchLog, SearchStep
from siglip_onnx.runtime.errors import (
    InputError,
    QuantizationError,
)

from ..conftest import quiet

# The search


def _measured(error: float, timed: bool, bytes_: int = 1) -> Measurement:
    return Measurement(1 - error, 1 - error, error, error, bytes_, 1.0 if timed else None)


def test_the_search_keeps_the_worst_sites_alone_and_remembers(tmp_path: Path) -> None:
    errors = {f"s{i}": 1e-6 for i in range(20)} | {"bad": 0.01, "worse": 0.05}
    calls: list[frozenset[str]] = []

    def evaluate(keep: frozenset[str], timed: bool) -> Measurement:
        calls.append(keep)
        if len(calls) == 12 and not (tmp_path / "again").exists():
            (tmp_path / "again").touch()
            raise KeyboardInterrupt
        return _measured(sum(error for name, error in errors.items() if name not in keep), timed)

    costs = dict.fromkeys(errors, 100)
    with pytest.raises(KeyboardInterrupt):
        search.search(costs, evaluate, Goal(0.999), SearchLog(tmp_path / "diary.json", "a"), quiet)
    done = len(calls) - 1
    diary = SearchLog(tmp_path / "diary.json", "a")
    assert len(diary.steps) == done  # nothing that was measured is measured again
    assert search.search(costs, evaluate, Goal(0.999), diary, quiet) == {"bad", "worse"}
    assert len(set(calls)) == len(calls) - 1  # but for the one that was interrupted
    assert SearchLog(tmp_path / "diary.json", "another").steps == {}
    assert len(diary.steps) == len(set(calls))
    diary.remove()
    assert not (tmp_path / "diary.json").exists()


def test_what_is_no_number_is_the_worst_and_survives_an_interruption(tmp_path: Path) -> None:
    diary = SearchLog(tmp_path / "diary.json", "a")
    diary.add(SearchStep((), Measurement(None, None, None, 0.0, 1)))
    again = SearchLog(tmp_path / "diary.json", "a").steps[frozenset()]
    assert again.measured.centered_cosine is None
    assert Goal(0.5).loss(again.measured) == np.inf
    assert not Goal(0.5).met(again.measured)


def test_the_search_stays_within_its_evaluations(tmp_path: Path) -> None:
    costs = {f"layers.{i}.{site}": 100 for i in range(24) for site in ("qkv", "out", "mlp.fc1", "mlp.fc2")}
    error = {name: 1e-3 if name.startswith("layers.7.") else 1e-7 for name in costs}
    diary = SearchLog(tmp_path / "diary.json", "a")

    def evaluate(keep: frozenset[str], timed: bool) -> Measurement:
        return _measured(sum(error[name] for name in costs if name not in keep), timed)

    keep = search.search(costs, evaluate, Goal(0.9999, evaluations=40), diary, quiet)
    assert keep == {name for name in costs if name.startswith("layers.7.")}
    assert len(diary.steps) <= 40


def test_an_impossible_target_says_the_best_that_was_reached(tmp_path: Path) -> None:
    def evaluate(keep: frozenset[str], timed: bool) -> Measurement:
        return _measured(0.01 * (3 - len(keep)), timed, 5_000_000)

    with pytest.raises(
        QuantizationError, match=r"best of \d+ evaluations is centered-cosine 0\.99\d+ with 2 of 3 sites kept.*5\.0 MB"
    ):
        search.search(dict.fromkeys("abc", 1), evaluate, Goal(0.9999), SearchLog(tmp_path / "d.json", ""), quiet)


@pytest.mark.parametrize("target", [0.0, 1.0, 1.5, -0.1])
def test_targets_without_sense_are_refused(target: float) -> None:
    with pytest.raises(InputError, match="is no target"):
        Goal(target)
    assert Goal(0.0, Metric.RETRIEVAL_DROP).target == 0.0
    with pytest.raises(InputError, match="is no target"):
        Goal(1.0, Metric.RETRIEVAL_DROP)
