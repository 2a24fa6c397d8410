"""A test that a machine cannot run is counted with its reason; where it has to run, it fails."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from siglip_onnx.runtime import SessionOptions
from siglip_onnx.runtime.artifact.contract import Provider
from siglip_onnx.runtime.engines import host, preflight
from siglip_onnx.runtime.engines.host import Processor
from siglip_onnx.runtime.engines.options import OpenVinoPrecision
from siglip_onnx.runtime.engines.preflight import ProviderProblem

from . import not_run

pytest_plugins = ["pytester"]

INTEL = Processor("Xeon", ("avx2", "avx512_vnni", "avx512_bf16"), "GenuineIntel")
AMD = Processor("EPYC", ("avx2",), "AuthenticAMD")
ORT = Provider.OPENVINO_ORT


def on(monkeypatch: pytest.MonkeyPatch, processor: Processor, found: ProviderProblem | None) -> None:
    """Pretend to be on a machine with this processor, where `doctor` finds this."""
    monkeypatch.setattr(host, "processor", lambda: processor)
    monkeypatch.setattr(preflight, "check_provider", lambda provider, options=None: found)


@pytest.mark.parametrize(
    ("provider", "openvino_precision", "processor", "expected"),
    [
        (ORT, None, INTEL, True),
        (ORT, None, AMD, False),
        (Provider.OPENVINO, OpenVinoPrecision.BF16, INTEL, True),
        (Provider.OPENVINO, OpenVinoPrecision.BF16, AMD, False),
        (Provider.CUDA, None, INTEL, False),
    ],
)
def test_what_has_to_run_where(
    provider: Provider, openvino_precision: OpenVinoPrecision | None, processor: Processor, expected: bool
) -> None:
    assert not_run.must_run(provider, openvino_precision, processor) is expected


def item(*marks: pytest.MarkDecorator) -> pytest.Item:
    """A test with these marks, as far as the hook looks at it."""
    found = [mark.mark for mark in marks]
    return SimpleNamespace(iter_markers=lambda name: [mark for mark in found if mark.name == name])  # type: ignore[return-value]


def test_a_provider_that_cannot_work_here_skips_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, AMD, ProviderProblem("It offers no device.", "Use another."))
    with pytest.raises(pytest.skip.Exception, match=r"openvino-ort: It offers no device\."):
        not_run.pytest_runtest_setup(item(pytest.mark.needs_provider("openvino-ort")))
    not_run.pytest_runtest_setup(item())


def test_a_provider_that_has_to_work_here_fails_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    on(monkeypatch, INTEL, ProviderProblem("It offers no device.", "Use another."))
    with pytest.raises(pytest.fail.Exception, match="openvino-ort: It offers no device"):
        not_run.pytest_runtest_setup(item(pytest.mark.needs_provider("openvino-ort")))


def test_a_provider_that_works_here_runs_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    for processor in (INTEL, AMD):
        on(monkeypatch, processor, None)
        not_run.need(ORT, SessionOptions())


def test_each_reason_is_counted_on_a_line_of_its_own() -> None:
    given = [
        ("a.py", 1, "Skipped: x: no device"),
        ("b.py", 2, "Skipped: x: no device"),
        ("c.py", 3, "Skipped: no fork"),
    ]
    assert not_run.summary(given) == ["2 tests not run: x: no device", "1 test not run: no fork"]
    assert not_run.summary([]) == []


def test_the_run_ends_with_what_was_not_run(pytester: pytest.Pytester) -> None:
    pytester.makeconftest("from tests import not_run\n\ndef pytest_configure(config):\n    not_run.register(config)\n")
    pytester.makepyfile(
        "import pytest\n"
        "@pytest.mark.skipif(True, reason='there is no fork')\ndef test_a(): pass\n"
        "def test_b(): pytest.skip('there is no fork')\n"
        "def test_c(): pass\n"
    )
    pytester.runpytest_inprocess("-p", "no:cacheprovider").stdout.fnmatch_lines(["2 tests not run: there is no fork*"])
