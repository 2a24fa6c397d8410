"""The HTML page, Markdown, JUnit XML and JSON of a report agree, and escape every text."""

from __future__ import annotations

import io
import json
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import jsonschema
import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image

from siglip_onnx.quantize import Measurement, Record, SearchStep, TowerRecord
from siglip_onnx.runtime.artifact.contract import Precision, Provider, Role, Verdict
from siglip_onnx.runtime.errors import InputError
from siglip_onnx.validate.report import formatting, json_schema, plots
from siglip_onnx.validate.report.html import cell_page, matrix_page
from siglip_onnx.validate.report.junit import to_junit
from siglip_onnx.validate.report.markdown import to_markdown
from siglip_onnx.validate.report.matrix import Cell, Matrix, matrix_verdict
from siglip_onnx.validate.report.plot_data import PlotData, WorstImage
from siglip_onnx.validate.report.report import (
    Check,
    CheckGroup,
    Cost,
    DataRecord,
    Report,
    at_least,
    at_most,
    inconclusive,
    overall,
)

from ..conftest import ROOT

DATA = DataRecord("holiday photos", "d" * 64, 12, 20, 12)
HOSTILE = "<script>alert(1)</script> | `x` *y* [z](q) &amp; ]]> \x00\x1b\ud800\n# '\""
FIGURES = 4
VOID = {"meta", "link", "img", "br"}


def checks(cosine: float = 0.99, difference: float = 0.3) -> tuple[Check, ...]:
    median = at_least(CheckGroup.EMBEDDINGS, "vision centered cosine median", 1 - (1 - cosine) / 10, 0.98)
    lowest = at_least(CheckGroup.EMBEDDINGS, "vision centered cosine min", cosine, 0.98, "worst: 'cat.jpg'", 2e-4)
    return median, lowest, at_most(CheckGroup.LOGITS, "difference max", difference, 3.0, "240 logits", 0.1)


def report(
    *results: Check, precision: Precision = Precision.INT8, size: int = 4_000_000, time: float = 0.002
) -> Report:
    expected = frozenset({CheckGroup.EMBEDDINGS, CheckGroup.LOGITS})
    return Report(
        created="2031-05-06T07:08:09+00:00",
        seconds=12.5,
        artifact="zoo",
        contract_sha256="c" * 64,
        precision=precision,
        provider=Provider.CPU,
        reference="zoo-checkpoint",
        reference_sha256="e" * 64,
        data=DATA,
        environment={"onnxruntime": "1.2.3"},
        verdict=overall(results, expected),
        checks=results,
        expected=(CheckGroup.EMBEDDINGS, CheckGroup.LOGITS),
        cost=Cost(size, {"vision": time, "text": time / 2}),
    )


def plot_data(images: int = 12, labels: int = 20, noise: float = 0.1) -> PlotData:
    rng = np.random.default_rng(0)
    reference = rng.normal(-12, 6, (images, labels)).astype(np.float32)
    candidate = (reference + rng.normal(0, noise, reference.shape)).astype(np.float32)
    cosines = {Role.VISION: 1 - rng.uniform(1e-5, 1e-3, images), Role.TEXT: 1 - rng.uniform(1e-5, 1e-3, labels)}
    rows = {Role.VISION: tuple(f"{i}.jpg" for i in range(images)), Role.TEXT: tuple(f"a {i}" for i in range(labels))}
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), "teal").save(buffer, "WEBP")
    best = (("cat", 0.75), ("dog", 0.125))
    return PlotData(candidate, reference, cosines, rows, (WorstImage("cat.jpg", buffer.getvalue(), best[::-1], best),))


def cell(of: Report, *, required: bool = True) -> Cell:
    return Cell(of.precision, of.provider, of.verdict, required, of, seconds=of.seconds)


def matrix(*cells: Cell) -> Matrix:
    return Matrix("2031-05-06T07:08:09+00:00", 60.0, "zoo", "zoo-checkpoint", DATA, matrix_verdict(cells), cells, {})


GOOD = cell(report(*checks(), precision=Precision.FP32))
BAD = cell(report(*checks(cosine=0.91)))
CRASHED = Cell(Precision.INT8, Provider.OPENVINO, Verdict.FAIL, problem="Its process ended with SIGSEGV.")
ABSENT = Cell(Precision.INT8, Provider.WEB, Verdict.INCONCLUSIVE, required=False, problem="Chromium is missing.")


class Tags(HTMLParser):
    """HTML parser that collects all tags and texts, and fails for a tag that is not closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        self.open += [] if tag in VOID else [tag]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += "" if self.open and self.open[-1] in ("style", "title") else data

    def count(self, tag: str, style: str | None = None) -> int:
        return sum(name == tag and (style is None or attrs.get("class") == style) for name, attrs in self.seen)


def test_cell_page_shows_verdict_then_problem_then_checks_then_plots() -> None:
    page = Tags(cell_page(BAD.report, plot_data()))
    order = ["✕ FAIL", "zoo, int8 on cpu", "do not release", "on 12 images and 20 texts of “holiday photos”"]
    order += ["450 %", "4.0 MB", "First problem.", "Measured 0.91, limit at least 0.98", "measuredlimitnoise"]
    order += [
        "Candidate logits over reference logits",
        "Distribution of logit differences",
        "by row: vision",
        "by row: text",
        "Images with the largest",
    ]
    places = [page.text.index(words) for words in order]
    assert places == sorted(places)
    assert "do not release" not in cell_page(GOOD.report, plot_data())


def test_page_makes_no_requests_and_labels_every_plot() -> None:
    html = cell_page(GOOD.report, plot_data())
    page = Tags(html)
    policy = next(attrs["content"] for tag, attrs in page.seen if tag == "meta" and "http-equiv" in attrs)
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert not any(word in html for word in ("<script", "http://", "https://", "@import", "url(", "javascript:"))
    assert all(
        str(attrs[key]).startswith(("data:", "#")) for _, attrs in page.seen for key in attrs.keys() & {"src", "href"}
    )
    plotted = [attrs for tag, attrs in page.seen if tag == "svg"]
    assert len(plotted) == FIGURES
    assert all(attrs["role"] == "img" and attrs["aria-label"] for attrs in plotted)


def test_labels_at_another_rank_are_marked_in_the_worst_images() -> None:
    page = Tags(cell_page(GOOD.report, plot_data()))
    assert page.count("li") == 4
    assert page.count("li", "moved") == 2
    assert page.count("img") == 1


def test_verdict_on_the_bundled_photos_states_its_limitation() -> None:
    bundled = replace(DATA, bundled=True)
    alone = cell_page(replace(GOOD.report, data=bundled), None)
    gate = replace(matrix(GOOD), data=bundled)
    for text in (alone, matrix_page(gate, {}), to_markdown(gate)):
        assert "say nothing about accuracy" in text
    assert "Limitation" not in cell_page(GOOD.report, None)


def test_page_of_an_artifact_that_could_not_run_has_no_plots() -> None:
    page = Tags(cell_page(BAD.report, None))
    assert page.count("svg") == 0
    assert "could not run far enough" in page.text


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_counted_and_not_plotted(bad: float) -> None:
    data = plot_data()
    data.candidate[:3, 0] = bad
    data.cosines[Role.VISION][5] = np.nan
    page = Tags(cell_page(BAD.report, data))
    assert "3 of 240 logits are NaN or infinite" in page.text
    assert "1 of 12 rows are NaN or infinite" in page.text
    assert page.count("svg") == FIGURES
    assert "nan" not in "".join(str(attrs.get("d")) for tag, attrs in page.seen if tag == "path")
    for array in (data.candidate, data.reference, *data.cosines.values()):
        array[:] = bad
    page = Tags(cell_page(BAD.report, data))
    assert page.count("svg") == 0
    assert page.text.count("no finite number to plot") == FIGURES


def test_unusual_plot_data_is_plotted() -> None:
    for shape in ((0, 0), (1, 1), (3000, 2)):
        Tags(cell_page(GOOD.report, plot_data(*shape)))
    same = plot_data(noise=0.0)
    same = replace(same, cosines={role: np.ones(len(rows), np.float32) for role, rows in same.rows.items()})
    assert Tags(cell_page(GOOD.report, same)).count("svg") == FIGURES
    assert len(cell_page(GOOD.report, plot_data(2000, 100))) < 200_000


def test_page_of_a_gate_shows_all_cells_and_the_pareto_front() -> None:
    small = cell(report(*checks(0.985), precision=Precision.INT4, size=3_000_000))
    dominated = cell(report(*checks(0.984), precision=Precision.BF16, size=5_000_000, time=0.003))
    gate = matrix(GOOD, small, dominated, CRASHED, ABSENT)
    page = Tags(matrix_page(gate, {GOOD.name: plot_data(), small.name: plot_data()}))
    assert "✕ FAIL" in page.text
    assert "3 of 4 required cells pass, 1 optional" in page.text
    assert "Its process ended with SIGSEGV." in page.text
    assert "Without numbers: int8 on openvino, int8 on web" in page.text
    assert page.count("svg") == 2 * FIGURES + 2
    assert page.count("circle", "PASS pareto") == 2 * 2  # fp32 is the most exact, int4 the smallest
    assert page.count("circle", "PASS dominated") == 2 * 1
    anchors = {attrs["id"] for _, attrs in page.seen if "id" in attrs}
    assert {str(attrs["href"])[1:] for tag, attrs in page.seen if tag == "a"} == anchors
    opened = {attrs["id"] for tag, attrs in page.seen if tag == "details" and "open" in attrs}
    assert opened == {"int8-openvino"}


def test_page_shows_how_a_variant_was_derived() -> None:
    steps = [SearchStep(("a",) * n, Measurement(1 - 10.0**-n, 0.9, None, 0.01, n * 1_000_000, 1.5)) for n in (1, 2, 3)]
    untimed = SearchStep((), Measurement(None, None, None, None, 500_000))
    tower = TowerRecord(3_000_000, 12_000_000, ("a", "a"), {"layers.0.qkv": "float32"}, (untimed, *steps), 9.0)
    record = Record("", Precision.INT8, {"bits": 8}, "sigma 0.2", "pairs", "0", 48, (), {Role.TEXT: tower}, {}, {})
    page = Tags(cell_page(GOOD.report, None, record))
    assert "Tower variants that the search measured: 4" in page.text
    assert "layers.0.qkv" in page.text
    assert (page.count("circle", "dominated"), page.count("circle", "pareto")) == (2, 1)


def parsed(xml: bytes) -> ET.Element:
    return ET.fromstring(xml)  # noqa: S314  our own XML


def shown(xml: bytes) -> list[str]:
    """Problems as a CI system lists them."""
    return [
        f"{case.get('classname')}: {problem.tag}: {problem.get('message')}"
        for case in parsed(xml).iter("testcase")
        for problem in case
    ]


def test_junit_lists_problems_with_their_numbers() -> None:
    unsure = inconclusive(CheckGroup.RETRIEVAL, "pairs", "3; 8 are needed")
    incomplete = report(*checks(), unsure, precision=Precision.FP16)
    thin = cell(replace(incomplete, expected=(*GOOD.report.expected, CheckGroup.BATCH)))
    assert shown(to_junit(matrix(GOOD, BAD, thin, CRASHED, ABSENT))) == [
        "int8 on cpu.embeddings: failure: measured 0.91, limit at least 0.98, noise 0.0002; worst: 'cat.jpg'",
        "fp16 on cpu.retrieval: error: measured –, limit –; 3; 8 are needed",
        "fp16 on cpu.batch: error: no checks ran",
        "int8 on openvino: error: Its process ended with SIGSEGV.",
        "int8 on web: skipped: optional: Chromium is missing.",
    ]


def test_problems_of_an_optional_cell_are_skipped_in_junit() -> None:
    gate = matrix(GOOD, replace(BAD, required=False))
    assert gate.verdict is Verdict.PASS
    assert [line.split(": ")[1] for line in shown(to_junit(gate))] == ["skipped"]


def test_gate_without_required_cells_is_an_error_in_junit() -> None:
    assert shown(to_junit(matrix(ABSENT)))[-1] == "gate: error: INCONCLUSIVE"


VERDICTS = st.sampled_from([GOOD, BAD, CRASHED, ABSENT, cell(report(checks()[0])), cell(report())])


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.builds(lambda kind, required: replace(kind, required=required), VERDICTS, st.booleans()), max_size=4)
)
def test_junit_has_problems_if_and_only_if_the_gate_does_not_pass(cells: list[Cell]) -> None:
    gate = matrix(*cells)
    root = parsed(to_junit(gate))
    totals: Counter[str] = Counter()
    for suite in root:
        tags = Counter(problem.tag for case in suite.iter("testcase") for problem in case)
        counts = {key: int(suite.get(key, "-1")) for key in ("tests", "failures", "errors", "skipped")}
        expected = {"failures": tags["failure"], "errors": tags["error"], "skipped": tags["skipped"]}
        assert counts == {"tests": len(list(suite.iter("testcase"))), **expected}
        totals.update(counts)
    assert {key: int(root.get(key, "-1")) for key in ("tests", "failures", "errors", "skipped")} == {
        key: totals[key] for key in ("tests", "failures", "errors", "skipped")
    }
    assert (totals["failures"] + totals["errors"] > 0) == (gate.verdict is not Verdict.PASS)


def rendered(markdown: str) -> Tags:
    """Render as GitHub does: CommonMark with tables and HTML."""
    return Tags(MarkdownIt("commonmark").enable("table").render(markdown))


def test_markdown_starts_with_the_verdict_and_folds_passing_cells() -> None:
    text = to_markdown(matrix(GOOD, BAD, CRASHED, ABSENT))
    assert text.splitlines()[0] == "# ❌ FAIL: zoo"
    assert "1 of 3 required cells pass, 1 optional" in text
    assert "| int8 | ❌ FAIL | ❌ FAIL | ➖ not run (optional) |" in text
    row = "| ❌ FAIL | embeddings | vision centered cosine min | 0.91 | at least 0.98 | 0.0002 | worst: 'cat.jpg' |"
    assert text.index(row) < text.index("<details>")
    page = rendered(text)
    assert page.text.index("SIGSEGV") < page.text.index("✅ PASS fp32 on cpu: 3 checks")
    assert page.count("details") == 2


def test_texts_are_escaped_in_every_form() -> None:
    check = replace(BAD.report.checks[1], name=HOSTILE, detail=HOSTILE)
    bad = replace(BAD, report=replace(BAD.report, artifact=HOSTILE, checks=(check, *BAD.report.checks[1:])))
    crashed = replace(CRASHED, problem=HOSTILE)
    gate = replace(matrix(bad, crashed), artifact=HOSTILE, reference=HOSTILE)
    named = plot_data()
    named = replace(named, rows={role: (HOSTILE,) * len(rows) for role, rows in named.rows.items()})
    for html in (cell_page(bad.report, named), matrix_page(gate, {bad.name: named})):
        assert "<script>alert(1)</script> | `x` *y* [z](q) &amp; ]]>" in Tags(html).text
        assert "<script" not in html
        html.encode()
    text = to_markdown(gate)
    text.encode()
    page = rendered(text)
    assert "<script>alert(1)</script> | `x` *y* [z](q) &amp; ]]> \\x00\\x1b\\ud800 # '\"" in page.text
    assert not {"script", "code", "em", "a"} & {tag for tag, _ in page.seen}
    # Two tables of checks: no vertical bar in a text made an additional column.
    assert page.count("td") == 3 + 7 * (2 + 3)
    case = next(case for case in parsed(to_junit(gate)).iter("testcase") if "alert" in str(case.get("name")))
    assert "\\x00\\x1b\\ud800\n#" in str(case.get("name"))


def test_published_schemas_match_the_code() -> None:
    published = {path.name: path.read_bytes() for path in (ROOT / "docs" / "schema").iterdir()}
    assert published == json_schema.schemas(), "run: python -m siglip_onnx.validate.report.json_schema docs/schema"
    assert set(published) == {"report-3.json", "matrix-2.json"}


@cache
def validator(name: str) -> jsonschema.Draft202012Validator:
    described = json.loads(json_schema.schemas()[name])
    jsonschema.Draft202012Validator.check_schema(described)
    return jsonschema.Draft202012Validator(described)


def valid(kind: str, value: object) -> bool:
    return bool(validator(f"{kind}.json").is_valid(value))


@pytest.mark.parametrize(
    "wrong",
    [
        {"verdict": "MAYBE"},
        {"schema_version": 2},
        {"precision": "fp8"},
        {"checks": [{"group": "logits"}]},
        {"data": None},
        {"expected": "logits"},
    ],
)
def test_report_conforms_to_its_schema_and_a_wrong_one_does_not(wrong: dict[str, object]) -> None:
    written = json.loads(BAD.report.to_json())
    assert valid("report-3", written)
    assert not valid("report-3", written | wrong)
    assert all(not valid("report-3", {k: v for k, v in written.items() if k != name}) for name in written)


def test_gate_report_conforms_to_its_schema_and_a_wrong_one_does_not() -> None:
    written = json.loads(matrix(GOOD, BAD, CRASHED, ABSENT).to_json())
    assert valid("matrix-2", written)
    written["cells"][1]["report"]["checks"][0]["measured"] = "0.99"
    assert not valid("matrix-2", written)


@pytest.mark.parametrize("version", [1, 4, "3", None])
def test_report_of_another_schema_version_is_refused(version: object) -> None:
    for kind, written, current in ((Report, BAD.report, 3), (Matrix, matrix(BAD), 2)):
        assert kind.from_json(written.to_json()) == written
        content = json.loads(written.to_json()) | {"schema_version": version}
        with pytest.raises(msgspec.DecodeError, match=f"schema_version is .*, expected {current}"):
            kind.from_json(json.dumps(content).encode())


def test_report_without_a_schema_version_is_refused() -> None:
    content = json.loads(BAD.report.to_json())
    del content["schema_version"]
    with pytest.raises(msgspec.DecodeError, match="schema_version is missing, expected 3"):
        Report.from_json(json.dumps(content).encode())


def test_unwritable_schema_folder_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        json_schema.write(tmp_path / "file" / "schema")


@pytest.mark.parametrize(
    ("check", "share"),
    [
        (at_most(CheckGroup.LOGITS, "", 0.3, 3.0), 0.1),
        (at_most(CheckGroup.LOGITS, "", -0.1, 3.0), 0.0),
        (at_least(CheckGroup.LOGITS, "", 0.99, 0.98), 0.5),
        (at_least(CheckGroup.LOGITS, "", 0.96, 0.98), 2.0),
        (at_least(CheckGroup.LOGITS, "", 1.0, 1.0), None),
        (at_most(CheckGroup.LOGITS, "", 0.0, 0.0), None),
        (inconclusive(CheckGroup.LOGITS, "", ""), None),
    ],
)
def test_used_headroom(check: Check, share: float | None) -> None:
    assert formatting.used_headroom(check) == (None if share is None else pytest.approx(share))


@settings(max_examples=200, deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_linear_axis_has_a_few_round_ticks_between_its_ends(low: float, width: float) -> None:
    axis = plots.linear_axis([low, low + width], "")
    ticks = np.array(axis.ticks())
    room = (axis.high - axis.low) * 1e-6
    assert 3 <= len(ticks) <= 8
    assert ticks.min() >= axis.low - room
    assert ticks.max() <= axis.high + room
    assert f"{ticks[1] - ticks[0]:.0e}"[0] in "125"


@settings(max_examples=100, deadline=None)
@given(st.integers(-16, 3), st.integers(0, 18))
def test_logarithmic_axis_has_powers_of_ten_as_ticks(low: int, decades: int) -> None:
    axis = plots.log_axis([10.0**low * 1.5, 10.0 ** (low + decades) * 1.5], "")
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 6
    assert all(axis.low * 0.999 <= tick <= axis.high * 1.001 for tick in ticks)
    assert axis.position(axis.low) == 0
    assert axis.position(axis.high) == 1
