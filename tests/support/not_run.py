"""Skips tests that this machine cannot run, for the reason that `doctor` gives, and counts them at the end."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import pytest

from siglip_onnx.runtime import SessionOptions
from siglip_onnx.runtime.artifact.contract import Provider
from siglip_onnx.runtime.engines import host, preflight
from siglip_onnx.runtime.engines.host import Processor
from siglip_onnx.runtime.engines.options import OpenVinoPrecision


def _is_intel(processor: Processor) -> bool:
    return processor.vendor == "GenuineIntel"


def _has_bf16(processor: Processor) -> bool:
    return "bf16" in processor.features


# The processors on which a provider must work, with OpenVINO's precision if it is given: there a test fails instead of
# being skipped, so that no CI loses it unnoticed. Vendor and features are known on Linux only.
MUST_RUN: Final[Mapping[tuple[Provider, OpenVinoPrecision | None], Callable[[Processor], bool]]] = {
    (Provider.OPENVINO_ORT, None): _is_intel,
    (Provider.OPENVINO, OpenVinoPrecision.BF16): _has_bf16,
}


def register(config: pytest.Config) -> None:
    """Add the hooks of this module to a run of pytest."""
    config.pluginmanager.register(sys.modules[__name__], __name__)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("needs_provider"):
        need(Provider(*mark.args), SessionOptions(**mark.kwargs))


def need(provider: Provider, options: SessionOptions) -> None:
    """Skip the test if the provider does not work here; fail it if the provider must work here."""
    problem = preflight.check_provider(provider, options)
    if problem is None:
        return
    reason = f"{provider}: {problem.cause}"
    if must_run(provider, options.openvino_precision, host.processor()):
        pytest.fail(f"{reason} {problem.fix} It must work on this processor.", pytrace=False)
    pytest.skip(reason)


def must_run(provider: Provider, openvino_precision: OpenVinoPrecision | None, processor: Processor) -> bool:
    """Whether a provider must work on a processor."""
    expected = MUST_RUN.get((provider, openvino_precision))
    return expected is not None and expected(processor)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the number of skipped tests for each reason."""
    for line in summary(report.longrepr for report in terminalreporter.stats.get("skipped", ())):
        terminalreporter.write_line(line, yellow=True)


def summary(skipped: Iterable[object]) -> list[str]:
    """A line for each reason; pytest stores a skipped test as (path, line, "Skipped: reason")."""
    reasons = Counter(str(entry[-1]).removeprefix("Skipped: ") for entry in skipped if isinstance(entry, tuple))
    return [f"{count} test{'s' * (count > 1)} not run: {reason}" for reason, count in reasons.items()]
