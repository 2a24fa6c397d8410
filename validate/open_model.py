"""Open the candidate of a request: an artifact, or the files of an external model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..runtime.artifact.artifact import Artifact
from ..runtime.artifact.contract import CONTRACT_FILE, Precision, Provider
from ..runtime.engines.options import SessionOptions
from ..runtime.errors import InputError
from ..runtime.model import Siglip
from .open_reference import open_checkpoint
from .report.report import CheckGroup
from .request import ValidationRequest

if TYPE_CHECKING:
    from .external.open_external import TowerMap


@dataclass(frozen=True)
class OpenedModel:
    """A candidate.

    Attributes:
        model: The model, loaded with a precision and provider.
        exclude_groups: Check groups for which its files have nothing to check.
        notes: Assumptions about files without a contract, a sentence each.
    """

    model: Siglip
    exclude_groups: frozenset[CheckGroup] = frozenset()
    notes: tuple[str, ...] = ()


def is_artifact(folder: Path) -> bool:
    """Whether a folder has a contract."""
    return (folder / CONTRACT_FILE).exists()


def open_model(request: ValidationRequest, precision: Precision, provider: Provider) -> OpenedModel:
    """Open the candidate of a request.

    Raises:
        ArtifactError: The files are missing, damaged, or lack that precision.
        ProviderError: The provider is missing.
        InputError: The files have no contract, and the request names no checkpoint to explain them.
    """
    options = replace(request.options, provider=provider).for_its_provider()
    if is_artifact(request.artifact):
        return OpenedModel(Siglip(Artifact.open(request.artifact), precision, options))
    return _open_external(request, precision, options)


def _open_external(request: ValidationRequest, precision: Precision, options: SessionOptions) -> OpenedModel:
    from .external.open_external import open_external

    if request.reference is None:
        raise InputError(
            f"{request.artifact} has no {CONTRACT_FILE}, so nothing says what it computes and which inputs it expects.",
            "Name the checkpoint that it was made from as the reference.",
        )
    checkpoint = open_checkpoint(request.reference, request.dialect)
    external = open_external(request.artifact, checkpoint, precision, _tower_map(request))
    model = Siglip(external.artifact, precision, options)
    graphs = [external.artifact.graph(role, precision) for role in model.contract.towers]
    checked = {
        CheckGroup.TOKENS: external.has_tokenizer,
        CheckGroup.PIXELS: external.has_preprocessor,
        CheckGroup.BATCH: all(graph.batch is None for graph in graphs),
    }
    return OpenedModel(model, frozenset(group for group, present in checked.items() if not present), external.notes)


def available_precisions(request: ValidationRequest) -> tuple[Precision, ...]:
    """Every precision that can be validated; errors as of `open_model`."""
    if is_artifact(request.artifact):
        variants = Artifact.open(request.artifact).contract.variants
        precisions = tuple(dict.fromkeys(variant.precision for variant in variants))
        # Without a checkpoint the fp32 variant is the reference.
        return precisions if request.reference is not None else tuple(p for p in precisions if p is not Precision.FP32)
    from .external.open_external import external_precisions

    return external_precisions(request.artifact, _tower_map(request))


def _tower_map(request: ValidationRequest) -> TowerMap | None:
    from .external.open_external import read_tower_map

    return read_tower_map(request.tower_map) if request.tower_map else None


def weight_sizes(request: ValidationRequest) -> dict[Precision, int]:
    """Bytes of graphs and weights by precision; empty for files without a contract."""
    if not is_artifact(request.artifact):
        return {}
    contract = Artifact.open(request.artifact).contract
    sizes: dict[Precision, int] = {}
    for variant in contract.variants:
        size = sum(contract.files[path].bytes for path in variant.files)
        sizes[variant.precision] = max(size, sizes.get(variant.precision, 0))
    return sizes
