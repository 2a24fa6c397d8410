"""Tracing of a tower to an ONNX graph without weights, which are attached later and read while they are written."""

from __future__ import annotations

import ast
import contextlib
import io
import logging
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import numpy as np
import onnx_ir as ir
import torch
from onnxscript import optimizer
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ...runtime.arrays import AnyArray
from ...runtime.artifact.contract import TensorSpec
from ...runtime.errors import ExportError
from ..graph.naming import BATCH, OPSET

_DTYPES: Final = {"float32": torch.float32, "int64": torch.int64, "uint8": torch.uint8}
_SCOPES: Final = "pkg.torch.onnx.name_scopes"  # metadata of torch.onnx: the modules around a node

Load = Callable[[str], torch.Tensor]


def trace(build: Callable[[], nn.Module], inputs: Sequence[TensorSpec], outputs: Sequence[str]) -> ir.Model:
    """Trace a tower to an ONNX graph; its initializers are named like the tower's parameters and are still empty.

    Args:
        build: Makes the tower; called on the meta device, so that its parameters take no memory.
        inputs: Inputs of the graph; a dimension given as a name becomes dynamic.
        outputs: Names of the outputs.

    Raises:
        ExportError: torch.onnx cannot trace the tower.
    """
    with torch.device("meta"):
        tower = build().eval()
    with _quiet(), FakeTensorMode(allow_non_fake_inputs=True):
        model = _to_onnx(tower.to_empty(device="cpu"), inputs, outputs)
    _simplify(model, [name for name, _ in tower.named_parameters()])
    return model


def _to_onnx(tower: nn.Module, inputs: Sequence[TensorSpec], outputs: Sequence[str]) -> ir.Model:
    # A dynamic dimension must not be 1, which torch.export would treat as a constant.
    zeros = [torch.zeros([2 if isinstance(d, str) else d for d in i.shape], dtype=_DTYPES[i.dtype]) for i in inputs]
    dynamic = tuple({0: torch.export.Dim(BATCH)} if isinstance(i.shape[0], str) else None for i in inputs)
    try:
        program = torch.export.export(tower, tuple(zeros), dynamic_shapes=dynamic, strict=False)
        traced = torch.onnx.export(
            program,
            dynamo=True,
            optimize=False,
            opset_version=OPSET,
            input_names=[i.name for i in inputs],
            output_names=list(outputs),
            verbose=False,
        )
    except (RuntimeError, torch.onnx.OnnxExporterError) as error:
        raise ExportError(
            f"torch {torch.__version__} cannot trace the tower with the input {inputs[0].name}: {error}",
            "Install the versions in constraints.txt.",
        ) from error
    assert traced is not None  # noqa: S101  only the legacy exporter returns nothing
    model: ir.Model = traced.model
    return model


def attach(model: ir.Model, load: Load) -> None:
    """Attach a lazy tensor to every empty initializer; `load` reads it by name while the graph is written."""
    for name, value in model.graph.initializers.items():
        if value.const_value is None:
            assert value.dtype is not None and isinstance(value.shape, ir.Shape)  # noqa: S101, PT018
            value.const_value = ir.LazyTensor(
                _content(load, name, tuple(value.shape.numpy())),
                dtype=value.dtype,
                shape=value.shape,
                name=name,
                cache=False,
            )


def _content(load: Load, name: str, shape: tuple[int, ...]) -> Callable[[], ir.Tensor[Any]]:
    def content() -> ir.Tensor[Any]:
        array: AnyArray = np.ascontiguousarray(load(name).numpy())
        if array.shape != shape:
            raise ExportError(
                f"The parameter {name} has the shape {list(array.shape)}, but the graph expects {list(shape)}.",
                "This is a defect of siglip-onnx; please report it with the checkpoint's config.json.",
            )
        return ir.Tensor(array, name=name)

    return content


def _simplify(model: ir.Model, weights: list[str]) -> None:
    """Fold the constants and remove unused nodes.

    The optimizer would read initializers, which are empty here; so they are graph inputs while it runs.
    """
    graph = model.graph
    parameters = [graph.initializers.pop(name) for name in weights]
    for value in parameters:
        value.const_value = None
    graph.inputs.extend(parameters)
    optimizer.optimize_ir(model)
    del graph.inputs[len(graph.inputs) - len(parameters) :]
    for value in parameters:
        graph.initializers[str(value.name)] = value
    _tidy(model)


def _tidy(model: ir.Model) -> None:
    """Use one name for the dynamic dimension, and remove source file names and flags that only affect empty tensors."""
    _name_nodes(model)
    for node in model.graph:
        node.metadata_props.clear()
        node.doc_string = None
        if node.op_type == "Reshape":
            node.attributes.pop("allowzero", None)
        for value in node.outputs:
            _name_batch(value)
    for value in (*model.graph.inputs, *model.graph.outputs):
        _name_batch(value)
        value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()
    model.graph.doc_string = None


def _name_nodes(model: ir.Model) -> None:
    """Name each node after its module, such as layers.0.mlp.fc1/MatMul, so that reports are readable."""
    seen: Counter[str] = Counter()
    scope = ""
    for node in model.graph:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        scope = scopes[-2] if len(scopes) > 1 else scope  # else added by the optimizer: same module as before
        name = f"{scope}/{node.op_type}".lstrip("/")
        seen[name] += 1
        node.name = name if seen[name] == 1 else f"{name}_{seen[name]}"


def _name_batch(value: ir.Value) -> None:
    value.metadata_props.clear()
    if value.shape is not None:
        value.shape = ir.Shape([d if isinstance(d, int) else BATCH for d in value.shape])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's exporter (torchvision is missing, torch deprecates its own calls)."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
