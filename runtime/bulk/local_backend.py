"""`embed` in this process: threads decode items while the tower embeds others."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from ..arrays import AnyArray, ByteArray, FloatArray
from ..engines import host
from ..preprocessing.prefetch import prefetch
from .inputs import Item
from .part_files import Chunk, DoneChunk, Missing
from .stages import PreparedItem, Stages

_BATCHES_AHEAD: Final = 2  # decoded while one batch is in the tower


def run_local(stages: Stages, missing: Missing) -> Iterator[DoneChunk]:
    """Every missing chunk with its rows, in order."""
    with ThreadPoolExecutor(host.cores(), "siglip-onnx-decode") as pool:
        pipeline = _Pipeline(stages)
        batches = pipeline.batches(pool, missing)
        while not pipeline.ended:
            for vectors in stages.embed(_until_gap(batches)):
                pipeline.vectors.extend(vectors)
                yield from pipeline.finished_chunks()
            yield from pipeline.finished_chunks()


def _until_gap(batches: Iterator[AnyArray | None]) -> Iterator[AnyArray]:
    for batch in batches:
        if batch is None:
            return
        yield batch


class _Pipeline:
    """Chunks between listing and embedding.

    A batch never crosses the end of a chunk. So the rows that share a batch do not depend on where a run began, and a
    resumed run gives the same numbers.

    Args:
        stages: The stages to run.
    """

    def __init__(self, stages: Stages) -> None:
        self._stages = stages
        self._prepared: deque[tuple[Chunk, list[PreparedItem]]] = deque()  # chunks whose items are all prepared
        self.vectors: deque[FloatArray] = deque()
        self.ended = False

    def batches(self, pool: ThreadPoolExecutor, missing: Missing) -> Iterator[AnyArray | None]:
        """The tower's input, batch by batch; None after a chunk without a readable item, and at the end.

        None lets `finished_chunks` run although no embedding comes.
        """
        batch_size = self._stages.batch_size
        listed: deque[Chunk] = deque()
        prepared: list[PreparedItem] = []
        values: list[ByteArray | str] = []
        depth = max(_BATCHES_AHEAD * batch_size, 2 * host.cores())
        for future in prefetch(pool, self._stages.prepare, _items(missing, listed), depth):
            item = future.result()
            prepared.append(item)
            if item.value is not None:
                values.append(item.value)
            chunk_ends = len(prepared) == len(listed[0].items)
            if chunk_ends:
                self._prepared.append((listed.popleft(), prepared))
                prepared = []
            if values and (chunk_ends or len(values) == batch_size):
                yield self._stages.tower_input(values)
                values = []
            elif chunk_ends and not _readable(self._prepared[-1][1]):
                yield None
        self.ended = True
        yield None

    def finished_chunks(self) -> Iterator[DoneChunk]:
        """The chunks whose embeddings are all there."""
        while self._prepared:
            chunk, prepared = self._prepared[0]
            count = _readable(prepared)
            if count > len(self.vectors):
                return
            self._prepared.popleft()
            vectors = [self.vectors.popleft() for _ in range(count)]
            yield DoneChunk(chunk.number, chunk.digest, self._stages.table_of(prepared, vectors))


def _items(missing: Missing, listed: deque[Chunk]) -> Iterator[Item]:
    """The items of all chunks; each chunk is put into `listed` before its first item is taken."""
    for chunk in missing:
        listed.append(chunk)
        yield from chunk.items


def _readable(prepared: Sequence[PreparedItem]) -> int:
    return sum(item.value is not None for item in prepared)
