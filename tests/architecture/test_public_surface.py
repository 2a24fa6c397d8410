"""The names that users import; a change of this table is a change of the public interface."""

from __future__ import annotations

import importlib

import pytest

SURFACE = {
    "runtime": ("Artifact", "ImageOptions", "Label", "SessionOptions", "Siglip", "SiglipOnnxError"),
    "exporter": ("Checkpoint", "Dialect", "ExportOptions", "GraphInput", "export", "freeze_labels"),
    "validate": (
        "DEFAULT_LIMITS",
        "Cell",
        "Check",
        "CheckGroup",
        "DataOptions",
        "ExternalModel",
        "LimitTable",
        "Limits",
        "Matrix",
        "MatrixPlan",
        "MatrixResult",
        "OpenedModel",
        "Report",
        "Samples",
        "TowerMap",
        "ValidationRequest",
        "ValidationResult",
        "available_precisions",
        "external_precisions",
        "is_artifact",
        "open_external",
        "open_model",
        "read_baseline",
        "read_tower_map",
        "report_files",
        "report_path",
        "run_cell",
        "run_matrix",
        "store_cells",
        "store_verdict",
        "validate",
        "validate_cell",
    ),
    "quantize": (
        "DEFAULT_TARGETS",
        "RECIPES",
        "Bf16",
        "Fp16",
        "Goal",
        "Int4",
        "Int8",
        "Int8Static",
        "Int8Weights",
        "Measurement",
        "Metric",
        "QuantizeRequest",
        "QuantizeResult",
        "Recipe",
        "Record",
        "SearchStep",
        "TowerRecord",
        "quantize",
    ),
}


@pytest.mark.parametrize("package", SURFACE)
def test_public_names_are_pinned(package: str) -> None:
    module = importlib.import_module(f"siglip_onnx.{package}")
    assert sorted(module.__all__) == sorted(SURFACE[package])
    assert [name for name in SURFACE[package] if not hasattr(module, name)] == []
