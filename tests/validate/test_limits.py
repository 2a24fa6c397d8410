"""Limits of one's own: a TOML file changes what it names, and nothing that it misspells."""

from __future__ import annotations

from pathlib import Path

import pytest

from siglip_onnx.runtime.artifact.contract import Precision, Provider
from siglip_onnx.runtime.errors import InputError
from siglip_onnx.validate import DEFAULT_LIMITS, LimitTable


def read(tmp_path: Path, text: str) -> LimitTable:
    path = tmp_path / "gates.toml"
    path.write_text(text)
    return LimitTable.read(path)


def test_the_more_special_table_wins(tmp_path: Path) -> None:
    limits = read(
        tmp_path,
        "[default]\nthreshold = 0.3\nlogit_max = 9.0\n[int8]\nlogit_max = 2.0\n[int8.openvino]\nlogit_max = 1.0\n",
    )
    found = {
        (precision, provider): limits.limits_for(precision, provider).logit_max
        for precision in (Precision.INT8, Precision.FP16)
        for provider in (Provider.CPU, Provider.OPENVINO)
    }
    assert list(found.values()) == [2.0, 1.0, 9.0, 9.0]
    assert limits.limits_for(Precision.INT4, Provider.CUDA).threshold == 0.3
    assert limits.source.startswith("gates.toml, SHA-256 ")


def test_without_a_file_the_defaults_hold() -> None:
    assert all(LimitTable().limits_for(precision, Provider.CPU) == gate for precision, gate in DEFAULT_LIMITS.items())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[int9]\nlogit_max = 1", "Did you mean int8"),
        ("[int8]\nlogit_maxx = 1", "Did you mean logit_max"),
        ("[int8.opnvino]\nlogit_max = 1", "Did you mean openvino"),
        ("[default.cpu]\nlogit_max = 1", "which there is not"),
        ("int8 = 3", "not a table"),
        ('[int8]\nlogit_max = "2"', "a number"),
        ("[int8]\nlogit_max = nan", "a number"),
        ("[int8]\nlogit_max = true", "a number"),
        ("[int8]\nlogit_max = -1", "of at least 0"),
        ("[int8]\ncosine = 1.5", "from 0 to 1"),
        ("[default]\nconfidence = 1.0", "below 1"),
        ("[default]\nsamples = 1.5", "without a fraction"),
        ("[default", "cannot be read"),
        ("\0", "cannot be read"),
    ],
)
def test_what_no_gate_has_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read(tmp_path, text)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        LimitTable.read(tmp_path / "nowhere.toml")
