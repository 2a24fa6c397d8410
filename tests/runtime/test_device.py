"""Arrays in device memory; the code for GPUs is tested on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from siglip_onnx.runtime import SessionOptions, Siglip
from siglip_onnx.runtime.artifact.contract import Precision, Provider, Role
from siglip_onnx.runtime.device_arrays import DeviceArray
from siglip_onnx.runtime.engines.providers import PROVIDERS
from siglip_onnx.runtime.errors import InputError, ProviderError

RNG = np.random.default_rng(0)


def pixels(rows: int) -> Any:
    return RNG.uniform(-1, 1, (rows, 3, 64, 64)).astype(np.float32)


def test_torch_tensors_are_exchanged_without_a_copy(model: Siglip) -> None:
    tower, rows = model.on_device(Role.VISION), pixels(3)
    out = tower(torch.from_numpy(rows))
    assert (out.shape, out.dtype) == ((3, 192), np.float32)
    tensor = torch.from_dlpack(out)
    assert tensor.data_ptr() == out.value.data_ptr()  # the same memory, not a copy
    np.testing.assert_array_equal(tensor.numpy(), model.encode(Role.VISION, rows))
    np.testing.assert_array_equal(out.numpy(), tensor.numpy())


def test_device_array_supports_dlpack(model: Siglip) -> None:
    ids = model.tokenizer(["a bear", "pizza"])
    out = model.on_device(Role.TEXT)(torch.from_numpy(ids))
    assert isinstance(out, DeviceArray)
    np.testing.assert_array_equal(np.from_dlpack(out), model.encode(Role.TEXT, ids))
    with pytest.raises(AttributeError, match="not in a GPU's memory"):
        _ = out.__cuda_array_interface__


@pytest.mark.parametrize("graphs", [False, True])
def test_prefetched_batches_are_complete_and_in_order(model: Siglip, graphs: bool) -> None:
    fresh = Siglip.load(model.artifact.folder)
    tower = fresh.on_device(Role.VISION)
    tower.graphs = graphs  # as on CUDA; the CPU ignores graph ids
    for _ in range(2):  # the second round reuses the memory on the device
        batches = [pixels(rows) for rows in (1, 2, 3, 5, 3, 1)]
        found = list(tower.encode(batches))
        for batch, rows in zip(batches, found, strict=True):
            np.testing.assert_allclose(rows, model.encode(Role.VISION, batch), atol=2e-6)


def test_failed_upload_raises_its_error(model: Siglip) -> None:
    tower = Siglip.load(model.artifact.folder).on_device(Role.VISION)
    with pytest.raises(InputError, match="got float64"):
        list(tower.encode([pixels(1), np.zeros((1, 3, 64, 64))]))
    assert len(list(tower.encode([pixels(2)]))) == 1  # and it can be used again


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (
            torch.zeros(2, 3, 64, 64, dtype=torch.float64),
            r"float32 \[batch, 3, 64, 64\], got tensor\(double\)",
        ),
        (torch.zeros(2, 3, 32, 32), "Expected float32"),
        (torch.zeros(0, 3, 64, 64), "Expected float32"),
        ([[1.0]], "Expected an array on cpu, got list"),
    ],
)
def test_unsuitable_arrays_are_refused(model: Siglip, inputs: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.on_device(Role.VISION)(inputs)


def test_array_on_another_device_is_refused(model: Siglip) -> None:
    class OnAGpu:
        def __dlpack__(self) -> Any:
            raise AssertionError("must not be called")

        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, 1

    with pytest.raises(InputError, match=r"on cpu 0, got one on device 1 of DLPack's device type 2"):
        model.on_device(Role.VISION)(OnAGpu())


def test_openvino_does_not_support_device_arrays(model: Siglip) -> None:
    with pytest.raises(ProviderError, match="not supported on openvino"):
        Siglip.load(model.artifact.folder, provider="openvino").on_device(Role.VISION)


def test_provider_options_of_cuda_and_tensorrt() -> None:
    options = SessionOptions(Provider.CUDA, device=1, memory_limit=2**30, cuda_graphs=True)
    assert PROVIDERS[Provider.CUDA].options(options, Precision.FP16) == {
        "device_id": "1",
        "use_tf32": "0",
        "arena_extend_strategy": "kSameAsRequested",
        "enable_cuda_graph": "1",
        "gpu_mem_limit": str(2**30),
    }
    made = PROVIDERS[Provider.TENSORRT].options(SessionOptions(Provider.TENSORRT), Precision.FP32)
    assert made == {"device_id": "0", "trt_fp16_enable": "0"}
