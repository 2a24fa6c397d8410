"""The artifact's own fp32 variant as the yardstick for the variants derived from it; no PyTorch is needed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...runtime.artifact.contract import Precision, Provider, Role, Verdict
from ...runtime.engines.host import installed_version
from ...runtime.errors import InconclusiveError
from ...runtime.model import Siglip
from ...runtime.preprocessing.image import ImageProcessor
from .pytorch import Floats, ImageSource


class Fp32Reference:
    """What the fp32 graphs on the CPU compute; the same methods as `Reference`.

    Args:
        folder: The artifact.
        allow_unjudged: Accept an fp32 variant without a PASS; `judged` then says so.

    Raises:
        InconclusiveError: The fp32 variant carries no PASS against its checkpoint, so nothing can be proved by it.
        ArtifactError: The artifact or its fp32 variant is missing or damaged.
    """

    def __init__(self, folder: Path, *, allow_unjudged: bool = False) -> None:
        self._model = Siglip.load(folder)
        variant = self._model.contract.variant(Precision.FP32)
        verdicts = [p for p in variant.parity if p.provider is Provider.CPU] if variant else []
        self.sha256 = verdicts[0].report_sha256 if verdicts else ""
        found = str(verdicts[0].verdict) if verdicts else "no verdict"
        self.judged = found == Verdict.PASS
        if not self.judged and not allow_unjudged:
            raise InconclusiveError(
                f"The fp32 variant of {folder} carries {found}, so what is derived from it cannot be judged by it.",
                f"Run `siglip-onnx validate {folder} --reference CHECKPOINT` first, or name the checkpoint with "
                "--reference to compare with PyTorch directly.",
            )

    @property
    def identity(self) -> str:
        """What its answers depend on: graphs, weights, and who computes."""
        facts = [self._model.identity(role) for role in self._model.contract.towers]
        return hashlib.sha256("\n".join([*facts, str(installed_version("onnxruntime"))]).encode()).hexdigest()

    @property
    def logit_scale(self) -> float:
        """Factor on the cosine."""
        return self._model.contract.logits.scale

    @property
    def logit_bias(self) -> float:
        """Added to the scaled cosine."""
        return self._model.contract.logits.bias

    def ids(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """int64 [texts, length]."""
        return self._model.tokenizer(texts)

    def pixels(self, images: Sequence[ImageSource]) -> NDArray[Any]:
        """float32 [images, 3, height, width], or records of patches; raises InputError for an image not to be read."""
        processor = self._model.images
        if processor.spec.input == "pixels":
            return processor(images)
        plain = ImageProcessor(replace(processor.spec, input="pixels"), processor.options)
        return plain(images)

    def embeddings(self, role: Role, rows: NDArray[Any]) -> Floats:
        """pooler_output of a tower, [rows, size], each row run alone."""
        return np.concatenate([self._model.encode(role, row[None]) for row in self._rows(role, rows)])

    def outputs(self, role: Role, name: str, rows: NDArray[Any]) -> Floats:
        """Another output of a tower, a row for each row."""
        session = self._model.session(role)
        return np.concatenate([session.rows(row[None], [name])[name] for row in self._rows(role, rows)])

    def check(self, pixels: NDArray[Any], ids: NDArray[np.int64]) -> None:
        """Nothing: its own verdict, which it must have, has looked at that."""

    def release(self) -> None:
        """Let go of the graphs until they are needed again."""
        self._model.close()

    def _rows(self, role: Role, rows: NDArray[Any]) -> NDArray[Any]:
        return self._model.images.rows_of(rows) if role is Role.VISION else rows
