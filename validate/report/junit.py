"""JUnit XML of a gate: one test suite per cell, one test case per check.

JUnit XML has no single schema; this is the subset that Jenkins, GitLab and the XSD of Ant's JUnit task share. The file
contains a failure or an error if and only if the gate's verdict is not PASS, so a CI job that reads nothing else
reaches the same verdict.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from ...runtime.artifact.contract import Verdict
from . import formatting
from .matrix import Cell, Matrix
from .report import Check, Report, describe

_GATE: Final = "gate"
_TAGS: Final[dict[Verdict, Literal["failure", "error"]]] = {Verdict.FAIL: "failure", Verdict.INCONCLUSIVE: "error"}
_COUNTS: Final = {"failures": "failure", "errors": "error", "skipped": "skipped"}
# Characters that XML 1.0 forbids (https://www.w3.org/TR/xml/#charsets), among them lone surrogates.
_FORBIDDEN: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class _Case:
    """A test case and its problem, if any."""

    group: str
    name: str
    tag: Literal["failure", "error", "skipped"] | None = None
    message: str = ""
    text: str = ""


def to_junit(matrix: Matrix) -> bytes:
    """JUnit XML of a gate, in UTF-8 with an XML declaration.

    A failed check is a `failure`. An INCONCLUSIVE check, an expected check group without checks and a required cell
    without a report are an `error`. Problems of an optional cell are `skipped`, because they do not affect the verdict.
    """
    suites = [_suite(cell.name, _cases(cell), cell.seconds, cell.report) for cell in matrix.cells]
    if unexplained := _unexplained(_GATE, matrix.verdict, suites):
        suites.append(_suite(_GATE, [unexplained], 0.0, None))
    root = ET.Element("testsuites", name=_text(f"siglip-onnx validate {matrix.artifact}"), time=f"{matrix.seconds:.3f}")
    for key in ("tests", *_COUNTS):
        root.set(key, str(sum(int(suite.get(key, "0")) for suite in suites)))
    root.extend(suites)
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _cases(cell: Cell) -> list[_Case]:
    """Test cases of a cell; for an optional cell, problems become `skipped`."""
    cases = [_not_run(cell)] if cell.report is None else list(_check_cases(cell.name, cell.report))
    if unexplained := _unexplained(cell.name, cell.verdict, [_element(case) for case in cases]):
        cases.append(unexplained)
    return cases if cell.required else [_skipped(case) for case in cases]


def _not_run(cell: Cell) -> _Case:
    return _Case(cell.name, "runs", "error", formatting.first_problem(cell), str(cell.verdict))


def _check_cases(cell: str, report: Report) -> Iterator[_Case]:
    for check in report.checks:
        tag = _TAGS.get(check.verdict)
        yield _Case(f"{cell}.{check.group}", check.name, tag, _numbers(check) if tag else "", describe(check))
    for group in formatting.unmeasured(report):
        yield _Case(f"{cell}.{group}", "has checks", "error", "no checks ran", "PASS requires checks of this group.")


def _numbers(check: Check) -> str:
    """Numbers and detail of a check in one line."""
    noise = "" if check.noise is None else f", noise {formatting.noise(check)}"
    numbers = f"measured {formatting.measured(check)}, limit {formatting.limit(check)}{noise}"
    return f"{numbers}; {check.detail}".rstrip("; ")


def _unexplained(group: str, verdict: Verdict, elements: Sequence[ET.Element]) -> _Case | None:
    """Test case for a verdict that no element shows, such as that of a gate without a required cell."""
    shown = any(element.find(f".//{tag}") is not None for element in elements for tag in _TAGS.values())
    if verdict is Verdict.PASS or shown:
        return None
    return _Case(group, "verdict", _TAGS[verdict], str(verdict), "No check explains this verdict.")


def _skipped(case: _Case) -> _Case:
    return case if case.tag is None else _Case(case.group, case.name, "skipped", f"optional: {case.message}", case.text)


def _suite(name: str, cases: Sequence[_Case], seconds: float, report: Report | None) -> ET.Element:
    suite = ET.Element("testsuite", name=_text(name), tests=str(len(cases)), time=f"{seconds:.3f}")
    for key, tag in _COUNTS.items():
        suite.set(key, str(sum(case.tag == tag for case in cases)))
    if report is not None:
        suite.set("timestamp", _text(report.created.split("+")[0]))  # UTC; the XSD allows no time zone
        properties = ET.SubElement(suite, "properties")
        for key, value in _properties(report).items():
            ET.SubElement(properties, "property", name=_text(key), value=_text(value))
    suite.extend(_element(case) for case in cases)
    return suite


def _properties(report: Report) -> dict[str, str]:
    return {
        "artifact": report.artifact,
        "contract_sha256": report.contract_sha256,
        "reference": report.reference,
        "data": report.data.name,
        "data_sha256": report.data.sha256,
        "limits": report.limits,
    }


def _element(case: _Case) -> ET.Element:
    element = ET.Element("testcase", classname=_text(case.group), name=_text(case.name))
    if case.tag is not None:
        problem = ET.SubElement(element, case.tag, message=_text(case.message))
        problem.text = _text(case.text)
        if case.tag != "skipped":  # the XSD allows no type here
            problem.set("type", case.tag)
    return element


def _text(text: str) -> str:
    """Replace characters that XML forbids by Python escapes."""
    return _FORBIDDEN.sub(lambda match: ascii(match[0])[1:-1], text)
