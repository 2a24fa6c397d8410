"""PyTorch reference: transformers' model, tokenizer and image processor, in float32 on the CPU."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import math
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from ...exporter.checkpoint.image_spec import processor_file
from ...exporter.options import Dialect
from ...runtime import privacy
from ...runtime.arrays import AnyArray, FloatArray, IntArray
from ...runtime.artifact.contract import Role
from ...runtime.engines.host import installed_version
from ...runtime.errors import CheckpointError, ProviderError
from ...runtime.files import sha256
from ...runtime.preprocessing.image import patches_dtype
from ..data.images import ImageSource
from ..stats import metrics
from .decode import decode

if TYPE_CHECKING:
    from ...exporter.checkpoint.checkpoint import Checkpoint

_BATCH: Final = 8  # rows of one forward pass
_REQUIRED_FILES: Final = ("config.json", "tokenizer_config.json")
# Largest difference, in logits, between the model's own forward pass and logits computed from its two towers.
_TOLERANCE: Final = 1e-4


@dataclass(frozen=True)
class _Classes:
    """transformers' classes for a checkpoint, and the torch module."""

    torch: Any
    model: Any
    processor: Any
    tokenizer: Any


class PyTorchReference:
    """A checkpoint as transformers computes it.

    transformers itself reads weights in the `transformers` dialect. It does not know the other dialects, so the
    exporter's reader loads those weights; the checks of RETRIEVAL show whether that reader is right.

    Args:
        source: The checkpoint.
        sha256: `sha256` of this reference if it is already known; None computes it from the weight files.

    Raises:
        ProviderError: torch or transformers is missing.
        CheckpointError: transformers cannot open the checkpoint.
    """

    def __init__(self, source: Checkpoint, sha256: str | None = None) -> None:
        self.source, self._known_sha256 = source, sha256
        self._lower_case = source.tokenizer.library == "sentencepiece" and source.tokenizer.lower_case
        self._classes = _classes(source)
        self._torch = self._classes.torch
        with self._transformers_folder() as folder:
            self._tokenizer: Any = self._classes.tokenizer.from_pretrained(folder, local_files_only=True)
            self._processor: Any = self._classes.processor.from_pretrained(folder, local_files_only=True)
            stored = self._classes.model.config_class.from_pretrained(folder, local_files_only=True).vision_config
        self._interpolated = (
            not source.image.max_patches and stored.image_size != source.config.vision_config.image_size
        )

    @contextlib.contextmanager
    def _transformers_folder(self) -> Iterator[Path]:
        """Yield a folder that transformers can read; raise its complaints as CheckpointError."""
        try:
            with _quiet(), _readable(self.source) as folder:
                yield folder
        except CheckpointError:
            raise
        except Exception as error:  # transformers raises many kinds of errors for a bad config
            raise CheckpointError(
                f"transformers cannot open {self.source.folder}: {error}", "Download the checkpoint again."
            ) from error

    @functools.cached_property
    def _model(self) -> Any:
        """The model; its weights are read at first use."""
        with self._transformers_folder() as folder:
            return self._load(self._classes.model, folder).eval()

    def release(self) -> None:
        """Free the weights; the next use reads them again."""
        self.__dict__.pop("_model", None)

    def _load(self, model_class: Any, folder: Path) -> Any:
        if self.source.weights.dialect is Dialect.TRANSFORMERS:
            options = {"dtype": self._torch.float32, "use_safetensors": True, "local_files_only": True}
            return model_class.from_pretrained(folder, **options)
        model = model_class(model_class.config_class.from_pretrained(folder, local_files_only=True))
        tensors = {name: self.source.weights.load(name) for name in self.source.weights.shapes}
        model.load_state_dict(tensors, strict=False)  # no checkpoint stores position_ids, which count up from zero
        missing = {name for name, _ in model.named_parameters()} - tensors.keys()
        if missing:
            raise CheckpointError(
                f"transformers' model has the parameter {min(missing)}, which the checkpoint lacks.",
                "Report this as a bug of siglip-onnx.",
            )
        return model

    @functools.cached_property
    def identity(self) -> str:
        """Hash over everything that outputs and pixels depend on besides the inputs: weights, configs, versions."""
        versions = [f"{name} {installed_version(name)}" for name in ("torch", "transformers", "numpy", "pillow")]
        configs = [msgspec.json.encode(config).decode() for config in (self.source.config, self.source.image)]
        processor = processor_file(self.source.folder)
        configs.append("" if processor is None else sha256(processor))
        facts = [self.sha256, str(self.source.weights.dialect), *configs, *versions]
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()

    @functools.cached_property
    def sha256(self) -> str:
        """Hash over the names and contents of the weight files."""
        if self._known_sha256 is not None:
            return self._known_sha256
        digest = hashlib.sha256()
        for file in self.source.weights.files:
            digest.update(f"{file.name} {sha256(file)}\n".encode())
        return digest.hexdigest()

    @property
    def logit_scale(self) -> float:
        """Factor on the cosine: exp of the stored parameter."""
        return float(self._model.logit_scale.detach().exp())

    @property
    def logit_bias(self) -> float:
        """Term added to the scaled cosine."""
        return float(self._model.logit_bias.detach())

    def ids(self, texts: Sequence[str]) -> IntArray:
        """input_ids of texts, int64 [texts, length]."""
        with _quiet():
            length = self.source.tokenizer.length
            prepared = [self._lower_sigma(text) for text in texts]
            rows = self._tokenizer(prepared, padding="max_length", truncation=True, max_length=length)
        return np.asarray(rows["input_ids"], np.int64)

    def _lower_sigma(self, text: str) -> str:
        """Lower-case Σ without its context, as the published ids and transformers before version 5 do."""
        return text.replace("Σ", "σ") if self._lower_case else text

    def pixels(self, images: Sequence[ImageSource]) -> AnyArray:
        """Pixels of images, float32 [images, 3, height, width], or patch records like those of `ImageProcessor`.

        Raises:
            InputError: An image cannot be read.
        """
        return np.concatenate([self._pixels(image) for image in images])

    def _pixels(self, image: ImageSource) -> AnyArray:
        decoded = decode(image, self.source.image)
        with _quiet():
            # Without input_data_format the processor cannot tell the channels of a one-pixel image.
            options: dict[str, Any] = {"return_tensors": "np", "input_data_format": "channels_last"}
            options["do_convert_rgb"] = True  # the processor of NaFlex models does not convert by default
            spec = self.source.image
            if spec.patch_size is None or spec.max_patches is None:
                size = {"height": spec.height, "width": spec.width}
                return np.asarray(self._processor(decoded, size=size, **options)["pixel_values"], np.float32)
            parts = self._processor(decoded, max_num_patches=spec.max_patches, **options)
        record = np.zeros(1, patches_dtype(spec.patch_size, spec.max_patches))
        for name in record.dtype.names or ():
            record[name] = parts[name]
        return record

    def embeddings(self, role: Role, rows: AnyArray) -> FloatArray:
        """pooler_output of a tower, float32 [rows, size], from pixel_values or input_ids."""
        starts = range(0, len(rows), _BATCH)
        return np.concatenate([self._tower(role, rows[at : at + _BATCH]).pooler_output.numpy() for at in starts])

    def outputs(self, role: Role, name: str, rows: AnyArray) -> FloatArray:
        """Another output of a tower by its name in transformers, such as last_hidden_state; float32 [rows, ...]."""
        return np.asarray(self._tower(role, rows)[name].numpy(), np.float32)

    def _tower(self, role: Role, rows: AnyArray) -> Any:
        tower = {Role.VISION: self._model.vision_model, Role.TEXT: self._model.text_model}[role]
        with self._torch.inference_mode():
            return tower(**self._arguments(role, rows))

    def _arguments(self, role: Role, rows: AnyArray) -> dict[str, Any]:
        if rows.dtype.names:
            return {name: self._torch.from_numpy(np.ascontiguousarray(rows[name])) for name in rows.dtype.names}
        if role is Role.TEXT:
            return {"input_ids": self._torch.from_numpy(rows)}
        options = {"interpolate_pos_encoding": True} if self._interpolated else {}
        return {"pixel_values": self._torch.from_numpy(rows), **options}

    def check(self, pixels: AnyArray, ids: IntArray) -> None:
        """Compare logits of the two towers with the model's own forward pass on two images and texts.

        Raises:
            CheckpointError: They differ, so the installed transformers computes something else.
        """
        pixels, ids = pixels[:2], ids[:2]
        with self._torch.inference_mode():
            arguments = {**self._arguments(Role.VISION, pixels), **self._arguments(Role.TEXT, ids)}
            joint = self._model(**arguments).logits_per_image.numpy()
        images, texts = self.embeddings(Role.VISION, pixels), self.embeddings(Role.TEXT, ids)
        composed = metrics.logits(images, texts, self.logit_scale, self.logit_bias)
        if not np.allclose(joint, composed, rtol=0, atol=_TOLERANCE * max(1.0, float(np.abs(composed).max()))):
            raise CheckpointError(
                f"SiglipModel of transformers gives the logit {joint.ravel()[0]}, its towers {composed.ravel()[0]}.",
                "Install the versions in constraints.txt.",
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' messages about unused special ids and long texts, and its progress bars."""
    from transformers.utils import logging as transformers_logging

    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            transformers_logging.set_verbosity(verbosity)
            if bars:
                transformers_logging.enable_progress_bar()


def _classes(source: Checkpoint) -> _Classes:
    privacy.opt_out()
    try:
        import torch
        from transformers import Siglip2Model, SiglipModel
        from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
        from transformers.models.siglip.tokenization_siglip import SiglipTokenizer
        from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil
        from transformers.models.siglip2.tokenization_siglip2 import Siglip2Tokenizer
    except ImportError as error:
        raise ProviderError(
            f"The PyTorch reference cannot be imported ({error}).", "Run: pip install 'siglip-onnx[cpu,export]'."
        ) from error
    tokenizer = Siglip2Tokenizer if source.tokenizer.library == "tokenizers" else SiglipTokenizer
    if source.config.vision_config.naflex:
        return _Classes(torch, Siglip2Model, Siglip2ImageProcessorPil, tokenizer)
    return _Classes(torch, SiglipModel, SiglipImageProcessorPil, tokenizer)


@contextlib.contextmanager
def _readable(source: Checkpoint) -> Iterator[Path]:
    """Yield the checkpoint's folder if transformers can read it, else a temporary one with the files it requires."""
    if all((source.folder / name).exists() for name in _REQUIRED_FILES) and processor_file(source.folder):
        yield source.folder
        return
    from ...exporter.export_artifact import write_files

    vision = source.config.vision_config
    if not vision.naflex:  # transformers interpolates the stored positions, so the config must state their size
        stored = source.weights.shapes["vision_model.embeddings.position_embedding.weight"][0]
        if stored != vision.positions:
            source = source.resized(math.isqrt(stored) * vision.patch_size)
    with tempfile.TemporaryDirectory() as folder:
        write_files(source, Path(folder))
        yield Path(folder)
