"""A gate as JUnit's XML, which every CI system shows: a suite for each cell, a case for each check.

There is no one schema; what is written is what Jenkins, GitLab and the Ant task's XSD have in common. There is a
failure or an error in it exactly where the gate is no PASS, so that a CI job that reads nothing else comes to the same
verdict.
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
# What XML 1.0 cannot hold in any form (https://www.w3.org/TR/xml/#charsets), which includes halves of surrogate pairs.
_FORBIDDEN: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class _Case:
    """A test case, with what is wrong with it."""

    group: str
    name: str
    tag: Literal["failure", "error", "skipped"] | None = None
    message: str = ""
    text: str = ""


def to_junit(matrix: Matrix) -> bytes:
    """The XML, UTF-8 with a declaration.

    A check that failed is a `failure`; one that is INCONCLUSIVE, a group that nobody climbed and a required cell that
    never came to a report are an `error`. What is wrong with an optional cell is `skipped`, as it decides nothing.
    """
    suites = [_suite(cell.name, _cases(cell), cell.seconds, cell.report) for cell in matrix.cells]
    if unsaid := _unsaid(_GATE, matrix.verdict, suites):
        suites.append(_suite(_GATE, [unsaid], 0.0, None))
    root = ET.Element("testsuites", name=_text(f"siglip-onnx validate {matrix.artifact}"), time=f"{matrix.seconds:.3f}")
    for key in ("tests", *_COUNTS):
        root.set(key, str(sum(int(suite.get(key, "0")) for suite in suites)))
    root.extend(suites)
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True)) + b"\n"


def _cases(cell: Cell) -> list[_Case]:
    """The cases of a cell; an optional one's problems are skipped."""
    cases = [_not_run(cell)] if cell.report is None else list(_measured(cell.name, cell.report))
    if unsaid := _unsaid(cell.name, cell.verdict, [_element(case) for case in cases]):
        cases.append(unsaid)
    return cases if cell.required else [_skipped(case) for case in cases]


def _not_run(cell: Cell) -> _Case:
    return _Case(cell.name, "runs", "error", formatting.first_problem(cell), str(cell.verdict))


def _measured(cell: str, report: Report) -> Iterator[_Case]:
    for check in report.checks:
        tag = _TAGS.get(check.verdict)
        yield _Case(f"{cell}.{check.group}", check.name, tag, _numbers(check) if tag else "", describe(check))
    for group in formatting.unmeasured(report):
        yield _Case(f"{cell}.{group}", "is measured", "error", "no check was made", "The verdict stands on this group.")


def _numbers(check: Check) -> str:
    """A check on a line: what would be required to pass, and what is allowed."""
    floor = "" if check.noise is None else f", noise {formatting.noise(check)}"
    return f"required {formatting.measured(check)}, allowed {formatting.limit(check)}{floor}; {check.detail}".rstrip(
        "; "
    )


def _unsaid(group: str, verdict: Verdict, elements: Sequence[ET.Element]) -> _Case | None:
    """A case for a verdict that no element shows: that of a gate without a required cell, say."""
    shown = any(element.find(f".//{tag}") is not None for element in elements for tag in _TAGS.values())
    if verdict is Verdict.PASS or shown:
        return None
    return _Case(group, "verdict", _TAGS[verdict], str(verdict), "No check says why.")


def _skipped(case: _Case) -> _Case:
    return case if case.tag is None else _Case(case.group, case.name, "skipped", f"optional: {case.message}", case.text)


def _suite(name: str, cases: Sequence[_Case], seconds: float, report: Report | None) -> ET.Element:
    suite = ET.Element("testsuite", name=_text(name), tests=str(len(cases)), time=f"{seconds:.3f}")
    for key, tag in _COUNTS.items():
        suite.set(key, str(sum(case.tag == tag for case in cases)))
    if report is not None:
        suite.set("timestamp", _text(report.created.split("+")[0]))  # in UTC, and without a zone in the XSD
        properties = ET.SubElement(suite, "properties")
        for key, value in _properties(report).items():
            ET.SubElement(properties, "property", name=_text(key), value=_text(value))
    suite.extend(_element(case) for case in cases)
    return suite


def _properties(report: Report) -> dict[str, str]:
    told = {"artifact": report.artifact, "contract_sha256": report.contract_sha256, "reference": report.reference}
    return told | {"data": report.data.name, "data_sha256": report.data.sha256, "gates": report.limits}


def _element(case: _Case) -> ET.Element:
    element = ET.Element("testcase", classname=_text(case.group), name=_text(case.name))
    if case.tag is not None:
        problem = ET.SubElement(element, case.tag, message=_text(case.message))
        problem.text = _text(case.text)
        if case.tag != "skipped":  # which has no type in the XSD
            problem.set("type", case.tag)
    return element


def _text(text: str) -> str:
    """The same with what XML cannot hold written as Python writes it."""
    return _FORBIDDEN.sub(lambda found: ascii(found[0])[1:-1], text)
