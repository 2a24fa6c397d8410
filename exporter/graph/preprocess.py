"""Preprocessing as a graph: a decoded image to pixel_values, as `runtime.image.ImageProcessor` makes them.

Two functions, for consumers that have no Pillow:

    preprocess_model(spec) -> Model          image uint8 [height, width, 3] -> pixel_values float32 [1, 3, S, S]
    join_preprocess(tower, spec) -> Model    the same in front of a vision tower, whose batch becomes 1

Operators are ai.onnx's of opset 20. Resize is the antialiased one that was modelled on Pillow's. ONNX Runtime computes
it in the same fixed point, but its weights come from float32 and Pillow's from float64: where the exact value lies
halfway between two levels, some ten in 100,000 values come out one level higher or lower.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ...runtime.artifact.contract import ImageSpec
from ...runtime.errors import ExportError
from ...runtime.preprocessing.image import ImageProcessor
from .builder import constant, free_names
from .naming import BATCH, OPSET

IMAGE: Final = "image"
PIXELS: Final = "pixel_values"

_IR_VERSION: Final = 10  # as torch writes the towers
_ROWS, _COLUMNS = 2, 3  # axes of [1, 3, height, width]
# Pillow's filters in the words of ONNX's Resize. Constants: src/libImaging/Resample.c of Pillow.
_FILTERS: Final[dict[str, dict[str, Any]]] = {
    "bilinear": {"mode": "linear"},
    "bicubic": {"mode": "cubic", "cubic_coeff_a": -0.5},
}
_RESIZE: Final = {"antialias": 1, "coordinate_transformation_mode": "half_pixel", "exclude_outside": 1}


def preprocess_model(spec: ImageSpec) -> ir.Model:
    """A graph: image, uint8 [height, width, 3] RGB of any size -> pixel_values, float32 [1, 3, S, S].

    Args:
        spec: The contract's image section.

    Raises:
        ExportError: ONNX has no operator for the filter, or the model takes patches.
    """
    made = _Nodes()
    image = _image()
    pixels = _pixels(made, image, spec)
    graph = ir.Graph(
        [image],
        [pixels],
        nodes=made.nodes,
        initializers=made.constants,
        opset_imports={"": OPSET},
        name="preprocess",
    )
    return ir.Model(graph, ir_version=_IR_VERSION, producer_name="siglip-onnx")


def join_preprocess(tower: ir.Model, spec: ImageSpec) -> ir.Model:
    """A vision tower that takes images: image, uint8 [height, width, 3] -> the tower's outputs, pixel_values.

    Outputs have the static batch 1. Weights stay where they are: neither read nor copied.

    Args:
        tower: A vision tower with the one input pixel_values, float32 [batch, 3, S, S]; it is changed and given back.
        spec: The contract's image section.

    Raises:
        ExportError: ONNX has no operator for the filter, the model takes patches, or the tower something else.
    """
    graph = tower.graph
    if [value.name for value in graph.inputs] != [PIXELS]:
        names = ", ".join(str(value.name) for value in graph.inputs)
        raise ExportError(f"The graph takes {names}, not {PIXELS}.", "Pass a vision tower.")
    _fix_batch(graph)
    free_names(graph, IMAGE)
    made, image, old = _Nodes(), _image(), graph.inputs[0]
    pixels = _pixels(made, image, spec)
    old.name = None  # free for the value that takes its place
    old.replace_all_uses_with(pixels)
    graph.inputs[:] = [image]
    for value in made.constants:
        graph.register_initializer(value)
    graph.insert_before(graph[0], made.nodes)
    graph.outputs.append(pixels)
    return tower


class _Nodes:
    """Nodes and constants in the order in which they are made, with a prefix that no tower uses."""

    def __init__(self) -> None:
        self.nodes: list[ir.Node] = []
        self.constants: list[ir.Value] = []

    def op(self, kind: str, name: str, *inputs: ir.Value | None, dtype: ir.DataType, **attributes: Any) -> ir.Value:
        """The one output of a new node."""
        output = ir.Value(name=f"preprocess.{name}", type=ir.TensorType(dtype))
        node = ir.node(kind, inputs, attributes, outputs=[output], name=output.name)
        self.nodes.append(node)
        return output

    def constant(self, name: str, value: NDArray[Any]) -> ir.Value:
        """A new initializer."""
        made = constant(f"preprocess.{name}", value)
        self.constants.append(made)
        return made

    def numbers(self, name: str, *values: int) -> ir.Value:
        """A new initializer, int64 [values]."""
        return self.constant(name, np.array(values, np.int64))


def _image() -> ir.Value:
    return ir.Value(name=IMAGE, shape=ir.Shape(["height", "width", 3]), type=ir.TensorType(ir.DataType.UINT8))


def _pixels(made: _Nodes, image: ir.Value, spec: ImageSpec) -> ir.Value:
    """Nodes from an image to its pixel_values."""
    _check(spec)
    channels = made.op("Transpose", "channels_first", image, dtype=ir.DataType.UINT8, perm=[2, 0, 1])
    batch = made.op("Unsqueeze", "batch", channels, made.numbers("batch_axis", 0), dtype=ir.DataType.UINT8)
    return _normalized(made, _resized(made, image, batch, spec), spec)


def _check(spec: ImageSpec) -> None:
    if spec.resize != "stretch":
        raise ExportError(
            f"A graph cannot prepare images for a model that takes {spec.resize}.",
            "Prepare images with siglip_onnx.runtime, or export a model that stretches them to one size.",
        )
    if spec.filter not in _FILTERS:
        raise ExportError(
            f"ONNX's Resize does not know Pillow's filter {spec.filter!r}, so a graph cannot prepare images.",
            f"It knows {' and '.join(_FILTERS)}; for another, prepare images with siglip_onnx.runtime.",
        )


def _resized(made: _Nodes, image: ir.Value, batch: ir.Value, spec: ImageSpec) -> ir.Value:
    """uint8 [1, 3, height, width] -> uint8 [1, 3, S, S], one axis after the other, as Pillow goes.

    Pillow resizes columns first. From version 13 on it starts with the rows of an image that loses more than twice as
    many rows as columns. Here a Resize of the rows stands in front, which otherwise leaves them as many as they are.
    """

    def resize(name: str, image: ir.Value, axis: int, size: ir.Value) -> ir.Value:
        attributes = {**_RESIZE, **_FILTERS[spec.filter], "axes": [axis]}
        return made.op("Resize", name, image, None, None, size, dtype=ir.DataType.UINT8, **attributes)

    height, width = made.numbers("height", spec.height), made.numbers("width", spec.width)
    first = resize("rows_first", batch, _ROWS, _rows_first(made, image, height, width))
    return resize("rows", resize("columns", first, _COLUMNS, width), _ROWS, height)


def _rows_first(made: _Nodes, image: ir.Value, height: ir.Value, width: ir.Value) -> ir.Value:
    """How many rows are left after the first Resize, int64 [1]: all, unless Pillow 13 begins with them.

    Source: ImagingResampleInner in src/libImaging/Resample.c, https://github.com/python-pillow/Pillow/pull/9549.
    """
    number, truth = ir.DataType.INT64, ir.DataType.BOOL
    rows = made.op("Shape", "image_height", image, dtype=number, start=0, end=1)
    columns = made.op("Shape", "image_width", image, dtype=number, start=1, end=2)
    fewer_rows = made.op("Sub", "rows_lost", rows, height, dtype=number)
    fewer_columns = made.op("Sub", "columns_lost", columns, width, dtype=number)
    twice = made.op("Add", "columns_lost_twice", fewer_columns, fewer_columns, dtype=number)
    bound = made.op("Max", "bound", twice, made.numbers("nothing", 0), dtype=number)
    tall = made.op("Greater", "tall", fewer_rows, bound, dtype=truth)
    return made.op("Where", "rows_after_first", tall, height, rows, dtype=number)


def _normalized(made: _Nodes, resized: ir.Value, spec: ImageSpec) -> ir.Value:
    """uint8 [1, 3, S, S] RGB -> float32 of the same shape, in the spec's order of colors.

    A table of what each byte becomes gives the processor's bits; arithmetic on floats would depend on who runs it.
    """
    if spec.channel_order == "BGR":
        order = made.numbers("blue_green_red", 2, 1, 0)
        resized = made.op("Gather", "turned", resized, order, dtype=ir.DataType.UINT8, axis=1)
    bytes_ = made.op("Cast", "bytes", resized, dtype=ir.DataType.INT32, to=ir.DataType.INT32)
    offsets = made.constant("offsets", np.array([0, 256, 512], np.int32).reshape(1, 3, 1, 1))
    places = made.op("Add", "places", bytes_, offsets, dtype=ir.DataType.INT32)
    table = made.constant("table", _table(spec))
    pixels = made.op("Gather", "pixels", table, places, dtype=ir.DataType.FLOAT, axis=0)
    pixels.name, pixels.shape = PIXELS, ir.Shape([1, 3, spec.height, spec.width])
    return pixels


def _table(spec: ImageSpec) -> NDArray[np.float32]:
    """What each byte of each channel becomes, float32 [3 * 256], in the spec's order of colors."""
    ramp = np.arange(256, dtype=np.uint8)[:, None, None].repeat(3, axis=2)  # [256, 1, 3]
    return ImageProcessor(spec).normalize(ramp).reshape(3 * 256)


def _fix_batch(graph: ir.Graph) -> None:
    """Make the batch of every value 1."""
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    for value in values:
        if value.shape is not None:
            dimensions: Sequence[int | str | None] = [d if isinstance(d, int) else d.value for d in value.shape]
            value.shape = ir.Shape([1 if d == BATCH else d for d in dimensions])
