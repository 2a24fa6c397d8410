"""The table in docs/parity.md lists exactly the faults of this package."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from siglip_onnx.runtime.artifact.contract import Verdict

from . import EVERY, table
from .fault import FaultOutcome

ELSEWHERE = {"found": {"erf Gelu": {"optimum": "caught", "Polygraphy": "passes"}}, "calls": {"optimum": "its call."}}


def outcomes() -> dict[str, FaultOutcome]:
    return {name: FaultOutcome(fault.expected, fault.verdict) for name, fault in EVERY.items()}


def test_every_fault_has_a_row_with_its_check_group_or_error() -> None:
    rows = {row[0]: row[1:3] for row in table.on_page()}
    assert rows.pop(table.CONTROL)[1] == "nothing"
    assert rows == {fault.name: [str(fault.area), fault.expected] for fault in EVERY.values()}


def test_every_area_has_faults() -> None:
    areas = Counter(fault.area for fault in EVERY.values())
    assert min(areas.values()) >= 2, areas
    assert len(EVERY) >= 100


def test_a_missed_fault_makes_the_page_out_of_date(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n\n{table.BEGIN}\n{table.END}\n\nAfter\n")
    faults = list(EVERY.values())
    table.write(table.render(table.rows(faults, outcomes(), ELSEWHERE), ELSEWHERE), page)
    assert table.differences(table.rows(faults, outcomes(), ELSEWHERE), True, page) == []
    missed = {**outcomes(), "erf Gelu": FaultOutcome("", Verdict.PASS)}
    assert table.differences(table.rows(faults, missed, ELSEWHERE), True, page) == ["erf Gelu"]
    assert "- optimum: its call." in page.read_text()
    assert page.read_text().startswith("# Before\n")
    assert page.read_text().endswith("\nAfter\n")


def test_without_other_tools_only_own_columns_count(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{table.BEGIN}\n{table.END}\n")
    faults = list(EVERY.values())
    table.write(table.render(table.rows(faults, outcomes(), ELSEWHERE), ELSEWHERE), page)
    own = table.rows(faults, outcomes(), {})
    assert table.differences(own, False, page) == []
    assert table.differences(own, True, page) == ["erf Gelu"]
