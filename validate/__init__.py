"""Compare an artifact with the PyTorch reference, and give a verdict that a CI can act on."""

from .checks.regression import read_baseline
from .data.samples import DataOptions, Samples
from .limits.defaults import DEFAULT_LIMITS, Limits
from .limits.toml_file import LimitTable
from .matrix.output_files import report_files, store_cells
from .matrix.runner import MatrixPlan, MatrixResult, run_cell, run_matrix
from .open_model import OpenedModel, available_precisions, is_artifact, open_model
from .report.matrix import Cell, Matrix
from .report.report import Check, CheckGroup, Report
from .request import ValidationRequest
from .store_verdict import ValidationResult, report_path, store_verdict
from .validate_variant import validate, validate_cell

__all__ = [
    "DEFAULT_LIMITS",
    "Cell",
    "Check",
    "CheckGroup",
    "DataOptions",
    "LimitTable",
    "Limits",
    "Matrix",
    "MatrixPlan",
    "MatrixResult",
    "OpenedModel",
    "Report",
    "Samples",
    "ValidationRequest",
    "ValidationResult",
    "available_precisions",
    "is_artifact",
    "open_model",
    "read_baseline",
    "report_files",
    "report_path",
    "run_cell",
    "run_matrix",
    "store_cells",
    "store_verdict",
    "validate",
    "validate_cell",
]
