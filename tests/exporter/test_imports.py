"""The exporter's modules that must be importable without PyTorch."""

from __future__ import annotations

import subprocess
import sys

import pytest

TORCH_FREE = [
    "siglip_onnx.exporter",
    "siglip_onnx.exporter.options",
    "siglip_onnx.exporter.checkpoint.config",
    "siglip_onnx.exporter.checkpoint.image_spec",
    "siglip_onnx.exporter.checkpoint.tokenizer_spec",
    "siglip_onnx.exporter.checkpoint.infer_config",
    "siglip_onnx.exporter.checkpoint.expected_shapes",
    "siglip_onnx.exporter.tokenizer_json",
    "siglip_onnx.exporter.classifier",
    "siglip_onnx.exporter.graph.joint",
    "siglip_onnx.exporter.layouts",
]


def imports_of(module: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after importing the module."""
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_modules_load_without_torch() -> None:
    """One process for all of them: a new import of torch anywhere fails the test."""
    assert not {"torch", "transformers"} & imports_of(", ".join(TORCH_FREE))


@pytest.mark.parametrize("module", TORCH_FREE[:2])
def test_options_load_without_onnx(module: str) -> None:
    assert not {"torch", "onnx", "onnx_ir", "transformers"} & imports_of(module)
