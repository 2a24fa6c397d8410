"""The interface of a loaded graph, whichever engine runs it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from ..arrays import AnyArray
from ..artifact.contract import Precision, TensorSpec

UNKNOWN: Final = "?"  # a free dimension whose name the engine does not keep


@dataclass(frozen=True)
class GraphSource:
    """A graph to load.

    Attributes:
        graph: Path or bytes of the ONNX file.
        precision: Precision of its variant.
        identity: Hash of the graph and its weights; compiled models are cached under it, and never without it.
    """

    graph: Path | bytes
    precision: Precision = Precision.FP32
    identity: str = ""

    @property
    def name(self) -> str:
        """Name of the graph in error messages."""
        return str(self.graph) if isinstance(self.graph, Path) else "a graph in memory"


class Engine(Protocol):
    """A loaded graph. Threads may share it.

    Attributes:
        inputs: Inputs of the graph, as the engine reports them.
        outputs: Outputs of the graph, as the engine reports them.
        placement: Number of nodes on each provider; empty where the engine does not report it.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    placement: Mapping[str, int]

    def run(self, names: Sequence[str], feeds: Mapping[str, AnyArray]) -> list[AnyArray]:
        """Compute the outputs of these names; raises ProviderError."""
