"""The table in docs/parity.md is that of the faults that there are."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from siglip_onnx.runtime.artifact.contract import Verdict

from . import EVERY, table
from .fault import Found

ASKED = {"found": {"erf Gelu": {"optimum": "caught", "Polygraphy": "passes"}}, "calls": {"optimum": "so and so."}}


def found() -> dict[str, Found]:
    return {name: Found(fault.due, fault.verdict) for name, fault in EVERY.items()}


def test_every_fault_has_a_row_with_what_must_find_it() -> None:
    rows = {row[0]: row[1:3] for row in table.on_page()}
    assert rows.pop(table.CONTROL)[1] == "nothing"
    assert rows == {fault.name: [str(fault.area), fault.due] for fault in EVERY.values()}


def test_faults_are_of_every_kind() -> None:
    kinds = Counter(fault.area for fault in EVERY.values())
    assert min(kinds.values()) >= 2, kinds
    assert len(EVERY) >= 100


def test_a_fault_that_slips_through_is_told_from_the_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n\n{table.BEGIN}\n{table.END}\n\nAfter\n")
    faults = list(EVERY.values())
    table.write(table.render(table.rows(faults, found(), ASKED), ASKED), page)
    assert table.differences(table.rows(faults, found(), ASKED), True, page) == []
    slipped = {**found(), "erf Gelu": Found("", Verdict.PASS)}
    assert table.differences(table.rows(faults, slipped, ASKED), True, page) == ["erf Gelu"]
    assert "- optimum: so and so." in page.read_text()
    assert page.read_text().startswith("# Before\n")
    assert page.read_text().endswith("\nAfter\n")


def test_without_other_tools_only_our_own_columns_count(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{table.BEGIN}\n{table.END}\n")
    faults = list(EVERY.values())
    table.write(table.render(table.rows(faults, found(), ASKED), ASKED), page)
    alone = table.rows(faults, found(), {})
    assert table.differences(alone, False, page) == []
    assert table.differences(alone, True, page) == ["erf Gelu"]
