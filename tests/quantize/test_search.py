"""Search for the sites to leave at higher precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from siglip_onnx.quantize import Goal, Measurement, Metric, SearchStep
from siglip_onnx.quantize.search.search import search
from siglip_onnx.quantize.search.search_log import SearchLog
from siglip_onnx.runtime.errors import InputError, QuantizationError

from ..conftest import quiet


def _measurement(error: float, timed: bool, bytes_: int = 1) -> Measurement:
    return Measurement(1 - error, 1 - error, error, error, bytes_, 1.0 if timed else None)


def test_only_the_worst_sites_are_excluded_and_an_interrupted_search_continues(tmp_path: Path) -> None:
    errors = {f"s{i}": 1e-6 for i in range(20)} | {"bad": 0.01, "worse": 0.05}
    calls: list[frozenset[str]] = []

    def evaluate(exclude: frozenset[str], timed: bool) -> Measurement:
        calls.append(exclude)
        if len(calls) == 12 and not (tmp_path / "again").exists():
            (tmp_path / "again").touch()
            raise KeyboardInterrupt
        return _measurement(sum(error for name, error in errors.items() if name not in exclude), timed)

    costs = dict.fromkeys(errors, 100)
    with pytest.raises(KeyboardInterrupt):
        search(costs, evaluate, Goal(0.999), SearchLog(tmp_path / "log.json", "a"), quiet)
    done = len(calls) - 1
    log = SearchLog(tmp_path / "log.json", "a")
    assert len(log.steps) == done  # no trial is repeated
    assert search(costs, evaluate, Goal(0.999), log, quiet) == {"bad", "worse"}
    assert len(set(calls)) == len(calls) - 1  # only the interrupted trial is repeated
    assert SearchLog(tmp_path / "log.json", "another").steps == {}
    assert len(log.steps) == len(set(calls))
    log.remove()
    assert not (tmp_path / "log.json").exists()


def test_nan_is_the_worst_result_and_is_read_back_from_the_log(tmp_path: Path) -> None:
    log = SearchLog(tmp_path / "log.json", "a")
    log.add(SearchStep((), Measurement(None, None, None, 0.0, 1)))
    again = SearchLog(tmp_path / "log.json", "a").steps[frozenset()]
    assert again.measured.centered_cosine is None
    assert Goal(0.5).loss(again.measured) == np.inf
    assert not Goal(0.5).is_met(again.measured)


def test_the_search_respects_the_number_of_trials(tmp_path: Path) -> None:
    costs = {f"layers.{i}.{site}": 100 for i in range(24) for site in ("qkv", "out", "mlp.fc1", "mlp.fc2")}
    error = {name: 1e-3 if name.startswith("layers.7.") else 1e-7 for name in costs}
    log = SearchLog(tmp_path / "log.json", "a")

    def evaluate(exclude: frozenset[str], timed: bool) -> Measurement:
        return _measurement(sum(error[name] for name in costs if name not in exclude), timed)

    exclude = search(costs, evaluate, Goal(0.9999, max_trials=40), log, quiet)
    assert exclude == {name for name in costs if name.startswith("layers.7.")}
    assert len(log.steps) <= 40


def test_an_unreachable_target_reports_the_best_trial(tmp_path: Path) -> None:
    def evaluate(exclude: frozenset[str], timed: bool) -> Measurement:
        return _measurement(0.01 * (3 - len(exclude)), timed, 5_000_000)

    with pytest.raises(
        QuantizationError, match=r"best of \d+ trials has centered-cosine 0\.99\d+ with 2 of 3 sites excluded.*5\.0 MB"
    ):
        search(dict.fromkeys("abc", 1), evaluate, Goal(0.9999), SearchLog(tmp_path / "d.json", ""), quiet)


@pytest.mark.parametrize("target", [0.0, 1.0, 1.5, -0.1])
def test_targets_out_of_range_are_refused(target: float) -> None:
    with pytest.raises(InputError, match="must be"):
        Goal(target)
    assert Goal(0.0, Metric.RETRIEVAL_DROP).target == 0.0
    with pytest.raises(InputError, match="must be"):
        Goal(1.0, Metric.RETRIEVAL_DROP)
