"""Requests: they reach other processes unchanged, and find the baseline's report of each cell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from siglip_onnx.runtime import SessionOptions
from siglip_onnx.runtime.artifact.contract import Precision, Provider, Verdict
from siglip_onnx.runtime.errors import InconclusiveError, InputError
from siglip_onnx.validate import CheckGroup, DataOptions, LimitTable, Report, ValidationRequest
from siglip_onnx.validate.matrix.protocol import WorkerTask, decode, encode
from siglip_onnx.validate.report.report import DataRecord, at_most
from siglip_onnx.validate.request import KnownHashes

DATA = DataRecord("photos", "0" * 64, 12, 40, 12)
CHECK = at_most(CheckGroup.LOGITS, "difference max", 0.001, 0.02)
ACCEPTED = Report("", 1.0, "emoji", "", Precision.FP32, Provider.CPU, "", "", DATA, {}, Verdict.PASS, (CHECK,))
LATENCY = LimitTable({("int8", "cpu"): {"latency": 1.5, "samples": 3}}, "limits.toml")


def test_a_task_reaches_another_process_unchanged() -> None:
    request = ValidationRequest(
        Path("emoji"),
        "checkpoint",
        Path("photos"),
        DataOptions(labels=Path("labels.txt")),
        LATENCY,
        (ACCEPTED,),
        cache=Path("cache"),
        options=SessionOptions(threads=2),
        exclude_groups=frozenset({CheckGroup.PIXELS}),
    )
    for hashes in (None, KnownHashes("a", "b")):
        task = WorkerTask(request, Precision.INT8, Provider.CPU, hashes)
        assert decode(encode(task)) == task
    assert isinstance(decode(encode(task)).request.limits.limits_for(Precision.INT8, Provider.CPU).samples, int)


def test_each_cell_has_its_own_accepted_report() -> None:
    request = ValidationRequest(Path("emoji"), baseline=(ACCEPTED,))
    assert request.accepted_report(Precision.FP32, Provider.CPU) is ACCEPTED
    with pytest.raises(InconclusiveError, match="no int8 on cpu"):
        request.accepted_report(Precision.INT8, Provider.CPU)
    assert replace(request, baseline=()).accepted_report(Precision.INT8, Provider.CPU) is None


def test_a_latency_limit_needs_a_baseline() -> None:
    with pytest.raises(InputError, match="baseline"):
        ValidationRequest(Path("emoji"), limits=LATENCY).accepted_report(Precision.INT8, Provider.CPU)
