"""Preprocessing as a graph: from a decoded image to the pixel_values of `ImageProcessor` in runtime/preprocessing.

Two functions, for consumers without Pillow:

    preprocess_model(spec) -> Model          image uint8 [height, width, 3] -> pixel_values float32 [1, 3, S, S]
    join_preprocess(tower, spec) -> Model    the same, followed by a vision tower with batch 1

All operators are from ai.onnx opset 20. Its antialiased Resize was modelled on Pillow's. ONNX Runtime computes it in
the same fixed point, but derives the filter weights from float32 and Pillow from float64: if the exact value lies
halfway between two levels, about ten in 100,000 values are one level higher or lower.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import onnx_ir as ir

from ...runtime.arrays import FloatArray
from ...runtime.artifact.input_specs import ImageSpec
from ...runtime.errors import ExportError
from ...runtime.preprocessing.image import ImageProcessor
from .builder import NodeBuilder, dimensions, free_names
from .naming import BATCH, OPSET

IMAGE: Final = "image"
PIXELS: Final = "pixel_values"

_IR_VERSION: Final = 10  # torch.onnx writes the towers with it
_PREFIX: Final = "preprocess."  # no tower's names begin with it
_ROWS, _COLUMNS = 2, 3  # axes of [1, 3, height, width]
# Pillow's filters as attributes of ONNX's Resize. Source of the coefficient: Pillow, src/libImaging/Resample.c.
_FILTERS: Final[dict[str, dict[str, Any]]] = {
    "bilinear": {"mode": "linear"},
    "bicubic": {"mode": "cubic", "cubic_coeff_a": -0.5},
}
_RESIZE: Final = {"antialias": 1, "coordinate_transformation_mode": "half_pixel", "exclude_outside": 1}


def preprocess_model(spec: ImageSpec) -> ir.Model:
    """Make a graph: image, uint8 [height, width, 3] RGB of any size -> pixel_values, float32 [1, 3, S, S].

    Args:
        spec: The image section of the contract.

    Raises:
        ExportError: ONNX has no operator for the filter, or the model takes patches.
    """
    builder, image = NodeBuilder(prefix=_PREFIX), _image()
    pixels = _pixels(builder, image, spec)
    graph = ir.Graph(
        [image],
        [pixels],
        nodes=builder.nodes,
        initializers=builder.initializers,
        opset_imports={"": OPSET},
        name="preprocess",
    )
    return ir.Model(graph, ir_version=_IR_VERSION, producer_name="siglip-onnx")


def join_preprocess(tower: ir.Model, spec: ImageSpec) -> ir.Model:
    """Put preprocessing before a vision tower: image, uint8 [height, width, 3] -> the tower's outputs, pixel_values.

    All outputs have the static batch 1. Weights are neither read nor copied.

    Args:
        tower: A vision tower with the single input pixel_values, float32 [batch, 3, S, S]; it is changed in place.
        spec: The image section of the contract.

    Returns:
        The same tower.

    Raises:
        ExportError: ONNX has no operator for the filter, the model takes patches, or the tower has other inputs.
    """
    graph = tower.graph
    if [value.name for value in graph.inputs] != [PIXELS]:
        names = ", ".join(str(value.name) for value in graph.inputs)
        raise ExportError(f"The graph takes {names}, expected {PIXELS}.", "Pass a vision tower.")
    _fix_batch(graph)
    free_names(graph, IMAGE)
    builder, image, old_input = NodeBuilder(prefix=_PREFIX), _image(), graph.inputs[0]
    pixels = _pixels(builder, image, spec)
    old_input.name = None  # `pixels` has this name now, and names are unique in a graph
    old_input.replace_all_uses_with(pixels)
    graph.inputs[:] = [image]
    for value in builder.initializers:
        graph.register_initializer(value)
    graph.insert_before(graph[0], builder.nodes)
    graph.outputs.append(pixels)
    return tower


def _image() -> ir.Value:
    return ir.Value(name=IMAGE, shape=ir.Shape(["height", "width", 3]), type=ir.TensorType(ir.DataType.UINT8))


def _pixels(builder: NodeBuilder, image: ir.Value, spec: ImageSpec) -> ir.Value:
    """Make the nodes from an image to its pixel_values."""
    _check(spec)
    channels = builder.op("Transpose", "channels_first", image, dtype=ir.DataType.UINT8, perm=[2, 0, 1])
    axis = _integers(builder, "batch_axis", 0)
    batch = builder.op("Unsqueeze", "batch", channels, axis, dtype=ir.DataType.UINT8)
    return _normalized(builder, _resized(builder, image, batch, spec), spec)


def _check(spec: ImageSpec) -> None:
    if spec.resize != "stretch":
        raise ExportError(
            f"A graph cannot preprocess images for a model that takes {spec.resize}.",
            "Preprocess images with siglip_onnx.runtime, or export a model that stretches images to one size.",
        )
    if spec.filter not in _FILTERS:
        raise ExportError(
            f"A graph cannot preprocess images with the filter {spec.filter!r}: ONNX's Resize only supports Pillow's "
            f"{' and '.join(_FILTERS)}.",
            "Preprocess images with siglip_onnx.runtime.",
        )


def _integers(builder: NodeBuilder, name: str, *values: int) -> ir.Value:
    """Make an initializer, int64 [len(values)]."""
    return builder.constant(name, np.array(values, np.int64))


def _resized(builder: NodeBuilder, image: ir.Value, batch: ir.Value, spec: ImageSpec) -> ir.Value:
    """Resize uint8 [1, 3, height, width] to uint8 [1, 3, S, S], one axis after the other like Pillow.

    Pillow resizes columns first. Since version 13 it starts with the rows if an image loses more than twice as many
    rows as columns. So the first Resize here is one of the rows, which leaves their number unchanged otherwise.
    """

    def resize(name: str, image: ir.Value, axis: int, size: ir.Value) -> ir.Value:
        attributes = {**_RESIZE, **_FILTERS[spec.filter], "axes": [axis]}
        return builder.op("Resize", name, image, None, None, size, dtype=ir.DataType.UINT8, **attributes)

    height, width = _integers(builder, "height", spec.height), _integers(builder, "width", spec.width)
    first = resize("rows_first", batch, _ROWS, _rows_after_first(builder, image, height, width))
    return resize("rows", resize("columns", first, _COLUMNS, width), _ROWS, height)


def _rows_after_first(builder: NodeBuilder, image: ir.Value, height: ir.Value, width: ir.Value) -> ir.Value:
    """Number of rows after the first Resize, int64 [1]: all rows, unless Pillow 13 would start with them.

    Source: ImagingResampleInner in src/libImaging/Resample.c, https://github.com/python-pillow/Pillow/pull/9549.
    """
    integer = ir.DataType.INT64
    rows = builder.op("Shape", "image_height", image, dtype=integer, start=0, end=1)
    columns = builder.op("Shape", "image_width", image, dtype=integer, start=1, end=2)
    rows_lost = builder.op("Sub", "rows_lost", rows, height, dtype=integer)
    columns_lost = builder.op("Sub", "columns_lost", columns, width, dtype=integer)
    twice = builder.op("Add", "columns_lost_twice", columns_lost, columns_lost, dtype=integer)
    bound = builder.op("Max", "bound", twice, _integers(builder, "nothing", 0), dtype=integer)
    tall = builder.op("Greater", "tall", rows_lost, bound, dtype=ir.DataType.BOOL)
    return builder.op("Where", "rows_after_first", tall, height, rows, dtype=integer)


def _normalized(builder: NodeBuilder, resized: ir.Value, spec: ImageSpec) -> ir.Value:
    """Normalize uint8 [1, 3, S, S] RGB to float32 of the same shape, in the channel order of the spec.

    A lookup table of all byte values gives the bits of `ImageProcessor`; the result of float arithmetic would depend
    on the runtime.
    """
    if spec.channel_order == "BGR":
        order = _integers(builder, "blue_green_red", 2, 1, 0)
        resized = builder.op("Gather", "turned", resized, order, dtype=ir.DataType.UINT8, axis=1)
    bytes_ = builder.op("Cast", "bytes", resized, dtype=ir.DataType.INT32, to=ir.DataType.INT32)
    offsets = builder.constant("offsets", np.array([0, 256, 512], np.int32).reshape(1, 3, 1, 1))
    places = builder.op("Add", "places", bytes_, offsets, dtype=ir.DataType.INT32)
    table = builder.constant("table", _table(spec))
    shape = (1, 3, spec.height, spec.width)
    pixels = builder.op("Gather", "pixels", table, places, shape=shape, axis=0)
    pixels.name = PIXELS
    return pixels


def _table(spec: ImageSpec) -> FloatArray:
    """Normalized value of each byte in each channel, float32 [3 * 256], in the channel order of the spec."""
    ramp = np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, axis=2)  # [256, 1, 3]
    return ImageProcessor(spec).normalize(ramp).reshape(3 * 256)


def _fix_batch(graph: ir.Graph) -> None:
    """Set the batch dimension of every value to 1."""
    for value in (*graph.inputs, *(value for node in graph for value in node.outputs)):
        if value.shape is not None:
            value.shape = ir.Shape([1 if d == BATCH else d for d in dimensions(value)])
