"""Seeded faults: defects of an exporter, a runtime, a disk or a manual edit, each put into a copy of a good artifact.

python -m tests.faults             # run all of them and print what catches each
python -m tests.faults --check     # fail if a fault is missed, or if the table in docs/parity.md is out of date
python -m tests.faults --write     # write the table to docs/parity.md
python -m tests.faults --clean 200 # validate faultless artifacts 200 times; a FAIL is a false alarm
"""

from __future__ import annotations

from typing import Final

from . import data_faults, graph_faults, input_faults, report_faults, runtime_faults, weight_faults
from .edits import in_contract
from .fault import Fault

__all__ = ["EVERY", "FAULTS", "in_contract"]

_ALL: Final = (
    *weight_faults.FAULTS,
    *weight_faults.QUANTIZED,
    *graph_faults.FAULTS,
    *input_faults.FAULTS,
    *runtime_faults.FAULTS,
    *data_faults.FAULTS,
    *report_faults.FAULTS,
)
EVERY: Final = {fault.name: fault for fault in _ALL}
assert len(EVERY) == len(_ALL), "two faults have the same name"
# One fault of each kind that an artifact with fp32 alone can have, for the tests that run every time.
_USUAL: Final = (
    "pad id 0",
    "no lower-casing",
    "mean and std of ImageNet",
    "bilinear resize",
    "red and blue swapped",
    "erf Gelu",
    "q and k swapped",
    "logit bias dropped",
    "one NaN row",
    "batch fixed to 1",
)
FAULTS: Final[dict[str, Fault]] = {name: EVERY[name] for name in _USUAL}
