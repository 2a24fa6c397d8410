"""What is refused before a tower sees it."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..artifact.contract import Role
from ..errors import InputError


def check_rows(role: Role, inputs: NDArray[Any], span: tuple[float, float]) -> None:
    """Refuse rows with values that no image or vocabulary has; dtype and shape are the session's to check.

    Args:
        role: Which tower they are for.
        inputs: Rows of `ImageProcessor` or input_ids.
        span: The smallest and the largest value that there can be.

    Raises:
        InputError: A value lies outside, or records of patches contradict themselves.
    """
    if not isinstance(inputs, np.ndarray) or inputs.size == 0 or inputs.dtype == np.uint8:
        return
    if inputs.dtype.names:
        _check_patches(inputs)
        inputs = inputs["pixel_values"]
    (low, high), least, most = span, inputs.min(), inputs.max()
    if least < low or most > high:
        raise InputError(
            f"The {role} tower takes values from {low:.6g} to {high:.6g}, and was given {least} to {most}.",
            "Prepare them with model.images and model.tokenizer.",
        )


def _check_patches(rows: NDArray[Any]) -> None:
    """Refuse records whose mask is not that of the grid they claim to have."""
    mask, shapes = rows["pixel_attention_mask"], rows["spatial_shapes"]
    used = np.arange(mask.shape[1]) < shapes.prod(axis=1, keepdims=True)
    if shapes.min() < 1 or shapes.prod(axis=1).max() > mask.shape[1] or not np.array_equal(mask, used):
        raise InputError("A row of patches has a mask that does not fit its spatial_shapes.", "Use model.images.")


def require_batch(items: object, what: str) -> None:
    """Refuse one item where a sequence is due; most single items are sequences of something else."""
    one_array = isinstance(items, np.ndarray) and items.ndim <= 3
    if one_array or isinstance(items, str | bytes) or not isinstance(items, Sized):
        raise InputError(f"A single {what}, or none ({type(items).__name__}).", f"Pass a list, even for one {what}.")
    if not len(items):
        raise InputError("Nothing to encode.", f"Pass at least one {what}.")
