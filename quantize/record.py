"""Record of how a variant was made; it is stored beside the verdict and shown in the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from ..runtime.artifact.contract import Precision, Role
from ..runtime.files import as_json
from .search.search_log import SearchStep

RECORD_VERSION: Final = 2


@dataclass(frozen=True)
class TowerRecord:
    """Record of one tower of a variant.

    Attributes:
        bytes: Size of the tower's files.
        fp32_bytes: Size of the fp32 tower's files.
        excluded: Names of the sites or modules that were left at higher precision.
        notes: Decisions of the calibration, by name of a value or node.
        steps: Every trial of the search, in order; empty without a search.
        seconds: Time to calibrate, search and write.
    """

    bytes: int
    fp32_bytes: int
    excluded: tuple[str, ...]
    notes: dict[str, str]
    steps: tuple[SearchStep, ...]
    seconds: float


@dataclass(frozen=True)
class Record:
    """Record of how a variant was made; written as JSON to the artifact's reports folder.

    Attributes:
        created: UTC time in ISO 8601.
        precision: Precision of the variant.
        options: Options of the recipe, without the exclusions.
        goal: Metric and target of the search, if there was one.
        data: Name of the calibration data.
        data_sha256: Hash over the images and captions that calibrated.
        samples: Number of calibration pairs.
        skipped: Images that could not be read and were left out on request.
        towers: Record of each tower that was made.
        fused: Number of fused nodes of each kind in the CUDA graphs, by tower.
        tools: Versions of the packages, by name.
        schema_version: Version of this form.
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
    schema_version: Literal[2] = RECORD_VERSION

    def to_json(self) -> bytes:
        """Return the record as indented JSON."""
        return as_json(self)
