"""Run an artifact without PyTorch: embeddings, zero-shot classification, retrieval.

    >>> from siglip_onnx.runtime import Siglip
    >>> model = Siglip.load("siglip-large")  # doctest: +SKIP
    >>> model.classify(["cat.jpg"], ["a cat", "a dog"])  # doctest: +SKIP

`Siglip` is the model, `SessionOptions` sets how its graphs run, `ImageOptions` changes how images are decoded,
`Label` is a result of `Siglip.classify`, `Artifact` is the folder on disk, and `SiglipOnnxError` is the base of every
error that this package raises on purpose. `siglip_onnx.runtime.bulk` embeds and searches whole collections.
"""

from .artifact.artifact import Artifact
from .engines.options import SessionOptions
from .errors import SiglipOnnxError
from .model import Siglip
from .preprocessing.image import ImageOptions
from .preprocessing.prompts import Label

__all__ = ["Artifact", "ImageOptions", "Label", "SessionOptions", "Siglip", "SiglipOnnxError"]
