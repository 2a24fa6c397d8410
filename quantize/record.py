"""What was done to derive a variant; stored beside its verdict and shown on the report's page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from ..runtime.artifact.contract import Precision, Role
from ..runtime.files import as_json
from .search.search import SearchStep

RECORD_VERSION: Final = 1


@dataclass(frozen=True)
class TowerRecord:
    """One tower of a variant.

    Attributes:
        bytes: Size of its files.
        fp32_bytes: Size of the float32 tower's.
        kept: What was left at higher precision.
        notes: What calibration decided, by name of a value or node.
        walk: Every tower that the search measured, in order; empty without a search.
        seconds: Time to calibrate, search and write.
    """

    bytes: int
    fp32_bytes: int
    kept: tuple[str, ...]
    notes: dict[str, str]
    walk: tuple[SearchStep, ...]
    seconds: float


@dataclass(frozen=True)
class Record:
    """How a variant came to be; this is the JSON in an artifact's reports/.

    Attributes:
        options: The recipe's.
        goal: Metric and target of the search, if there was one.
        data: Name of the calibration data.
        data_sha256: Hash over its images and captions.
        samples: How many pairs calibrated.
        skipped: Images that could not be read and were left out on request.
        fused: How many nodes of each kind the CUDA graphs have, by tower.
    """

    created: str
    precision: Precision
    options: dict[str, object]
    goal: str | None
    data: str
    data_sha256: str
    samples: int
    skipped: tuple[str, ...]
    towers: dict[Role, TowerRecord]
    fused: dict[Role, dict[str, int]]
    tools: dict[str, str]
    schema_version: Literal[1] = RECORD_VERSION

    def to_json(self) -> bytes:
        """The record as indented JSON."""
        return as_json(self)
