"""Eight-bit nodes: products of unsigned activations by signed weights with a scale per column, and tables.

Activations are unsigned and weights signed because ONNX Runtime's kernels are ten times slower the other way round;
docs/quantization.md has the figures.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import onnx_ir as ir
from onnx_ir.tape import Tape

from ...runtime.arrays import AnyArray, FloatArray, Int8Array
from ..sites import Site, replace_node, weight_array
from .ranges import Range

TINY: Final = np.finfo(np.float32).tiny  # a smaller scale has no precision left
_LIMITS: Final = {8: 127, 7: 63}  # largest magnitude of a signed integer, by bits


def quantize_columns(matrix: FloatArray, bits: int = 8) -> tuple[Int8Array, FloatArray]:
    """Return a matrix [in, out] as symmetric integers [in, out] and a scale per column [out]."""
    scale = np.abs(matrix).max(0) / _LIMITS[bits]
    scale[scale < TINY] = 1
    integers: Int8Array = np.rint(matrix / scale).astype(np.int8)
    return integers, scale.astype(np.float32)


def dequantized_columns(matrix: FloatArray) -> FloatArray:
    """Return a matrix [in, out] as its eight-bit integers represent it."""
    integers, scale = quantize_columns(matrix)
    product: FloatArray = integers * scale
    return product


def write_dynamic(graph: ir.Graph, site: Site, bits: int) -> None:
    """Quantize the activation of a product by its range at each run; ONNX Runtime fuses the five nodes into one."""
    integers, scale = quantize_columns(weight_array(site.weight), bits)
    tape = Tape()
    weight = _constant(tape, site.name, "weight.int8", integers)
    weight_scale = _constant(tape, site.name, "weight.scale", scale)
    x, x_scale, x_zero = _quantize_dynamically(tape, site.activation)
    _multiply_integers(tape, x, weight, x_zero, x_scale, weight_scale)
    replace_node(graph, site.node, tape, site.name)


def write_scores(graph: ir.Graph, node: ir.Node, name: str, largest: float, bits: int) -> None:
    """Multiply queries and keys in eight bits: queries by the range of each run, keys by a calibrated range.

    Keys are signed, because two unsigned factors are as slow as two signed ones, and ONNX has no operator that finds a
    signed range at run time.

    Args:
        graph: The graph of the node.
        node: The MatMul of queries and keys.
        name: Prefix of the new names.
        largest: Largest magnitude of a key.
        bits: 7 or 8.
    """
    query, key = node.inputs
    tape, limit = Tape(), _LIMITS[bits]
    key_scale = _constant(tape, name, "key.scale", np.array(largest / limit, np.float32))
    key_zero = _constant(tape, name, "key.zero", np.array(0, np.int8))
    x, x_scale, x_zero = _quantize_dynamically(tape, query)
    integers = tape.op("QuantizeLinear", [key, key_scale, key_zero])
    if bits < 8:
        ends = [_constant(tape, name, f"key.end{i}", np.array(end, np.int8)) for i, end in enumerate((-limit, limit))]
        integers = tape.op("Clip", [integers, *ends])
    _multiply_integers(tape, x, integers, x_zero, x_scale, key_scale)
    replace_node(graph, node, tape, name)


def write_static(graph: ir.Graph, site: Site, span: Range, bits: int) -> None:
    """Quantize the activation by a calibrated range: QuantizeLinear and DequantizeLinear around a MatMul."""
    integers, scale = quantize_columns(weight_array(site.weight), bits)
    tape, name = Tape(), site.name
    x_scale = _constant(tape, name, "input.scale", np.array(span.scale))
    x_zero = _constant(tape, name, "input.zero", np.array(span.zero))
    quantized = tape.op("QuantizeLinear", [site.activation, x_scale, x_zero])
    x = tape.op("DequantizeLinear", [quantized, x_scale, x_zero])
    weight_parts = {"int8": integers, "scale": scale, "zero": np.zeros(scale.shape, np.int8)}
    constants = [_constant(tape, name, f"weight.{part}", array) for part, array in weight_parts.items()]
    weight = tape.op("DequantizeLinear", constants, {"axis": 1})
    tape.op("MatMul", [x, weight])
    replace_node(graph, site.node, tape, name)


def write_table(graph: ir.Graph, site: Site, bits: int) -> None:
    """Store a table in 8 bits with a scale per row, or in 16 as float16; rows become float32 when they are looked up.

    Args:
        graph: The graph of the site.
        site: A Gather from a table [rows, width].
        bits: 8 or 16.
    """
    rows, tape = weight_array(site.weight), Tape()
    if bits == 16:
        fetched = tape.op("Gather", [_constant(tape, site.name, "fp16", rows.astype(np.float16)), site.activation])
        tape.op("Cast", [fetched], {"to": ir.DataType.FLOAT})
    else:
        integers, scale = quantize_columns(rows.T)
        table = _constant(tape, site.name, "int8", np.ascontiguousarray(integers.T))
        fetched = tape.op("Gather", [table, site.activation])
        factor = tape.op("Gather", [_constant(tape, site.name, "scale", scale[:, None]), site.activation])
        tape.op("Mul", [tape.op("Cast", [fetched], {"to": ir.DataType.FLOAT}), factor])
    replace_node(graph, site.node, tape, site.name)


def _constant(tape: Tape, prefix: str, name: str, array: AnyArray) -> ir.Value:
    return tape.initializer(ir.Tensor(array, name=f"{prefix}.{name}"))


def _quantize_dynamically(tape: Tape, value: ir.Value | None) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Return unsigned integers, their scale and their zero."""
    integers, scale, zero = tape.op_multi_out("DynamicQuantizeLinear", [value], num_outputs=3)
    return integers, scale, zero


def _multiply_integers(
    tape: Tape, x: ir.Value, y: ir.Value, x_zero: ir.Value, x_scale: ir.Value, y_scale: ir.Value
) -> ir.Value:
    """Multiply integers, then the result by both scales."""
    product = tape.op("Cast", [tape.op("MatMulInteger", [x, y, x_zero])], {"to": ir.DataType.FLOAT})
    return tape.op("Mul", [product, tape.op("Mul", [x_scale, y_scale])])
