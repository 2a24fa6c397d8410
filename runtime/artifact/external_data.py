"""Find the external data files of an ONNX file in its bytes, because the runtime does not need the onnx package.

Message and field numbers: onnx/onnx.proto of ONNX 1.18 (https://github.com/onnx/onnx/blob/v1.18.0/onnx/onnx.proto);
wire format: https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

# Fields of each message that may contain a tensor at any depth: {field number: message}.
_CHILDREN: Final[dict[str, dict[int, str]]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node", 11: "Attribute"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}
_KEY, _VALUE = 1, 2  # the fields of a StringStringEntryProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_DEPTH = 64


def external_locations(model: bytes) -> frozenset[str]:
    """The `location` of every external tensor of a serialized ModelProto, in all its graphs and attributes.

    Raises:
        ValueError: The bytes are not a protobuf message, or are nested more than 64 levels deep.
    """
    return frozenset(_locations(memoryview(model), "Model", 0))


def _locations(message: memoryview, kind: str, depth: int) -> Iterator[str]:
    if depth > _MAX_DEPTH:
        raise ValueError("nested too deeply")
    for number, payload in _fields(message):
        child = _CHILDREN[kind].get(number)
        if child == "Entry":
            yield from _location(payload)
        elif child is not None:
            yield from _locations(payload, child, depth + 1)


def _location(entry: memoryview) -> Iterator[str]:
    pair = {number: bytes(payload) for number, payload in _fields(entry)}
    if pair.get(_KEY) == b"location":
        yield pair.get(_VALUE, b"").decode()


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Every length-delimited field of a message as (number, payload); other fields are skipped."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        if tag >> 32:  # other readers truncate it to 32 bits and would see another field
            raise ValueError("not a protobuf message")
        wire = tag & 7
        if wire == _VARINT:
            _, at = _varint(message, at)
            continue
        if wire == _BYTES:
            size, at = _varint(message, at)
        else:
            size = {_FIXED64: 8, _FIXED32: 4}.get(wire, -1)
        if size < 0 or at + size > len(message):
            raise ValueError("not a protobuf message")
        if wire == _BYTES:
            yield tag >> 3, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            break
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
    raise ValueError("not a protobuf message")
