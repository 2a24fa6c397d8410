"""A checkpoint's weights in transformers' names and orientation, whatever dialect its file is written in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from ...runtime.errors import CheckpointError
from ..options import Dialect
from .dialects import Shapes, WeightSource, sources
from .tensor_files import Store

_DTYPES: Final = frozenset({"F32", "F16", "BF16"})
# Buffers that older versions of transformers stored along; they only count up from zero.
_IGNORED: Final = ("embeddings.position_ids",)


@dataclass(frozen=True)
class Weights:
    """Tensors of a checkpoint by transformers' names; nothing is read before it is asked for.

    Attributes:
        store: The file or files.
        dialect: Whose names they have.
        shapes: Name and shape of every tensor that there must be.
        sources: What each one is made of.
    """

    store: Store
    dialect: Dialect
    shapes: Shapes
    sources: Mapping[str, WeightSource]

    @classmethod
    def open(cls, store: Store, dialect: Dialect, shapes: Shapes) -> Weights:
        """Check that a file holds what the config asks for.

        Raises:
            CheckpointError: It does not; the message lists what is missing, unexpected or wrong.
        """
        weights = cls(store, dialect, shapes, sources(dialect, shapes, store.tensors))
        weights._check()
        return weights

    def load(self, name: str) -> Tensor:
        """One tensor, float32, on the CPU.

        Raises:
            CheckpointError: Its file has vanished or changed since it was opened.
        """
        source = self.sources[name]
        tensor: Tensor = source.make(*map(self.store.load, source.names))
        return tensor.to(torch.float32).contiguous()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors once they are float32."""
        return sum(4 * torch.Size(shape).numel() for shape in self.shapes.values())

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that the tensors lie in."""
        return tuple(sorted({info.file for info in self.store.tensors.values()}))

    def _check(self) -> None:
        found = {name: info for name, info in self.store.tensors.items() if not name.endswith(_IGNORED)}
        needed = dict.fromkeys(name for source in self.sources.values() for name in source.names)
        problems = [
            _listed("missing", [name for name in needed if name not in found]),
            _listed("unexpected", [name for name in found if name not in needed]),
            _listed("wrong in shape", [text for name in self.shapes if (text := self._wrong_shape(name))]),
            _listed("of an unusable type", [f"{n} is {i.dtype}" for n, i in found.items() if i.dtype not in _DTYPES]),
        ]
        if any(problems):
            raise CheckpointError(
                f"The tensors in {', '.join(map(str, self.files))} (names of {self.dialect}) do not fit config.json. "
                + " ".join(p for p in problems if p),
                "Check that config.json and the weights belong together, and that both are a SigLIP model's.",
            )

    def _wrong_shape(self, name: str) -> str | None:
        source, due = self.sources[name], list(self.shapes[name])
        if any(part not in self.store.tensors for part in source.names):
            return None  # missing, which is told anyway
        stored = [self.store.tensors[part].shape for part in source.names]
        what = " and ".join(f"{part} is {list(shape)}" for part, shape in zip(source.names, stored, strict=True))
        try:
            made = list(source.make(*(torch.empty(shape, device="meta") for shape in stored)).shape)
        except (RuntimeError, IndexError) as error:
            return f"{what}, which cannot become {due} ({str(error).splitlines()[0]})"
        return None if made == due else f"{what} where {due} is due"


def _listed(kind: str, items: list[str]) -> str:
    more = f" and {len(items) - 5} more" if len(items) > 5 else ""
    return f"{len(items)} {kind}: {', '.join(items[:5])}{more}." if items else ""
