"""The two stages of `embed` that every backend runs: decode an item, and embed the items of a chunk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..arrays import AnyArray, ByteArray, FloatArray
from ..artifact.contract import Precision, Role
from ..data.images import FileSlice
from ..errors import SiglipOnnxError
from ..model import Siglip
from ..preprocessing.prefetch import batched
from ..preprocessing.tokenizer import Truncation
from ..session import identity
from ..vectors import normalized, usable
from .embeddings_file import About, table
from .inputs import Item, Modality
from .job import EmbedJob


@dataclass(frozen=True)
class PreparedItem:
    """An item that is decoded but not yet embedded.

    Attributes:
        item: The item; of an image without its content.
        value: Pixels, uint8 [height, width, 3], or the prompt for a text; None if there is an error.
        error: Why there is no value.
        truncated: Whether the text is longer than the model reads.
    """

    item: Item
    value: ByteArray | str | None = None
    error: str | None = None
    truncated: bool = False


class Stages:
    """The two stages that every backend runs.

    Args:
        model: The model.
        job: The job.

    Raises:
        InputError: The batch size is out of range.
    """

    def __init__(self, model: Siglip, job: EmbedJob) -> None:
        self.model, self.job = model, job
        self.role = Role.VISION if job.inputs.modality is Modality.IMAGE else Role.TEXT
        self.batch_size = model.batch_size(self.role, job.batch_size)
        self.about = describe(model, job, self.role)

    def prepare(self, item: Item) -> PreparedItem:
        """Decode one item. Every error is recorded, because one bad item must not stop the others."""
        kept = item if self.role is Role.TEXT else Item(item.id, None)
        if item.error is not None or item.content is None:
            return PreparedItem(kept, error=item.error or "The item is empty.")
        try:
            content = item.content.read() if isinstance(item.content, FileSlice) else item.content
            if self.role is Role.VISION:
                return PreparedItem(kept, self.model.images.bytes_of(content))
            return self._prepare_text(kept, str(content))
        except SiglipOnnxError as error:
            return PreparedItem(kept, error=error.message)
        except Exception as error:  # a defect of a decoder is no reason to lose the other items
            return PreparedItem(kept, error=f"{type(error).__name__}: {error}")

    def _prepare_text(self, item: Item, text: str) -> PreparedItem:
        prompt = self.job.template.replace("{}", text)
        truncations: list[Truncation] = []
        self.model.tokenizer([prompt], truncations.append)
        return PreparedItem(item, prompt, truncated=bool(truncations))

    def tower_input(self, values: Sequence[ByteArray | str]) -> AnyArray:
        """One batch of the tower's input for prepared values: pixel_values or input_ids."""
        if self.role is Role.VISION:
            return np.stack([self.model.images.row(value) for value in values if not isinstance(value, str)])
        return self.model.tokenizer([str(value) for value in values])

    def embed(self, batches: Iterable[AnyArray]) -> Iterator[FloatArray]:
        """Embeddings of batches, float32 [rows, size], of length 1; NaN where the model gives no finite embedding."""
        for rows in self.model.encode_batches(self.role, batches):
            valid = usable(rows)[:, None]
            yield np.where(valid, normalized(np.where(valid, rows, np.float32(1))), np.float32(np.nan))

    def table_of(self, prepared: Sequence[PreparedItem], vectors: Sequence[FloatArray]) -> Any:
        """The Arrow table of a chunk.

        Args:
            prepared: The items of the chunk.
            vectors: The embedding of each item without an error, float32 [size], in order.
        """
        stacked = np.stack(vectors) if vectors else np.empty((0, self.about.size), np.float32)
        items, errors = [one.item for one in prepared], [one.error for one in prepared]
        valid = usable(stacked)
        for index, is_valid in zip([i for i, error in enumerate(errors) if error is None], valid, strict=True):
            errors[index] = None if is_valid else "The model gives no finite embedding for it."
        texts = [(one.item.content if isinstance(one.item.content, str) else None, one.truncated) for one in prepared]
        return table(self.about, [item.id for item in items], texts, errors, stacked[valid])

    def embed_chunk(self, prepared: Sequence[PreparedItem]) -> Any:
        """The Arrow table of a chunk whose items are prepared."""
        values = [one.value for one in prepared if one.value is not None]
        batches = (self.tower_input(batch) for batch in batched(values, self.batch_size))
        return self.table_of(prepared, [row for batch in self.embed(batches) for row in batch])


def describe(model: Siglip, job: EmbedJob, role: Role) -> About:
    """The metadata of the output."""
    contract = model.contract
    return About(
        modality=job.inputs.modality,
        model=contract.name,
        checkpoint=checkpoint_of(model),
        identity=model.identity(role),
        artifact=str(model.artifact.folder.resolve()),
        precision=model.precision,
        provider=model.options.provider,
        dtype=job.dtype,
        size=contract.embedding.size,
        scale=contract.logits.scale,
        bias=contract.logits.bias,
    )


def checkpoint_of(model: Siglip) -> str:
    """An identifier of the checkpoint behind an artifact: hashes of its fp32 towers, or of those that it has."""
    contract = model.contract
    precision = Precision.FP32 if contract.variant(Precision.FP32) else contract.variants[0].precision
    towers = [model.artifact.graph(role, precision) for role in contract.towers]
    return "-".join(identity(model.artifact, graph)[:16] for graph in towers)
