"""Verdicts on faultless artifacts: over samples, sample sizes, threads and precisions, none may be a FAIL."""

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

from .fault import ONE_THREAD, FaultFixture, FaultOutcome
from .validation import EVAL, validate_artifact

_SIZES: Final = (12, 16, 24, 32)
_THREADS: Final = (1, 2)
DERIVED: Final = (Precision.INT8,)


@dataclass(frozen=True)
class CleanRun:
    """A validation that must not end with FAIL.

    Attributes:
        seed: Seed of the random sample of the evaluation set.
        size: Number of images in the sample.
        threads: Number of threads that the towers run on.
        precision: Precision of the variant.
    """

    seed: int
    size: int
    threads: int
    precision: Precision


def runs(count: int) -> Iterator[CleanRun]:
    """Yield runs with consecutive seeds, cycling through sizes, threads and precisions."""
    cycle = itertools.cycle(itertools.product(_SIZES, _THREADS, (Precision.FP32, *DERIVED)))
    for seed, (size, threads, precision) in zip(range(count), cycle, strict=False):
        yield CleanRun(seed, size, threads, precision)


def fill_cache(fixture: FaultFixture) -> None:
    """Run the reference on the whole evaluation set, which contains every sample."""
    validate_artifact(fixture.artifact, EVAL, options=ONE_THREAD, cache=fixture.folder / "whole")


def validate_sample(fixture: FaultFixture, run: CleanRun) -> FaultOutcome:
    """Validate the fixture's artifact on a run's sample."""
    samples = Samples.read(EVAL, DataOptions(sample=run.size, seed=run.seed))
    cache = _cache_for(fixture, samples.sha256)
    options = SessionOptions(threads=run.threads)
    report = validate_artifact(fixture.artifact, samples, precision=run.precision, options=options, cache=cache)
    problem = report.first_problem()
    if problem is None:
        return FaultOutcome("", report.verdict)
    return FaultOutcome(str(problem.group), report.verdict, f"{problem.name}: {problem.measured}, {problem.detail}")


def _cache_for(fixture: FaultFixture, data: str) -> Path:
    """A copy of the whole set's reference cache for a sample; rows are keyed by input, so the values are correct."""
    (whole,) = (fixture.folder / "whole").glob("*.npz")
    with np.load(whole) as stored:
        arrays: dict[str, Any] = dict(stored)
    meta = {**json.loads(arrays["meta"].tobytes()), "data": data}
    arrays["meta"] = np.frombuffer(msgspec.json.encode(meta), np.uint8)
    folder = fixture.folder / "parts" / data[:20]
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / f"{meta['identity'][:20]}-{data[:20]}.npz", **arrays)
    return folder


def is_alarm(outcome: FaultOutcome) -> bool:
    """Whether a verdict is a false alarm."""
    return outcome.verdict is Verdict.FAIL
