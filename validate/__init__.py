"""Judge an artifact against the PyTorch reference, and say so in a form that a CI can act on."""

from .limits.defaults import DEFAULT_LIMITS, Limits
from .limits.toml_file import LimitTable
from .report.report import Check, CheckGroup, Report
from .validate_variant import Terms, ValidationResult, report_path, store, validate

__all__ = [
    "DEFAULT_LIMITS",
    "Check",
    "CheckGroup",
    "LimitTable",
    "Limits",
    "Report",
    "Terms",
    "ValidationResult",
    "report_path",
    "store",
    "validate",
]
