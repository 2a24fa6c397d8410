"""Open the reference of a validation, and run it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..runtime.artifact.contract import Precision
from ..runtime.errors import InputError, ProviderError
from ..runtime.model import Siglip
from ..runtime.progress import Progress
from .checks.context import CheckContext
from .checks.run_reference import run_reference
from .data.samples import Samples
from .reference.cache import ReferenceCache
from .reference.fp32_variant import Fp32Reference
from .reference.pytorch import PyTorchReference
from .request import KnownHashes, ValidationRequest

if TYPE_CHECKING:
    from ..exporter.checkpoint.checkpoint import Checkpoint


def open_checkpoint(checkpoint: str, dialect: str | None) -> Checkpoint:
    """Open a checkpoint by folder or hub id.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        ProviderError: Packages of the extra `export` are missing.
    """
    try:
        from ..exporter.checkpoint.checkpoint import Checkpoint
        from ..exporter.options import Dialect
    except ImportError as error:
        raise ProviderError(
            f"Reading a checkpoint needs packages that are not installed ({error}).",
            "Run: pip install 'siglip-onnx[cpu,export]'.",
        ) from error
    return Checkpoint.open(checkpoint, Dialect(dialect) if dialect else None)


def open_context(
    model: Siglip,
    request: ValidationRequest,
    samples: Samples,
    *,
    hashes: KnownHashes | None = None,
    progress: Progress = print,
) -> CheckContext:
    """Open the reference, run it on the data, and return the context of the checks.

    Args:
        model: The candidate.
        request: The request; `artifact` and `data` are not read again.
        samples: The data.
        hashes: Hashes that are already known; None computes them.
        progress: Receives a short description of each step.

    Raises:
        SiglipOnnxError: As `validate`.
    """
    progress("Opening the reference")
    checkpoint, oracle = _open_reference(model, request, hashes)
    reference = ReferenceCache(oracle, hashes.data if hashes else samples.sha256, request.cache)
    limits = request.limits.limits_for(model.precision, model.options.provider)
    context = CheckContext(model, checkpoint, reference, samples, limits, progress, request.exclude_groups)
    run_reference(context)
    return context


def _open_reference(
    model: Siglip, request: ValidationRequest, hashes: KnownHashes | None
) -> tuple[Checkpoint | None, PyTorchReference | Fp32Reference]:
    if request.reference is None:
        if model.precision is Precision.FP32:
            raise InputError(
                "The fp32 variant cannot be compared with itself.", "Name its checkpoint as the reference."
            )
        return None, Fp32Reference(model.artifact.folder, allow_unvalidated=request.allow_unvalidated)
    checkpoint = open_checkpoint(request.reference, request.dialect)
    vision, size = checkpoint.config.vision_config, model.contract.image.height
    if not vision.naflex and size != vision.image_size:
        checkpoint = checkpoint.resized(size)  # exported with --image-size
    checkpoint = replace(checkpoint, image=checkpoint.image.decoded_as(model.contract.image))
    return checkpoint, PyTorchReference(checkpoint, hashes.reference if hashes else None)
