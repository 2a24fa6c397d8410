"""Towers that take and give arrays where they lie: in a GPU's memory, without a copy over the bus.

Arrays come in and go out by DLPack (https://dmlc.github.io/dlpack) or, from a GPU, by the CUDA array interface
(https://numba.readthedocs.io/en/stable/cuda/cuda_array_interface.html). On the CPU the same code runs without copies,
too, which is how it is tested where there is no GPU.
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
from numpy.typing import NDArray

from .artifact.contract import EmbeddingSpec, Provider
from .engines.base import Array, first_line
from .engines.options import SessionOptions
from .engines.ort import NO_GRAPH, OrtEngine, graph_choice, onnxruntime
from .errors import InputError, ProviderError
from .session import GraphSession, check_feed

FloatArray = NDArray[np.float32]

# Batches that are replayed as CUDA graphs, filled up with copies of their last row. Above them, launching kernels takes
# no time that could be saved: 1.13 times as fast at 1, 0.96 at 8 (docs/runtime.md).
BUCKETS: Final = (1, 2, 4)
_DTYPES: Final = {"tensor(float)": "float32", "tensor(int64)": "int64", "tensor(uint8)": "uint8"}
_DLPACK: Final = {Provider.CPU: (1, "cpu"), Provider.CUDA: (2, "cuda")}  # DLDeviceType in dlpack.h


class DeviceArray:
    """An array in the memory of a provider's device; `torch.from_dlpack`, CuPy and Numba take it as it is.

    Args:
        value: ONNX Runtime's OrtValue.
    """

    def __init__(self, value: Any) -> None:
        self.value = value
        self.shape = tuple(value.shape())
        self.dtype = np.dtype(_DTYPES[value.data_type()])

    def __dlpack__(self, **how: Any) -> Any:
        return self.value.__dlpack__(**how) if how else self.value.__dlpack__()

    def __dlpack_device__(self) -> tuple[int, int]:
        kind, number = self.value.__dlpack_device__()
        return int(kind), int(number)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.value.device_name().lower() != "cuda":
            raise AttributeError("the array is not in a GPU's memory")
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self.value.data_ptr(), False), "version": 3}

    def numpy(self) -> Array:
        """A copy in the host's memory."""
        return np.array(self.value.numpy())


class DeviceTower:
    """A tower whose inputs and outputs stay on its device, as `Siglip.on_device` gives it.

        tower = model.on_device(Role.VISION)
        embeddings = torch.from_dlpack(tower(pixels))  # pixels: torch.float32 [batch, 3, S, S], on the same GPU

    Args:
        session: The tower.
        options: What it was loaded with.
        embedding: Which of its outputs is the embedding.

    Raises:
        ProviderError: It runs neither on CUDA nor on the CPU.
    """

    def __init__(self, session: GraphSession, options: SessionOptions, embedding: EmbeddingSpec) -> None:
        if options.provider not in _DLPACK or not isinstance(session.engine, OrtEngine):
            raise ProviderError(f"{options.provider} has no arrays on a device.", f"Use {' or '.join(_DLPACK)}.")
        if not session.plain:
            raise ProviderError(
                "Arrays on a device go into graphs of one input and a free batch, and this one has another form.",
                "Use encode, or export the checkpoint without --batch.",
            )
        self.graphs, self.embedding = options.cuda_graphs, embedding
        self._session, self._ort = session, session.engine.session
        self.input = session.graph.inputs[0]
        self._kind, self._device = _DLPACK[options.provider]
        self._number = options.device if options.provider is Provider.CUDA else 0
        self._slots = _Slot(self, 0), _Slot(self, 1)
        self._turn = threading.Lock()

    def __call__(self, inputs: Any) -> DeviceArray:
        """Embeddings, as the tower gives them, float32 [rows, size], on the device.

        Args:
            inputs: pixel_values or input_ids as anything with `__dlpack__` or `__cuda_array_interface__`, contiguous,
                on the device, and finished: work that still fills it on another stream must be waited for.

        Raises:
            InputError: The inputs are elsewhere, or of another dtype or shape than the contract says.
            ProviderError: Running the graph failed.
        """
        self._session.check_unchanged()
        binding = self._ort.io_binding()
        kept = self._bind(binding, inputs)
        binding.bind_output(self.embedding.output, self._device, self._number)
        self.run(binding)
        del kept  # it had to live until here
        return DeviceArray(binding.get_outputs()[0])

    def encode(self, batches: Iterable[Array]) -> Iterator[FloatArray]:
        """Embeddings of batches in the host's memory; each is copied to the device while the one before is computed.

        Copies start in page-locked memory, where there is CUDA. Recorded graphs are replayed for one caller at a time;
        others run without.
        """
        first = self._turn.acquire(blocking=False)
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
                self._turn.release()

    def binding(self, value: Any) -> tuple[Any, Any]:
        """A binding from an OrtValue to a new output, and that output, both on the device."""
        make = onnxruntime().OrtValue.ortvalue_from_shape_and_type
        output = make([value.shape()[0], self.embedding.size], np.float32, self._device, self._number)
        binding = self._ort.io_binding()
        binding.bind_ortvalue_input(self.input.name, value)
        binding.bind_ortvalue_output(self.embedding.output, output)
        return binding, output

    def place(self, batch: Array) -> Any:
        """A batch as an OrtValue in the device's memory."""
        return onnxruntime().OrtValue.ortvalue_from_numpy(batch, self._device, self._number)

    def run(self, binding: Any, graph_id: int = NO_GRAPH) -> None:
        """Run what is bound; with a graph's number it is recorded at first and replayed from then on."""
        try:
            self._ort.run_with_iobinding(binding, graph_choice(graph_id) if self.graphs else None)
        except Exception as error:  # ONNX Runtime's exceptions have no common base but this
            raise ProviderError(
                f"ONNX Runtime failed to run a tower on {self._device}: {first_line(error)}",
                "If memory is short, use smaller batches or raise memory_limit.",
            ) from error

    def _bind(self, binding: Any, inputs: Any) -> Any:
        """Bind an array where it lies; what is returned keeps it alive."""
        if hasattr(inputs, "__dlpack__"):
            kind, number = map(int, inputs.__dlpack_device__())
            if (kind, number) != (self._kind, self._number):
                raise InputError(
                    f"The array is on device {number} of DLPack's kind {kind}; the tower is on {self._device} "
                    f"{self._number}.",
                    "Move it there first.",
                )
            try:
                value = onnxruntime().OrtValue.from_dlpack(inputs)
            except Exception as error:  # whatever the array's library or ONNX Runtime raises
                raise InputError(
                    f"The array cannot be taken by DLPack ({first_line(error)}).", "Make it contiguous and writable."
                ) from error
            self._check(value.data_type(), tuple(value.shape()))
            binding.bind_ortvalue_input(self.input.name, value)
            return value
        told = getattr(inputs, "__cuda_array_interface__", None)
        if told is None or self._device != "cuda":
            raise InputError(
                f"{type(inputs).__name__} is no array on {self._device}.", "Pass a tensor with __dlpack__."
            )
        if told.get("strides") is not None:
            raise InputError("The array is not contiguous.", "Make it so first.")
        dtype = np.dtype(told["typestr"])
        self._check(f"tensor({'float' if dtype == np.float32 else dtype.name})", tuple(told["shape"]))
        binding.bind_input(self.input.name, self._device, self._number, dtype.type, told["shape"], told["data"][0])
        return inputs

    def _check(self, kind: str, shape: tuple[int, ...]) -> None:
        due = tuple(self.input.shape)
        wanted = f"tensor({'float' if self.input.dtype == 'float32' else self.input.dtype})"
        if kind != wanted or shape[1:] != due[1:] or len(shape) != len(due) or shape[0] < 1:
            raise InputError(
                f"The tower takes {self.input.dtype} [batch, {', '.join(map(str, due[1:]))}] and was given "
                f"{kind} {list(shape)}.",
                "Pass an array of that form.",
            )


class _Slot:
    """A place for one batch: page-locked memory on the host, and for each size memory on the device.

    The memory on the device stays where it is for the sizes that graphs are recorded for, and for the last other one.

    Args:
        tower: Whose inputs.
        number: Tells its graphs from those of the other slot; None records none.
    """

    def __init__(self, tower: DeviceTower, number: int | None) -> None:
        self._tower, self._number, self._pinned = tower, number, _Pinned()
        self._places: dict[int, tuple[Any, Any, Any]] = {}  # rows -> input, binding, output
        self._rows = self._due = 0

    def upload(self, batch: Array) -> _Slot:
        self._rows, self._due = len(batch), self._padded(len(batch))
        staged: Array = self._pinned.array(batch[:1].nbytes * self._due).view(batch.dtype)
        staged = staged.reshape(self._due, *batch.shape[1:])
        staged[: self._rows], staged[self._rows :] = batch, batch[-1]
        if self._due in self._places:
            self._places[self._due][0].update_inplace(staged)
        else:
            self._places = {rows: place for rows, place in self._places.items() if self._replayed(rows)}
            value = self._tower.place(staged)
            self._places[self._due] = value, *self._tower.binding(value)
        return self

    def run(self) -> FloatArray:
        _, binding, output = self._places[self._due]
        number = 2 * self._due + (self._number or 0) if self._replayed(self._due) else NO_GRAPH
        self._tower.run(binding, number)
        return np.array(output.numpy()[: self._rows], np.float32)

    def _replayed(self, rows: int) -> bool:
        return self._tower.graphs and self._number is not None and rows in BUCKETS

    def _padded(self, rows: int) -> int:
        """The next size that a graph is recorded for, if there is one."""
        return next((bucket for bucket in BUCKETS if bucket >= rows and self._replayed(bucket)), rows)


class _Pinned:
    """Page-locked memory, from which a GPU copies at the bus's full speed; plain memory where there is no CUDA.

    cudaHostRegister and cudaHostUnregister: https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__MEMORY.html.
    """

    def __init__(self) -> None:
        self._runtime = _cuda_runtime()
        self._held: NDArray[np.uint8] = np.empty(0, np.uint8)

    def array(self, size: int) -> NDArray[np.uint8]:
        """That many bytes, which are the same at the next call."""
        if self._held.nbytes < size:
            self._release()
            self._held = np.empty(size, np.uint8)
            if self._runtime is not None:  # if it cannot be locked it is merely slower
                self._runtime.cudaHostRegister(ctypes.c_void_p(self._held.ctypes.data), size, 0)
        return self._held[:size]

    def _release(self) -> None:
        if self._held.nbytes and self._runtime is not None:
            self._runtime.cudaHostUnregister(ctypes.c_void_p(self._held.ctypes.data))

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
