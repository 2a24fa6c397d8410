"""Run an artifact without PyTorch: embeddings, zero-shot classification, retrieval."""

from .artifact.artifact import Artifact
from .engines.options import SessionOptions
from .errors import SiglipOnnxError
from .labels import Label
from .model import Siglip
from .preprocessing.image import ImageOptions

__all__ = ["Artifact", "ImageOptions", "Label", "SessionOptions", "Siglip", "SiglipOnnxError"]
