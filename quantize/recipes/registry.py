"""Registry of the recipes, by the precision that they make."""

from __future__ import annotations

from typing import Final

from ...runtime.artifact.contract import Precision
from .base import Recipe
from .bf16 import Bf16
from .fp16 import Fp16
from .int8 import Int8
from .int8_static import Int8Static
from .weight_only import Int4, Int8Weights

RECIPES: Final[dict[Precision, type[Recipe]]] = {
    recipe.precision: recipe for recipe in (Fp16, Bf16, Int8, Int8Static, Int8Weights, Int4)
}
