"""Towers whose inputs and outputs stay in a GPU's memory, without a copy over the bus.

Arrays are exchanged by DLPack (https://dmlc.github.io/dlpack) or, on a GPU, by the CUDA array interface
(https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html). The same code runs on the CPU, also without
copies, so that tests cover it on machines without a GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

import numpy as np

from .arrays import AnyArray, ByteArray, FloatArray
from .artifact.contract import EmbeddingSpec, Provider
from .engines.options import SessionOptions
from .engines.ort import NO_GRAPH, OrtEngine, onnxruntime, run_options
from .errors import InputError, ProviderError, first_line
from .session import GraphSession, check_feed

# Batch sizes that are replayed as CUDA graphs; smaller batches are padded with copies of their last row. For larger
# batches, launching kernels takes too little time to save any: 1.13 times as fast at 1, 0.96 at 8 (docs/runtime.md).
BUCKETS: Final = (1, 2, 4)
_DTYPES: Final = {"tensor(float)": "float32", "tensor(int64)": "int64", "tensor(uint8)": "uint8"}
_TYPE_NAMES: Final = {dtype: name for name, dtype in _DTYPES.items()}
_DLPACK: Final = {Provider.CPU: (1, "cpu"), Provider.CUDA: (2, "cuda")}  # DLDeviceType in dlpack.h


class DeviceArray:
    """An array in the memory of a provider's device; `torch.from_dlpack`, CuPy and Numba accept it as it is.

    Args:
        value: An OrtValue of ONNX Runtime.

    Attributes:
        value: As given.
        shape: Its shape.
        dtype: Its NumPy dtype.
    """

    def __init__(self, value: Any) -> None:
        self.value = value
        self.shape = tuple(value.shape())
        self.dtype = np.dtype(_DTYPES[value.data_type()])

    def __dlpack__(self, **options: Any) -> Any:
        return self.value.__dlpack__(**options) if options else self.value.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        kind, number = self.value.__dlpack_device__()
        return int(kind), int(number)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.value.device_name().lower() != "cuda":
            raise AttributeError("the array is not in a GPU's memory")
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self.value.data_ptr(), False), "version": 3}

    def numpy(self) -> AnyArray:
        """A copy in the host's memory."""
        return np.array(self.value.numpy())


class DeviceTower:
    """A tower whose inputs and outputs stay on its device; `Siglip.on_device` returns one.

        tower = model.on_device(Role.VISION)
        embeddings = torch.from_dlpack(tower(pixels))  # pixels: torch.float32 [batch, 3, S, S], on the same GPU

    Args:
        session: The tower's session.
        options: The session's options.
        embedding: The output that is the embedding.

    Attributes:
        graphs: Whether `encode` replays recorded CUDA graphs.
        embedding: As given.
        input: The tower's input.

    Raises:
        ProviderError: The provider is neither CUDA nor the CPU, or the graph's batch is fixed.
    """

    def __init__(self, session: GraphSession, options: SessionOptions, embedding: EmbeddingSpec) -> None:
        if options.provider not in _DLPACK or not isinstance(session.engine, OrtEngine):
            raise ProviderError(
                f"Arrays in device memory are not supported on {options.provider}.", f"Use {' or '.join(_DLPACK)}."
            )
        if not session.plain:
            raise ProviderError(
                "Arrays in device memory need a graph with one input and a free batch; this graph has several inputs "
                "or a fixed batch.",
                "Use encode, or export the checkpoint without --batch.",
            )
        self.graphs, self.embedding = options.cuda_graphs, embedding
        self.input = session.graph.inputs[0]
        self._session, self._ort = session, session.engine.session
        self._device_type, self._device = _DLPACK[options.provider]
        self._number = options.device if options.provider is Provider.CUDA else 0
        self._slots = _Slot(self, 0), _Slot(self, 1)
        self._slots_lock = threading.Lock()

    def __call__(self, inputs: Any) -> DeviceArray:
        """Embeddings, as the tower computes them, float32 [rows, size], on the device.

        Args:
            inputs: pixel_values or input_ids in a contiguous array with `__dlpack__` or `__cuda_array_interface__` on
                the device. Work on another stream that fills the array must have finished.

        Raises:
            InputError: The array is on another device, or its dtype or shape is not the contract's.
            ProviderError: ONNX Runtime failed to run the graph.
        """
        self._session.check_unchanged()
        binding = self._ort.io_binding()
        owner = self._bind(binding, inputs)
        binding.bind_output(self.embedding.output, self._device, self._number)
        self.run(binding)
        del owner  # the input's memory had to stay alive until here
        return DeviceArray(binding.get_outputs()[0])

    def encode(self, batches: Iterable[AnyArray]) -> Iterator[FloatArray]:
        """Embeddings of batches in the host's memory; each batch is uploaded while the one before is computed.

        On CUDA, uploads start from page-locked memory. One caller at a time replays recorded graphs; concurrent callers
        run without them.

        Raises:
            InputError: The dtype or shape of a batch is not the contract's.
            ProviderError: ONNX Runtime failed to run the graph.
        """
        first = self._slots_lock.acquire(blocking=False)
        slots = self._slots if first else (_Slot(self, None), _Slot(self, None))
        try:
            with ThreadPoolExecutor(1, "siglip-onnx-upload") as uploader:
                waiting: Future[_Slot] | None = None
                for count, batch in enumerate(batches):
                    check_feed(self.input, batch)
                    upload = uploader.submit(slots[count % 2].upload, batch)
                    if waiting is not None:
                        yield waiting.result().run()
                    waiting = upload
                if waiting is not None:
                    yield waiting.result().run()
        finally:
            if first:
                self._slots_lock.release()

    def binding(self, value: Any) -> tuple[Any, Any]:
        """An IOBinding from an OrtValue to a new output, and that output, both on the device."""
        allocate = onnxruntime().OrtValue.ortvalue_from_shape_and_type
        output = allocate([value.shape()[0], self.embedding.size], np.float32, self._device, self._number)
        binding = self._ort.io_binding()
        binding.bind_ortvalue_input(self.input.name, value)
        binding.bind_ortvalue_output(self.embedding.output, output)
        return binding, output

    def to_device(self, batch: AnyArray) -> Any:
        """A batch as an OrtValue in the device's memory."""
        return onnxruntime().OrtValue.ortvalue_from_numpy(batch, self._device, self._number)

    def run(self, binding: Any, graph_id: int = NO_GRAPH) -> None:
        """Run an IOBinding; the first run with a graph id records a CUDA graph, and later runs replay it.

        Raises:
            ProviderError: ONNX Runtime failed.
        """
        try:
            self._ort.run_with_iobinding(binding, run_options(graph_id) if self.graphs else None)
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            raise ProviderError(
                f"ONNX Runtime failed to run a tower on {self._device}: {first_line(error)}",
                "If memory is short, use smaller batches or raise memory_limit.",
            ) from error

    def _bind(self, binding: Any, inputs: Any) -> Any:
        """Bind an array as the input; the result keeps the array's memory alive."""
        if hasattr(inputs, "__dlpack__"):
            return self._bind_dlpack(binding, inputs)
        interface = getattr(inputs, "__cuda_array_interface__", None)
        if interface is None or self._device != "cuda":
            raise InputError(
                f"Expected an array on {self._device}, got {type(inputs).__name__}.", "Pass a tensor with __dlpack__."
            )
        if interface.get("strides") is not None:
            raise InputError("Expected a contiguous array, got one with strides.", "Make it contiguous.")
        dtype = np.dtype(interface["typestr"])
        self._check(_TYPE_NAMES.get(dtype.name, dtype.name), tuple(interface["shape"]))
        pointer = interface["data"][0]
        binding.bind_input(self.input.name, self._device, self._number, dtype.type, interface["shape"], pointer)
        return inputs

    def _bind_dlpack(self, binding: Any, inputs: Any) -> Any:
        device_type, number = map(int, inputs.__dlpack_device__())
        if (device_type, number) != (self._device_type, self._number):
            raise InputError(
                f"Expected an array on {self._device} {self._number}, got one on device {number} of DLPack's device "
                f"type {device_type}.",
                "Move it to that device.",
            )
        try:
            value = onnxruntime().OrtValue.from_dlpack(inputs)
        except Exception as error:  # the array's library and ONNX Runtime raise exceptions of any class
            raise InputError(
                f"The array cannot be imported by DLPack ({first_line(error)}).", "Make it contiguous and writable."
            ) from error
        self._check(value.data_type(), tuple(value.shape()))
        binding.bind_ortvalue_input(self.input.name, value)
        return value

    def _check(self, type_name: str, shape: tuple[int, ...]) -> None:
        expected = tuple(self.input.shape)
        fits = len(shape) == len(expected) and shape[1:] == expected[1:] and shape[0] >= 1
        if type_name != _TYPE_NAMES.get(self.input.dtype) or not fits:
            raise InputError(
                f"Expected {self.input.dtype} [batch, {', '.join(map(str, expected[1:]))}], got "
                f"{_DTYPES.get(type_name, type_name)} {list(shape)}.",
                "Pass an array of that dtype and shape.",
            )


class _Slot:
    """Memory for one batch: page-locked on the host, and on the device one block for each batch size.

    Blocks on the device stay for batch sizes with a recorded graph, and for the latest other size.

    Args:
        tower: The tower.
        number: Distinguishes this slot's graphs from those of other slots; None records no graph.
    """

    def __init__(self, tower: DeviceTower, number: int | None) -> None:
        self._tower, self._number, self._pinned = tower, number, _PinnedBuffer()
        self._blocks: dict[int, tuple[Any, Any, Any]] = {}  # rows -> input, binding, output
        self._rows = self._padded_rows = 0

    def upload(self, batch: AnyArray) -> _Slot:
        self._rows, self._padded_rows = len(batch), self._bucket(len(batch))
        staged: AnyArray = self._pinned.array(batch[:1].nbytes * self._padded_rows).view(batch.dtype)
        staged = staged.reshape(self._padded_rows, *batch.shape[1:])
        staged[: self._rows], staged[self._rows :] = batch, batch[-1]
        if self._padded_rows in self._blocks:
            self._blocks[self._padded_rows][0].update_inplace(staged)
        else:
            self._blocks = {rows: block for rows, block in self._blocks.items() if self._recorded(rows)}
            value = self._tower.to_device(staged)
            self._blocks[self._padded_rows] = value, *self._tower.binding(value)
        return self

    def run(self) -> FloatArray:
        _, binding, output = self._blocks[self._padded_rows]
        graph_id = 2 * self._padded_rows + (self._number or 0) if self._recorded(self._padded_rows) else NO_GRAPH
        self._tower.run(binding, graph_id)
        return np.array(output.numpy()[: self._rows], np.float32)

    def _recorded(self, rows: int) -> bool:
        return self._tower.graphs and self._number is not None and rows in BUCKETS

    def _bucket(self, rows: int) -> int:
        """The smallest recorded batch size that holds the rows; their own number if there is none."""
        return next((bucket for bucket in BUCKETS if bucket >= rows and self._recorded(bucket)), rows)


class _PinnedBuffer:
    """Page-locked memory, from which a GPU copies at the bus's full speed; plain memory where CUDA is missing.

    cudaHostRegister and cudaHostUnregister: https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__MEMORY.html.
    """

    def __init__(self) -> None:
        self._runtime = _cuda_runtime()
        self._memory: ByteArray = np.empty(0, np.uint8)

    def array(self, size: int) -> ByteArray:
        """The first `size` bytes, uint8 [size]; every call returns the same memory unless it has to grow."""
        if self._memory.nbytes < size:
            self._release()
            self._memory = np.empty(size, np.uint8)
            if self._runtime is not None:  # ignore a failure, which only makes copies slower
                self._runtime.cudaHostRegister(ctypes.c_void_p(self._memory.ctypes.data), size, 0)
        return self._memory[:size]

    def _release(self) -> None:
        if self._memory.nbytes and self._runtime is not None:
            self._runtime.cudaHostUnregister(ctypes.c_void_p(self._memory.ctypes.data))

    def __del__(self) -> None:
        self._release()


def _cuda_runtime() -> Any | None:
    major = str(getattr(onnxruntime(), "cuda_version", "")).split(".")[0]
    if not major or sys.platform == "win32":
        return None
    with contextlib.suppress(OSError):
        runtime = ctypes.CDLL(f"libcudart.so.{major}")
        runtime.cudaHostRegister.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_uint)
        return runtime
    return None
