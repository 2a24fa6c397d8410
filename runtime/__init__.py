"""Run an artifact without PyTorch: embeddings, zero-shot classification, retrieval."""

from .artifact import Artifact
from .contract import Precision, Provider
from .errors import SiglipOnnxError
from .image import ImageOptions, Transparency
from .model import Label, Siglip

__all__ = [
    "Artifact",
    "ImageOptions",
    "Label",
    "Precision",
    "Provider",
    "Siglip",
    "SiglipOnnxError",
    "Transparency",
]
