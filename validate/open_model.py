"""What is judged: an artifact of ours, or anybody's files adopted for the time of the verdict."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..runtime.artifact.artifact import Artifact
from ..runtime.artifact.contract import CONTRACT_FILE, Precision, Provider
from ..runtime.engines.options import SessionOptions
from ..runtime.errors import InputError
from ..runtime.model import Siglip
from .report.report import CheckGroup
from .validate_variant import open_checkpoint

if TYPE_CHECKING:
    from .external.open_external import Mapping
    from .matrix.worker import Job


@dataclass(frozen=True)
class OpenedModel:
    """A model to judge.

    Attributes:
        model: It, loaded with a precision and provider.
        without: Check groups for which its files bring nothing of their own.
        notes: What was assumed of files without a contract, a sentence each.
    """

    model: Siglip
    without: frozenset[CheckGroup] = frozenset()
    notes: tuple[str, ...] = ()


def is_artifact(folder: Path) -> bool:
    """Whether a folder has a contract."""
    return (folder / CONTRACT_FILE).exists()


def open_model(job: Job, precision: Precision, provider: Provider) -> OpenedModel:
    """Open what a job judges.

    Raises:
        ArtifactError: It is missing, damaged, or lacks that precision.
        ProviderError: The provider is missing.
        InputError: Files without a contract are to be judged without a checkpoint, or cannot be understood.
    """
    options = replace(job.options, provider=provider).for_its_provider()
    if is_artifact(job.artifact):
        return OpenedModel(Siglip(Artifact.open(job.artifact), precision, options))
    return _adopted(job, precision, options)


def _adopted(job: Job, precision: Precision, options: SessionOptions) -> OpenedModel:
    """Files without a contract, which the checkpoint has to explain."""
    from .external.open_external import open_external

    if job.checkpoint is None:
        raise InputError(
            f"{job.artifact} has no {CONTRACT_FILE}, so it says neither what it computes nor how it is fed.",
            "Name the checkpoint that it was made from with --reference.",
        )
    source = open_checkpoint(job.checkpoint, job.dialect)
    adopted = open_external(job.artifact, source, precision, _mapping(job))
    model = Siglip(adopted.artifact, precision, options)
    judged = {
        CheckGroup.TOKENS: adopted.has_tokenizer,
        CheckGroup.PIXELS: adopted.has_preprocessor,
        CheckGroup.BATCH: all(adopted.artifact.graph(role, precision).batch is None for role in model.contract.towers),
    }
    without = frozenset(group for group, there in judged.items() if not there)
    return OpenedModel(model, without, adopted.notes)


def precisions_of(job: Job) -> tuple[Precision, ...]:
    """Every precision that there is to judge; errors as of `open_model`."""
    if is_artifact(job.artifact):
        variants = Artifact.open(job.artifact).contract.variants
        found = tuple(dict.fromkeys(variant.precision for variant in variants))
        # Without a checkpoint fp32 is what the others are compared with.
        return found if job.checkpoint is not None else tuple(p for p in found if p is not Precision.FP32)
    from .external.open_external import precisions

    return precisions(job.artifact, _mapping(job))


def _mapping(job: Job) -> Mapping | None:
    from .external.open_external import read_mapping

    return read_mapping(job.mapping) if job.mapping else None


def weights_of(job: Job) -> dict[Precision, int]:
    """Bytes of the graphs and weights of each precision; empty for files without a contract."""
    if not is_artifact(job.artifact):
        return {}
    contract = Artifact.open(job.artifact).contract
    sizes: dict[Precision, int] = {}
    for variant in contract.variants:
        size = sum(contract.files[path].bytes for path in variant.files)
        sizes[variant.precision] = max(size, sizes.get(variant.precision, 0))
    return sizes
