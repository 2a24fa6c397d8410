"""A checkpoint's weights by transformers' names and in its orientation, from a file in any dialect."""

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
from .tensor_files import TensorStore

_TYPES: Final = frozenset({"F32", "F16", "BF16"})
# Buffers in files of older transformers versions; they hold 0, 1, 2, …
_IGNORED: Final = ("embeddings.position_ids",)


@dataclass(frozen=True)
class Weights:
    """Tensors of a checkpoint by transformers' names, read on demand.

    Attributes:
        store: The weight files.
        dialect: Their dialect.
        shapes: Name and shape of every required tensor.
        sources: Stored tensors that each required tensor is made from.
    """

    store: TensorStore
    dialect: Dialect
    shapes: Shapes
    sources: Mapping[str, WeightSource]

    @classmethod
    def open(cls, store: TensorStore, dialect: Dialect, shapes: Shapes) -> Weights:
        """Check that the files hold exactly the required tensors.

        Raises:
            CheckpointError: Tensors are missing or unexpected, or have a wrong shape or type; the message lists them.
        """
        weights = cls(store, dialect, shapes, sources(dialect, shapes, store.tensors))
        weights._check()
        return weights

    def load(self, name: str) -> Tensor:
        """Read one tensor as float32 on the CPU.

        Raises:
            CheckpointError: Its file was removed or changed after it was opened.
        """
        source = self.sources[name]
        tensor: Tensor = source.make(*map(self.store.load, source.names))
        return tensor.to(torch.float32).contiguous()

    @property
    def nbytes(self) -> int:
        """Bytes of all required tensors as float32."""
        return sum(4 * torch.Size(shape).numel() for shape in self.shapes.values())

    @property
    def files(self) -> tuple[Path, ...]:
        """Paths of the weight files."""
        return tuple(sorted({info.file for info in self.store.tensors.values()}))

    def _check(self) -> None:
        stored = {name: info for name, info in self.store.tensors.items() if not name.endswith(_IGNORED)}
        required = dict.fromkeys(name for source in self.sources.values() for name in source.names)
        problems = [
            _listed("missing", [name for name in required if name not in stored]),
            _listed("unexpected", [name for name in stored if name not in required]),
            _listed("with a wrong shape", [text for name in self.shapes if (text := self._wrong_shape(name))]),
            _listed(
                "of an unsupported type", [f"{n} is {i.dtype}" for n, i in stored.items() if i.dtype not in _TYPES]
            ),
        ]
        if any(problems):
            raise CheckpointError(
                f"The tensors in {', '.join(map(str, self.files))} (dialect {self.dialect}) do not fit config.json. "
                + " ".join(problem for problem in problems if problem),
                "Check that config.json and the weights belong together, and to a SigLIP model.",
            )

    def _wrong_shape(self, name: str) -> str | None:
        source, expected = self.sources[name], list(self.shapes[name])
        if any(part not in self.store.tensors for part in source.names):
            return None  # listed as missing
        stored = [self.store.tensors[part].shape for part in source.names]
        parts = " and ".join(f"{part} is {list(shape)}" for part, shape in zip(source.names, stored, strict=True))
        try:
            actual = list(source.make(*(torch.empty(shape, device="meta") for shape in stored)).shape)
        except (RuntimeError, IndexError) as error:
            return f"{parts}, which cannot become {expected} ({str(error).splitlines()[0]})"
        return None if actual == expected else f"{parts}, expected {expected}"


def _listed(problem: str, items: list[str]) -> str:
    more = f" and {len(items) - 5} more" if len(items) > 5 else ""
    return f"{len(items)} {problem}: {', '.join(items[:5])}{more}." if items else ""
