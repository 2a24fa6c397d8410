"""Verdicts on what has no fault: over samples, their sizes, threads and precisions, none may be a FAIL."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from siglip_onnx.runtime import SessionOptions
from siglip_onnx.runtime.artifact.contract import Precision, Verdict
from siglip_onnx.validate.data.samples import DataOptions, Samples

from .fault import ONE_THREAD, Bench, Found
from .judge import EVAL, judge

_SIZES: Final = (12, 16, 24, 32)
_THREADS: Final = (1, 2)
DERIVED: Final = (Precision.INT8,)


@dataclass(frozen=True)
class Clean:
    """A verdict that must not be a FAIL.

    Attributes:
        seed: Which images of the evaluation set are drawn.
        size: How many.
        threads: That the towers run on.
        precision: Of the variant.
    """

    seed: int
    size: int
    threads: int
    precision: Precision


def runs(count: int) -> Iterator[Clean]:
    """As many runs; sizes, threads and precisions take turns, each with the next seed."""
    turns = itertools.cycle(itertools.product(_SIZES, _THREADS, (Precision.FP32, *DERIVED)))
    for seed, (size, threads, precision) in zip(range(count), turns, strict=False):
        yield Clean(seed, size, threads, precision)


def ask_once(bench: Bench) -> None:
    """Have the reference answer for the whole evaluation set, of which every sample is a part."""
    judge(bench.artifact, EVAL, options=ONE_THREAD, answers=bench.folder / "whole")


def verdict(bench: Bench, clean: Clean) -> Found:
    """The verdict of one run."""
    samples = Samples.read(EVAL, DataOptions(sample=clean.size, seed=clean.seed))
    answers = _answers(bench, samples.sha256)
    options = SessionOptions(threads=clean.threads)
    report = judge(bench.artifact, samples, precision=clean.precision, options=options, answers=answers)
    problem = report.first_problem()
    where = str(problem.group) if problem else ""
    return Found(where, report.verdict, f"{problem.name}: {problem.measured}, {problem.detail}" if problem else "")


def _answers(bench: Bench, data: str) -> Path:
    """The answers for the whole set as those for a part; rows are found by what they answer, so that is no lie."""
    (whole,) = (bench.folder / "whole").glob("*.npz")
    with np.load(whole) as stored:
        arrays: dict[str, Any] = dict(stored)
    meta = {**json.loads(arrays["meta"].tobytes()), "data": data}
    arrays["meta"] = np.frombuffer(msgspec.json.encode(meta), np.uint8)
    folder = bench.folder / "parts" / data[:20]
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{meta['identity'][:20]}-{data[:20]}.npz", **arrays)
    return folder


def is_alarm(found: Found) -> bool:
    """Whether a verdict says that something is wrong."""
    return found.verdict is Verdict.FAIL
