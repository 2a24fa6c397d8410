"""The reference: transformers' own model, tokenizer and image processor, in float32 on the CPU."""

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
import PIL.Image
from numpy.typing import NDArray

from ...exporter.options import Dialect
from ...runtime import privacy
from ...runtime.artifact.contract import Role
from ...runtime.engines.host import installed_version
from ...runtime.errors import CheckpointError, InputError, ProviderError
from ...runtime.files import sha256
from ...runtime.preprocessing.image import patches_dtype
from ..stats import metrics

if TYPE_CHECKING:
    from ...exporter.checkpoint.checkpoint import Checkpoint

Floats = NDArray[np.float32]
ImageSource = Path | PIL.Image.Image
_BATCH: Final = 8
_NEEDED: Final = ("config.json", "preprocessor_config.json", "tokenizer_config.json")
_CONSISTENT: Final = 1e-4  # how far the reference's own forward may be from the sum of its parts, in logits


@dataclass(frozen=True)
class _Classes:
    """transformers' classes for a checkpoint."""

    torch: Any
    model: Any
    processor: Any
    tokenizer: Any


class PyTorchReference:
    """A checkpoint as transformers computes it.

    Weights in transformers' own names are read by transformers itself. The other dialects it does not know; they are
    read as the exporter reads them, which the group RETRIEVAL then puts to the test.

    Args:
        source: The checkpoint.

    Raises:
        ProviderError: torch or transformers is missing.
        CheckpointError: transformers cannot open the checkpoint.
    """

    def __init__(self, source: Checkpoint) -> None:
        self.source, self._lower = source, source.tokenizer.library == "sentencepiece" and source.tokenizer.lower_case
        self._classes = _classes(source)
        self._torch = self._classes.torch
        with self._opened() as folder:
            self._tokenizer: Any = self._classes.tokenizer.from_pretrained(folder, local_files_only=True)
            self._processor: Any = self._classes.processor.from_pretrained(folder, local_files_only=True)
            stored = self._classes.model.config_class.from_pretrained(folder, local_files_only=True).vision_config
        self._interpolated = (
            not source.image.max_patches and stored.image_size != source.config.vision_config.image_size
        )

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Path]:
        """A folder that transformers can read; what it complains of is a defect of the checkpoint."""
        try:
            with _quiet(), _readable(self.source) as folder:
                yield folder
        except CheckpointError:
            raise
        except Exception as error:  # transformers raises errors of many kinds for a config it does not like
            raise CheckpointError(
                f"transformers cannot open {self.source.folder}: {error}", "Download the checkpoint again."
            ) from error

    @functools.cached_property
    def _model(self) -> Any:
        """The weights, which are read when they are first needed."""
        with self._opened() as folder:
            return self._load(self._classes.model, folder).eval()

    def release(self) -> None:
        """Let go of the weights; they are read again if they are needed again."""
        self.__dict__.pop("_model", None)

    def _load(self, kind: Any, folder: Path) -> Any:
        if self._own_names:
            return kind.from_pretrained(folder, dtype=self._torch.float32, use_safetensors=True, local_files_only=True)
        model = kind(kind.config_class.from_pretrained(folder, local_files_only=True))
        tensors = {name: self.source.weights.load(name) for name in self.source.weights.shapes}
        model.load_state_dict(tensors, strict=False)  # position_ids count up from zero and are stored nowhere
        absent = {name for name, _ in model.named_parameters()} - tensors.keys()
        if absent:
            raise CheckpointError(f"transformers' model has {min(absent)}, and the checkpoint has not.", "Report it.")
        return model

    @property
    def _own_names(self) -> bool:
        return self.source.weights.dialect is Dialect.TRANSFORMERS

    @functools.cached_property
    def identity(self) -> str:
        """What its answers depend on besides what it is asked: weights, how they are read, and who computes."""
        versions = [f"{name} {installed_version(name)}" for name in ("torch", "transformers")]
        config = msgspec.json.encode(self.source.config).decode()
        facts = [self.sha256, str(self.source.weights.dialect), config, *versions]
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()

    @functools.cached_property
    def sha256(self) -> str:
        """Hash over the names and contents of the weight files."""
        whole = hashlib.sha256()
        for file in self.source.weights.files:
            whole.update(f"{file.name} {sha256(file)}\n".encode())
        return whole.hexdigest()

    @property
    def logit_scale(self) -> float:
        """Factor on the cosine, as the model applies it."""
        return float(self._model.logit_scale.detach().exp())

    @property
    def logit_bias(self) -> float:
        """Added to the scaled cosine."""
        return float(self._model.logit_bias.detach())

    def ids(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """int64 [texts, length]."""
        known = [self._one_by_one(text) for text in texts]
        with _quiet():
            length = self.source.tokenizer.length
            rows = self._tokenizer(known, padding="max_length", truncation=True, max_length=length)
        return np.asarray(rows["input_ids"], np.int64)

    def _one_by_one(self, text: str) -> str:
        """Lower-case Σ out of context, as the published ids have it and transformers before version 5 did."""
        return text.replace("Σ", "σ") if self._lower else text

    def pixels(self, images: Sequence[ImageSource]) -> NDArray[Any]:
        """float32 [images, 3, height, width], or records of patches as `ImageProcessor` makes them.

        Raises:
            InputError: An image cannot be read.
        """
        return np.concatenate([self._pixels(image) for image in images])

    def _pixels(self, image: ImageSource) -> NDArray[Any]:
        """Decoded by Pillow alone, so that a defect of the runtime's own reading cannot be on both sides."""
        try:
            opened = image if isinstance(image, PIL.Image.Image) else PIL.Image.open(image)
            image = opened.convert("RGB")
        except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
            raise InputError(f"The image {image} cannot be read ({error}).", "Replace it.") from error
        with _quiet():
            # one-pixel images are ambiguous to the processor unless it is told where the channels are
            known: dict[str, Any] = {"return_tensors": "np", "input_data_format": "channels_last"}
            spec = self.source.image
            if spec.patch_size is None or spec.max_patches is None:
                size = {"height": spec.height, "width": spec.width}
                return np.asarray(self._processor(image, size=size, **known)["pixel_values"], np.float32)
            parts = self._processor(image, max_num_patches=spec.max_patches, **known)
        record = np.zeros(1, patches_dtype(spec.patch_size, spec.max_patches))
        for name in record.dtype.names or ():
            record[name] = parts[name]
        return record

    def embeddings(self, role: Role, rows: NDArray[Any]) -> Floats:
        """pooler_output of a tower, [rows, size], of ready pixel_values or input_ids."""
        starts = range(0, len(rows), _BATCH)
        return np.concatenate([self._tower(role, rows[at : at + _BATCH]).pooler_output.numpy() for at in starts])

    def outputs(self, role: Role, name: str, rows: NDArray[Any]) -> Floats:
        """Another output of a tower by transformers' name for it, such as last_hidden_state; a row for each row."""
        return np.asarray(self._tower(role, rows)[name].numpy(), np.float32)

    def _tower(self, role: Role, rows: NDArray[Any]) -> Any:
        tower = {Role.VISION: self._model.vision_model, Role.TEXT: self._model.text_model}[role]
        with self._torch.inference_mode():
            return tower(**self._arguments(role, rows))

    def _arguments(self, role: Role, rows: NDArray[Any]) -> dict[str, Any]:
        if rows.dtype.names:
            return {name: self._torch.from_numpy(np.ascontiguousarray(rows[name])) for name in rows.dtype.names}
        if role is Role.TEXT:
            return {"input_ids": self._torch.from_numpy(rows)}
        more = {"interpolate_pos_encoding": True} if self._interpolated else {}
        return {"pixel_values": self._torch.from_numpy(rows), **more}

    def check(self, pixels: NDArray[Any], ids: NDArray[np.int64]) -> None:
        """Compare logits of both towers with the model's own whole forward on a few images and texts.

        Raises:
            CheckpointError: They differ, so this version of transformers computes something else.
        """
        pixels, ids = pixels[:2], ids[:2]
        with self._torch.inference_mode():
            arguments = {**self._arguments(Role.VISION, pixels), **self._arguments(Role.TEXT, ids)}
            whole = self._model(**arguments).logits_per_image.numpy()
        images, texts = self.embeddings(Role.VISION, pixels), self.embeddings(Role.TEXT, ids)
        parts = metrics.logits(images, texts, self.logit_scale, self.logit_bias)
        if not np.allclose(whole, parts, rtol=0, atol=_CONSISTENT * max(1.0, float(np.abs(parts).max()))):
            raise CheckpointError(
                f"transformers' SiglipModel gives logits of {whole.ravel()[0]}, its towers {parts.ravel()[0]}.",
                "Install the versions in constraints.txt.",
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers' notes (unused special ids, long texts, progress bars) to itself."""
    from transformers.utils import logging as notes

    verbosity, bars = notes.get_verbosity(), notes.is_progress_bar_enabled()
    notes.set_verbosity(logging.ERROR)
    notes.disable_progress_bar()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            notes.set_verbosity(verbosity)
            if bars:
                notes.enable_progress_bar()


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
    """The checkpoint's folder, or one with what transformers needs beside the weights where that is not there."""
    if all((source.folder / name).exists() for name in _NEEDED):
        yield source.folder
        return
    from ...exporter.export_artifact import write_files

    vision = source.config.vision_config
    if not vision.naflex:  # transformers interpolates the positions that are stored, so it must know of these
        stored = source.weights.shapes["vision_model.embeddings.position_embedding.weight"][0]
        if stored != vision.positions:
            source = source.resized(math.isqrt(stored) * vision.patch_size)
    with tempfile.TemporaryDirectory() as folder:
        write_files(source, Path(folder))
        yield Path(folder)
