"""A limits file overrides the limits that it names; unknown names and bad values are refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from siglip_onnx.runtime.artifact.contract import Precision, Provider
from siglip_onnx.runtime.errors import InputError
from siglip_onnx.validate import DEFAULT_LIMITS, LimitTable


def read(tmp_path: Path, text: str) -> LimitTable:
    path = tmp_path / "limits.toml"
    path.write_text(text)
    return LimitTable.read(path)


def test_more_specific_table_wins(tmp_path: Path) -> None:
    table = read(
        tmp_path,
        "[default]\nthreshold = 0.3\nlogit_max = 9.0\n[int8]\nlogit_max = 2.0\n[int8.openvino]\nlogit_max = 1.0\n",
    )
    logit_max = {
        (precision, provider): table.limits_for(precision, provider).logit_max
        for precision in (Precision.INT8, Precision.FP16)
        for provider in (Provider.CPU, Provider.OPENVINO)
    }
    assert list(logit_max.values()) == [2.0, 1.0, 9.0, 9.0]
    assert table.limits_for(Precision.INT4, Provider.CUDA).threshold == 0.3
    assert table.source.startswith("limits.toml, SHA-256 ")


def test_without_a_file_the_defaults_apply() -> None:
    table = LimitTable()
    assert all(table.limits_for(precision, Provider.CPU) == limits for precision, limits in DEFAULT_LIMITS.items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[int9]\nlogit_max = 1", 'unknown table "int9". Did you mean "int8"'),
        ("[int8]\nlogit_maxx = 1", r'unknown limit "logit_maxx" in \[int8\]. Did you mean "logit_max"'),
        ("[int8]\nzzz = 1", r'unknown limit "zzz" in \[int8\]. Choose one of cosine, '),
        ("[int8.opnvino]\nlogit_max = 1", 'unknown table "int8.opnvino". Did you mean "int8.openvino"'),
        ("[default.cpu]\nlogit_max = 1", 'unknown table "default.cpu"'),
        ("int8 = 3", "int8 must be a table, got 3"),
        ("margin = 0.3", r"outside of any table. Put it below \[default\]"),
        ('[int8]\nlogit_max = "2"', "must be a number"),
        ("[int8]\nlogit_max = nan", "must be a number"),
        ("[int8]\nlogit_max = inf", "must be a number"),
        ("[int8]\nlogit_max = true", "must be a number"),
        ("[int8]\nlogit_max = -1", "a number of at least 0, got -1"),
        ("[int8]\ncosine = 1.5", "between 0 and 1, got 1.5"),
        ("[default]\nconfidence = 1.0", "above 0 and below 1, got 1.0"),
        ("[default]\nsamples = 1.5", "an integer of at least 1, got 1.5"),
        ("[default", "cannot be read"),
        ("\0", "cannot be read"),
    ],
)
def test_unknown_names_and_bad_values_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, text)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        LimitTable.read(tmp_path / "nowhere.toml")
