"""Derive smaller and faster variants of an artifact, and keep those that are proved to be right."""

from .recipe import Recipe
from .recipes import RECIPES, Bf16, Fp16, Int4, Int8, Int8Static, Int8Weights
from .record import Record
from .run import Job, Result, quantize
from .search import DEFAULT_TARGETS, Goal, Metric

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
    "Job",
    "Metric",
    "Recipe",
    "Record",
    "Result",
    "quantize",
]
