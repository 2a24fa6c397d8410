"""Load a graph on the engine of its provider."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..artifact.contract import Provider
from .base import Engine, GraphSource
from .options import SessionOptions


def load(source: GraphSource, options: SessionOptions) -> Engine:
    """Load a graph on `options.provider`, and on no other provider.

    Raises:
        ArtifactError: The graph cannot be read.
        ProviderError: The provider is missing, or does not run the whole graph and `allow_fallback` is off.
    """
    return _ENGINES.get(options.provider, _ort)(source, options)


# Each engine is imported when it is first needed: OpenVINO alone takes a second.
def _openvino(source: GraphSource, options: SessionOptions) -> Engine:
    from .openvino_direct import OpenVinoEngine

    return OpenVinoEngine(source, options)


def _javascript(source: GraphSource, options: SessionOptions) -> Engine:
    from .javascript.engine import JsEngine

    return JsEngine(source, options)


def _ort(source: GraphSource, options: SessionOptions) -> Engine:
    from .ort import OrtEngine

    return OrtEngine(source, options)


_ENGINES: Final[dict[Provider, Callable[[GraphSource, SessionOptions], Engine]]] = {
    Provider.OPENVINO: _openvino,
    Provider.NODE: _javascript,
    Provider.WEB: _javascript,
}
