"""Checks of inputs before a tower runs."""

from __future__ import annotations

from collections.abc import Sized

import numpy as np

from ..arrays import AnyArray
from ..artifact.contract import Role
from ..errors import InputError


def check_rows(role: Role, inputs: AnyArray, value_range: tuple[float, float]) -> None:
    """Refuse rows with values that no image or vocabulary has; the session checks dtype and shape.

    Args:
        role: The tower.
        inputs: Rows of `ImageProcessor`, or input_ids.
        value_range: The smallest and the largest valid value.

    Raises:
        InputError: A value is out of range, or the fields of a NaFlex row contradict each other.
    """
    if not isinstance(inputs, np.ndarray) or inputs.size == 0 or inputs.dtype == np.uint8:
        return
    if inputs.dtype.names:
        _check_patches(inputs)
        inputs = inputs["pixel_values"]
    (low, high), smallest, largest = value_range, inputs.min(), inputs.max()
    if smallest < low or largest > high:
        raise InputError(
            f"The inputs of the {role} tower must be between {low:.6g} and {high:.6g}, got {smallest} to {largest}.",
            "Preprocess images with model.images, and texts with model.tokenizer.",
        )


def _check_patches(rows: AnyArray) -> None:
    """Refuse NaFlex rows whose mask does not select the patches of the grid in `spatial_shapes`."""
    mask, shapes = rows["pixel_attention_mask"], rows["spatial_shapes"]
    expected = np.arange(mask.shape[1]) < shapes.prod(axis=1, keepdims=True)
    if shapes.min() < 1 or shapes.prod(axis=1).max() > mask.shape[1] or not np.array_equal(mask, expected):
        raise InputError(
            "pixel_attention_mask and spatial_shapes of a row contradict each other.",
            "Preprocess images with model.images.",
        )


def require_batch(items: object, noun: str) -> None:
    """Refuse a single item where a list is expected: most single items are sequences of something else.

    Args:
        items: The argument to check.
        noun: Name of an item in error messages, as in "image".

    Raises:
        InputError: `items` is a single item, has no length, or is empty.
    """
    one_array = isinstance(items, np.ndarray) and items.ndim <= 3
    if one_array or isinstance(items, str | bytes) or not isinstance(items, Sized):
        raise InputError(
            f"Expected a list of {noun}s, got {type(items).__name__}.", f"Pass a list, even for one {noun}."
        )
    if not len(items):
        raise InputError(f"Expected a list of {noun}s, got an empty one.", f"Pass at least one {noun}.")
