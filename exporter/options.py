"""Options of an export, and their enums. This module needs neither PyTorch nor onnx-ir."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ..runtime.artifact.input_specs import Orientation, Transparency
from ..runtime.errors import ExportError

MAX_BATCH: Final = 4096
MAX_IMAGE_SIZE: Final = 8192


class Dialect(StrEnum):
    """Library whose tensor names and weight orientation a checkpoint follows."""

    TRANSFORMERS = "transformers"
    PADDLE = "paddle"
    OPEN_CLIP = "open_clip"
    BIG_VISION = "big_vision"


class GraphInput(StrEnum):
    """Input of the vision graph.

    `PIXELS` is normalized pixels, float32 [batch, 3, size, size]. `BYTES` is resized images, uint8
    [batch, size, size, 3]; the normalization is folded into the patch embedding. `IMAGE` is one decoded image of any
    size, uint8 [height, width, 3], which the graph resizes itself.
    """

    PIXELS = "pixels"
    BYTES = "bytes"
    IMAGE = "image"


class Layout(StrEnum):
    """Server or library that reads the layout: Immich, Triton Inference Server, or Optimum."""

    IMMICH = "immich"
    TRITON = "triton"
    OPTIMUM = "optimum"


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of an export; every consumer can open an artifact with the defaults.

    Attributes:
        dialect: Dialect of the weights; None detects it from the tensor names and shapes.
        image_size: Height and width in pixels instead of the checkpoint's, 1 to 8192; position embeddings are
            interpolated.
        batch: Fixed batch size, 1 to 4096; None keeps the batch dynamic.
        pooled_only: Omit last_hidden_state; the text tower then computes its last layer for the last token only.
        normalized: Scale embeddings to length 1 inside the graphs.
        image_input: Input of the vision graph.
        transparency: Treatment of an alpha channel by the runtime; `WHITE` is the reference's.
        orientation: Images that the runtime turns as their EXIF orientation says; `FILES` is the reference's choice.

    Raises:
        ExportError: A value is out of range, or image_input is IMAGE and batch is not 1.
    """

    dialect: Dialect | None = None
    image_size: int | None = None
    batch: int | None = None
    pooled_only: bool = False
    normalized: bool = False
    image_input: GraphInput = GraphInput.PIXELS
    transparency: Transparency = Transparency.WHITE
    orientation: Orientation = Orientation.FILES

    def __post_init__(self) -> None:
        _check_range("batch", self.batch, MAX_BATCH)
        _check_range("image_size", self.image_size, MAX_IMAGE_SIZE)
        if self.image_input is GraphInput.IMAGE and self.batch not in (None, 1):
            raise ExportError(
                f"A graph with the input 'image' takes one image at a time, got a batch of {self.batch}.",
                "Use the input 'bytes' or 'pixels' for larger batches.",
            )


def _check_range(name: str, value: int | None, maximum: int) -> None:
    if value is not None and not 1 <= value <= maximum:
        raise ExportError(f"{name} must be between 1 and {maximum}, got {value}.", "Choose a value in this range.")
