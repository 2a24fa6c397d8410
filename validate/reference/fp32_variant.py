"""The artifact's fp32 variant as the reference for variants derived from it; needs no PyTorch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from ...runtime.arrays import AnyArray, FloatArray, IntArray
from ...runtime.artifact.contract import Precision, Provider, Role, Verdict
from ...runtime.engines.host import installed_version
from ...runtime.errors import InconclusiveError
from ...runtime.model import Siglip
from ...runtime.preprocessing.image import ImageProcessor
from ..data.images import ImageSource


class Fp32Reference:
    """The fp32 graphs on the CPU, with the interface of `PyTorchReference`.

    Attributes:
        sha256: Hash of the report by which the fp32 variant passed; empty if it has none.
        validated: Whether the fp32 variant carries a PASS against its checkpoint.

    Args:
        folder: The artifact.
        allow_unvalidated: Accept an fp32 variant without a PASS.

    Raises:
        InconclusiveError: The fp32 variant carries no PASS against its checkpoint, so it proves nothing.
        ArtifactError: The artifact or its fp32 variant is missing or damaged.
    """

    def __init__(self, folder: Path, *, allow_unvalidated: bool = False) -> None:
        self._model = Siglip.load(folder)
        variant = self._model.contract.variant(Precision.FP32)
        verdicts = [p for p in variant.parity if p.provider is Provider.CPU] if variant else []
        self.sha256 = verdicts[0].report_sha256 if verdicts else ""
        verdict = str(verdicts[0].verdict) if verdicts else "no verdict"
        self.validated = verdict == Verdict.PASS
        if not self.validated and not allow_unvalidated:
            raise InconclusiveError(
                f"The fp32 variant of {folder} carries {verdict}, so it cannot be the reference of other variants.",
                f"Run `siglip-onnx validate {folder} --reference CHECKPOINT` first, or name the checkpoint as the "
                "reference to compare with PyTorch directly.",
            )

    @property
    def identity(self) -> str:
        """Hash over everything that outputs and pixels depend on besides the inputs: graphs, weights, versions."""
        contract = self._model.contract
        facts = [self._model.identity(role) for role in contract.towers]
        facts.append(msgspec.json.encode(contract.image).decode())
        facts += [str(installed_version(name)) for name in ("siglip-onnx", "onnxruntime", "numpy", "pillow")]
        return hashlib.sha256("\n".join(facts).encode()).hexdigest()

    @property
    def logit_scale(self) -> float:
        """Factor on the cosine."""
        return self._model.contract.logits.scale

    @property
    def logit_bias(self) -> float:
        """Term added to the scaled cosine."""
        return self._model.contract.logits.bias

    def ids(self, texts: Sequence[str]) -> IntArray:
        """input_ids of texts, int64 [texts, length]."""
        return self._model.tokenizer(texts)

    def pixels(self, images: Sequence[ImageSource]) -> AnyArray:
        """Pixels of images, float32 [images, 3, height, width], or patch records.

        Raises:
            InputError: An image cannot be read.
        """
        processor = self._model.images
        if processor.spec.input == "pixels":
            return processor(images)
        plain = ImageProcessor(replace(processor.spec, input="pixels"), processor.options)
        return plain(images)

    def embeddings(self, role: Role, rows: AnyArray) -> FloatArray:
        """pooler_output of a tower, float32 [rows, size], each row run alone."""
        return np.concatenate([self._model.encode(role, row[None]) for row in self._rows(role, rows)])

    def outputs(self, role: Role, name: str, rows: AnyArray) -> FloatArray:
        """Another output of a tower, float32 [rows, ...]."""
        session = self._model.session(role)
        return np.concatenate([session.rows(row[None], [name])[name] for row in self._rows(role, rows)])

    def check(self, pixels: AnyArray, ids: IntArray) -> None:
        """Do nothing: the PASS of the fp32 variant covers this."""

    def release(self) -> None:
        """Free the graphs; the next use loads them again."""
        self._model.close()

    def _rows(self, role: Role, rows: AnyArray) -> AnyArray:
        return self._model.images.rows_of(rows) if role is Role.VISION else rows
