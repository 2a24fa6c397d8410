"""Defects that an exporter, a runtime, a disk or a hand might make, each put into a copy of something good.

python -m tests.faults             # all of them, and what finds each
python -m tests.faults --check     # fail if one is found elsewhere than it says here, or by another table
python -m tests.faults --write     # put the table into docs/parity.md
python -m tests.faults --clean 200 # as many verdicts on what has no fault: none may be a FAIL
"""

from __future__ import annotations

from typing import Final

from . import of_data, of_graphs, of_inputs, of_reports, of_runtime, of_weights
from .edits import in_contract
from .fault import Fault

__all__ = ["EVERY", "FAULTS", "in_contract"]

_ALL: Final = (
    *of_weights.FAULTS,
    *of_weights.QUANTIZED,
    *of_graphs.FAULTS,
    *of_inputs.FAULTS,
    *of_runtime.FAULTS,
    *of_data.FAULTS,
    *of_reports.FAULTS,
)
EVERY: Final = {fault.name: fault for fault in _ALL}
assert len(EVERY) == len(_ALL), "two faults have one name"
# One of each sort that an artifact of fp32 alone can have, for the tests that run every time.
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
