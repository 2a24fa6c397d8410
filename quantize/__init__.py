"""Quantization: derive smaller and faster variants of an artifact, and keep those that pass validation."""

from .quantize_variant import QuantizeResult, quantize
from .recipes.base import Recipe
from .recipes.bf16 import Bf16
from .recipes.fp16 import Fp16
from .recipes.int8 import Int8
from .recipes.int8_static import Int8Static
from .recipes.registry import RECIPES
from .recipes.weight_only import Int4, Int8Weights
from .record import Record, TowerRecord
from .request import QuantizeRequest
from .search.goal import DEFAULT_TARGETS, Goal, Measurement, Metric
from .search.search_log import SearchStep

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
    "Measurement",
    "Metric",
    "QuantizeRequest",
    "QuantizeResult",
    "Recipe",
    "Record",
    "SearchStep",
    "TowerRecord",
    "quantize",
]
