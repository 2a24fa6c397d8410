"""The reference: transformers' own SiglipModel, tokenizer and image processor, in float32 on the CPU."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from ..runtime.contract import Role, TokenizerSpec
from ..runtime.errors import CheckpointError, InputError, ProviderError
from ..runtime.files import sha256
from . import metrics

Floats = NDArray[np.float32]
Picture = Path | PIL.Image.Image
_BATCH: Final = 8
_CONSISTENT: Final = 1e-4  # how far the reference's own forward may be from the sum of its parts, in logits


class Reference:
    """A checkpoint as transformers computes it.

    Args:
        folder: The checkpoint.
        tokenizer: What they say of texts.

    Raises:
        ProviderError: torch or transformers is missing.
        CheckpointError: transformers cannot open the checkpoint.
    """

    def __init__(self, folder: Path, tokenizer: TokenizerSpec) -> None:
        self.folder, self._length = folder, tokenizer.length
        self._lower = tokenizer.lower_case
        try:
            import torch
            from transformers import SiglipModel
            from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
            from transformers.models.siglip.tokenization_siglip import SiglipTokenizer
        except ImportError as error:
            raise ProviderError(
                f"The PyTorch reference cannot be imported ({error}).", "Run: pip install 'siglip-onnx[cpu,export]'."
            ) from error
        self._torch = torch
        try:
            with _quiet():
                self._model: Any = SiglipModel.from_pretrained(
                    folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
                ).eval()
                self._tokenizer: Any = SiglipTokenizer.from_pretrained(folder, local_files_only=True)
                self._processor: Any = SiglipImageProcessorPil.from_pretrained(folder, local_files_only=True)
        except Exception as error:  # transformers raises errors of many kinds for a config it does not like
            raise CheckpointError(
                f"transformers cannot open {folder}: {error}", "Download the checkpoint again."
            ) from error

    @property
    def sha256(self) -> str:
        """Hash over the names and contents of the weight files."""
        whole = hashlib.sha256()
        for file in sorted(self.folder.glob("*.safetensors")):
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
            rows = self._tokenizer(known, padding="max_length", truncation=True, max_length=self._length)
        return np.asarray(rows["input_ids"], np.int64)

    def _one_by_one(self, text: str) -> str:
        """Lower-case Σ out of context, as the published ids have it and transformers before version 5 did."""
        return text.replace("Σ", "σ") if self._lower else text

    def pixels(self, images: Sequence[Picture]) -> Floats:
        """float32 [images, 3, height, width]; raises InputError for a picture that cannot be read."""
        return np.concatenate([self._pixels(image) for image in images])

    def _pixels(self, image: Picture) -> Floats:
        """Decoded by Pillow alone, so that a defect of the runtime's own reading cannot be on both sides."""
        try:
            opened = image if isinstance(image, PIL.Image.Image) else PIL.Image.open(image)
            picture = opened.convert("RGB")
        except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
            raise InputError(f"The picture {image} cannot be read ({error}).", "Replace it.") from error
        with _quiet():
            # one-pixel pictures are ambiguous to the processor unless it is told where the channels are
            rows = self._processor(picture, return_tensors="np", input_data_format="channels_last")
        return np.asarray(rows["pixel_values"], np.float32)

    def embeddings(self, role: Role, rows: NDArray[Any]) -> Floats:
        """pooler_output of a tower, [rows, size], of ready pixel_values or input_ids."""
        starts = range(0, len(rows), _BATCH)
        return np.concatenate([self._tower(role, rows[at : at + _BATCH]).pooler_output.numpy() for at in starts])

    def hidden(self, role: Role, rows: NDArray[Any]) -> Floats:
        """last_hidden_state of a tower, [rows, tokens, width]."""
        return np.asarray(self._tower(role, rows).last_hidden_state.numpy(), np.float32)

    def _tower(self, role: Role, rows: NDArray[Any]) -> Any:
        tower = {Role.VISION: self._model.vision_model, Role.TEXT: self._model.text_model}[role]
        with self._torch.inference_mode():
            return tower(self._torch.from_numpy(rows))

    def logits(self, images: Floats, texts: Floats) -> NDArray[np.float64]:
        """Logits [images, texts] of pooler_outputs, in float64."""
        return metrics.logits(images, texts, self.logit_scale, self.logit_bias)

    def check_logits(self, pixels: Floats, ids: NDArray[np.int64]) -> None:
        """Compare `logits` with the model's own whole forward on a few pictures and texts.

        Raises:
            CheckpointError: They differ, so this version of transformers computes something else.
        """
        pixels, ids = pixels[:2], ids[:2]
        with self._torch.inference_mode():
            whole = self._model(
                pixel_values=self._torch.from_numpy(pixels), input_ids=self._torch.from_numpy(ids)
            ).logits_per_image.numpy()
        parts = self.logits(self.embeddings(Role.VISION, pixels), self.embeddings(Role.TEXT, ids))
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
