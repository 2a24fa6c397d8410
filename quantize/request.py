"""Request for a variant, and the checks that it passes before anything is computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from ..runtime.artifact.artifact import Artifact
from ..runtime.artifact.contract import Contract, Precision, Role
from ..runtime.errors import InputError, QuantizationError
from ..validate import LimitTable
from ..validate.reference.fp32_variant import Fp32Reference
from .recipes.base import Recipe
from .recipes.fp16 import Fp16
from .search.goal import Goal
from .tower_builder import TOWERS


@dataclass(frozen=True)
class QuantizeRequest:
    """Options of `quantize` besides the recipe.

    Attributes:
        towers: Towers to quantize; the variant keeps its graph of the other tower, or uses the fp32 one.
        data: Folder with images and captions in a form of docs/data.md; None for the bundled photos.
        samples: Number of pairs to calibrate with; None for the recipe's number. The other pairs validate.
        skip_unreadable: Leave out images that cannot be read.
        goal: Goal of a search for the sites to leave at higher precision; None for no search.
        reference: Checkpoint to compare with; None for the fp32 variant, which must have passed.
        cuda: Write graphs with fused operators for CUDA, too (fp16 alone).
        overwrite: Replace a variant that exists.
        keep_failing: Keep the variant whatever the verdict is.
        limits: Limits of the verdict.
    """

    towers: tuple[Role, ...] = TOWERS
    data: Path | None = None
    samples: int | None = None
    skip_unreadable: bool = False
    goal: Goal | None = None
    reference: str | Path | None = None
    cuda: bool = False
    overwrite: bool = False
    keep_failing: bool = False
    limits: LimitTable = field(default_factory=LimitTable)


def check_request(artifact: Artifact, recipe: Recipe, request: QuantizeRequest) -> None:
    """Refuse what cannot be done, before anything is computed.

    Raises:
        InputError: An option does not fit the recipe, or calibration data is missing.
        QuantizationError: The artifact cannot be quantized like this, or the variant exists.
        InconclusiveError: The fp32 variant has no verdict to build on.
    """
    _check_options(recipe, request)
    _check_graphs(artifact, recipe, request)
    _check_existing(artifact, recipe, request)
    _check_data(recipe, request)
    if request.reference is None and not request.keep_failing:
        Fp32Reference(artifact.folder)  # refuses an fp32 variant that has not passed


def _check_options(recipe: Recipe, request: QuantizeRequest) -> None:
    if not request.towers or not set(request.towers) <= set(TOWERS):
        raise InputError(
            f"towers must be vision, text, or both, got {', '.join(request.towers) or 'none'}.", "Name one or both."
        )
    if request.samples is not None and not recipe.samples:
        raise InputError(
            f"{recipe.precision} with these options needs no calibration, got samples={request.samples}.",
            "Leave out the number of samples.",
        )
    if request.cuda and not isinstance(recipe, Fp16):
        raise InputError(
            f"{recipe.precision} has no fused CUDA graphs, only fp16 has.", "Leave out CUDA graphs, or use fp16."
        )


def _check_graphs(artifact: Artifact, recipe: Recipe, request: QuantizeRequest) -> None:
    """Refuse graphs that calibration cannot run block by block on single rows."""
    contract = artifact.contract
    if contract.labels is not None:
        raise QuantizationError(
            f"{artifact.folder} is a classifier with frozen labels, which cannot be quantized.",
            "Quantize the artifact that it was made from, then freeze the labels at that precision.",
        )
    obstacle = _calibration_obstacle(contract)
    if obstacle and (recipe.samples or request.goal or request.cuda):
        raise QuantizationError(
            f"{recipe.precision} is calibrated on single rows, but the graphs of {artifact.folder} take {obstacle}.",
            "Use bf16 or int8-weights, or export without that option; images as resized bytes work, too.",
        )


def _calibration_obstacle(contract: Contract) -> str | None:
    if contract.batch is not None:
        return f"a batch fixed to {contract.batch}"
    if contract.image.input == "image":
        return "images of any size"
    return "patches, a mask and shapes" if contract.image.resize == "patches" else None


def _check_existing(artifact: Artifact, recipe: Recipe, request: QuantizeRequest) -> None:
    fp32 = [artifact.graph(role, Precision.FP32).path for role in TOWERS]
    variant = artifact.contract.variant(recipe.precision)
    existing = [role for role in request.towers if variant and variant.graphs[role].path not in fp32]
    if existing and not request.overwrite:
        raise QuantizationError(
            f"{artifact.folder} has the {' and the '.join(existing)} tower at {recipe.precision} already.",
            "Set overwrite to replace it.",
        )


def _check_data(recipe: Recipe, request: QuantizeRequest) -> None:
    if request.data is None and (recipe.needs_user_data or request.goal):
        search = " with a search" if request.goal else ""
        raise InputError(
            f"No calibration data: {recipe.precision}{search} is fitted to the data that the model will see, for "
            "which the bundled photos cannot stand in.",
            "Give a folder with your own images and captions as data.",
        )
