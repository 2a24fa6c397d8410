"""The artifact's own fp32 variant as the yardstick for the variants derived from it; no PyTorch is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..runtime.contract import Precision, Provider, Role, Verdict
from ..runtime.errors import InconclusiveError
from ..runtime.model import Siglip
from . import metrics
from .reference import Floats, Picture


class Baseline:
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

    def ids(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """int64 [texts, length]."""
        return self._model.tokenizer(texts)

    def pixels(self, images: Sequence[Picture]) -> Floats:
        """float32 [images, 3, height, width]; raises InputError for a picture that cannot be read."""
        return self._model.images(images)

    def embeddings(self, role: Role, rows: NDArray[Any]) -> Floats:
        """pooler_output of a tower, [rows, size], each row run alone."""
        return np.concatenate([self._model.encode(role, rows[i : i + 1]) for i in range(len(rows))])

    def hidden(self, role: Role, rows: NDArray[Any]) -> Floats:
        """last_hidden_state of a tower, [rows, tokens, width]."""
        session = self._model.session(role)
        hidden: Floats = session.run({session.graph.inputs[0].name: rows})["last_hidden_state"]
        return hidden

    def logits(self, images: Floats, texts: Floats) -> NDArray[np.float64]:
        """Logits [images, texts] of pooler_outputs, in float64."""
        spec = self._model.contract.logits
        return metrics.logits(images, texts, spec.scale, spec.bias)
