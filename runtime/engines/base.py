"""What a loaded graph can do, whichever program runs it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from ..artifact.contract import Precision, Provider, TensorSpec
from .options import SessionOptions

Array = NDArray[Any]
UNKNOWN = "?"  # a free dimension whose name a program does not keep


@dataclass(frozen=True)
class GraphSource:
    """A graph to load: its path or bytes, the precision of its variant, and a hash that vouches for what is there.

    Without the hash nothing that is compiled is kept.
    """

    graph: Path | bytes
    precision: Precision = Precision.FP32
    identity: str = ""


class Engine(Protocol):
    """A loaded graph. Threads may share it.

    Attributes:
        inputs: What it takes.
        outputs: What it gives.
        placement: How many nodes each provider runs; empty where the program does not say.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    placement: Mapping[str, int]

    def run(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        """The outputs of these names; raises ProviderError."""


def load(source: GraphSource, options: SessionOptions) -> Engine:
    """Load a graph on the provider that the options name, and on no other.

    Raises:
        ArtifactError: The graph cannot be read.
        ProviderError: The provider does not run it, or not all of it and nothing else is allowed.
    """
    if options.provider is Provider.OPENVINO:
        from .openvino_direct import OpenVinoEngine

        return OpenVinoEngine(source, options)
    if options.provider in (Provider.NODE, Provider.WEB):
        from .javascript.engine import JsEngine

        return JsEngine(source, options)
    from .ort import OrtEngine

    return OrtEngine(source, options)


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, or its name."""
    with contextlib.suppress(IndexError):
        return str(error).strip().splitlines()[0]
    return type(error).__name__
