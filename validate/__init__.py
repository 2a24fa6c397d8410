"""Judge an artifact against the PyTorch reference, and say so in a form that a CI can act on."""

from .limits.defaults import GATES, Gate
from .limits.toml_file import Gates
from .report.report import Check, Report, Rung
from .validate_variant import Judged, Terms, report_path, store, validate

__all__ = ["GATES", "Check", "Gate", "Gates", "Judged", "Report", "Rung", "Terms", "report_path", "store", "validate"]
