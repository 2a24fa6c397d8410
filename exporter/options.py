"""Choices of an export."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ..runtime.errors import ExportError
from .checkpoint.dialects import Dialect

MAX_BATCH: Final = 4096


class GraphInput(StrEnum):
    """What the vision graph takes: normalized pixels, bytes of the model's own size, or a decoded image of any size.

    `PIXELS` is float32 [batch, 3, size, size], `BYTES` uint8 [batch, size, size, 3] with the normalization folded into
    the patch embedding, `IMAGE` one image, uint8 [height, width, 3], that the graph resizes itself.
    """

    PIXELS = "pixels"
    BYTES = "bytes"
    IMAGE = "image"


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """How a checkpoint is exported; the defaults give what every consumer opens.

    Attributes:
        dialect: Whose names and orientation the weights have; None finds out.
        image_size: Pixels each way, where not the checkpoint's own; position embeddings are interpolated for it.
        batch: A fixed batch; None leaves it free.
        pooled_only: Leave out last_hidden_state; the text tower then computes its last layer for the last token alone.
        normalized: Scale the embeddings to length 1 in the graph.
        image_input: What the vision graph takes.
    """

    dialect: Dialect | None = None
    image_size: int | None = None
    batch: int | None = None
    pooled_only: bool = False
    normalized: bool = False
    image_input: GraphInput = GraphInput.PIXELS

    def __post_init__(self) -> None:
        if self.batch is not None and not 1 <= self.batch <= MAX_BATCH:
            raise ExportError(f"A batch of {self.batch} cannot be.", f"Use 1 to {MAX_BATCH}, or none to leave it free.")
        if self.image_size is not None and not 1 <= self.image_size <= 8192:
            raise ExportError(f"Images of {self.image_size} pixels each way cannot be.", "Use 1 to 8192.")
        if self.image_input is GraphInput.IMAGE and self.batch not in (None, 1):
            raise ExportError(
                f"A graph that takes an image of any size takes one at a time, not {self.batch}.",
                "Use --image-input bytes or pixels for batches.",
            )
