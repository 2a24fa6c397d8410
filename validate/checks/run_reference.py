"""Fill the reference cache with every output that the checks need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from ...runtime.arrays import AnyArray
from ...runtime.artifact.contract import Role
from .context import CheckContext
from .tower_run import HIDDEN, has_hidden_state

_CHUNK: Final = 8  # images in memory at once
_SELF_CHECK: Final = 2  # images and texts that the reference checks itself on


def run_reference(context: CheckContext) -> None:
    """Compute every output of the reference unless the cache is complete, and free its weights.

    Raises:
        InputError: An image or text cannot be read.
        CheckpointError: The reference contradicts itself.
    """
    context.progress("Running the reference")
    if context.reference.complete:
        return
    _run_images(context)
    if context.reference.fp32 is None:
        context.reference.oracle.check(_pixels(context, range(_SELF_CHECK)), context.inputs.ids[:_SELF_CHECK])
    if context.reference.fp32 is None or Role.TEXT in context.roles:
        _run_texts(context)
    if context.has_frozen_labels and context.reference.fp32 is None:
        context.logits.frozen_labels()
    context.reference.save()


def _run_images(context: CheckContext) -> None:
    if has_hidden_state(context.model, context.reference, Role.VISION):
        context.reference.outputs(Role.VISION, HIDDEN, _pixels(context, range(1)))
    count = len(context.inputs.images)
    for start in range(0, count, _CHUNK):
        context.progress(f"Running the reference, image {start} of {count}")
        context.reference.embeddings(Role.VISION, _pixels(context, range(start, start + _CHUNK)))


def _pixels(context: CheckContext, images: Sequence[int]) -> AnyArray:
    count = len(context.inputs.images)
    return np.stack([context.inputs.pixels(image) for image in images if image < count])


def _run_texts(context: CheckContext) -> None:
    context.progress("Running the reference, texts")
    ids = context.inputs.ids
    if Role.TEXT in context.roles and has_hidden_state(context.model, context.reference, Role.TEXT):
        context.reference.outputs(Role.TEXT, HIDDEN, ids[:1])
    context.reference.embeddings(Role.TEXT, ids)
