"""Derive smaller and faster variants of an artifact, and keep those that are proved to be right."""

from .quantize_variant import QuantizeRequest, QuantizeResult, quantize
from .recipes.base import Recipe
from .recipes.recipes import RECIPES, Bf16, Fp16, Int4, Int8, Int8Static, Int8Weights
from .record import Record
from .search.search import DEFAULT_TARGETS, Goal, Metric

__all__ = [
    "DEFAULT_TARGETS",
    "RECIPES",
    "Bf16",
    "Fp16",
    "Goal",
    "Int4",
    "Int8",
    "Int8Static",
    "Int8Weights",
    "Metric",
    "QuantizeRequest",
    "QuantizeResult",
    "Recipe",
    "Record",
    "quantize",
]
