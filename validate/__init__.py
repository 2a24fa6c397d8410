"""Judge an artifact against the PyTorch reference, and say so in a form that a CI can act on."""

from .gates import GATES, Gate
from .report import Check, Report, Rung
from .run import report_path, store, validate

__all__ = ["GATES", "Check", "Gate", "Report", "Rung", "report_path", "store", "validate"]
