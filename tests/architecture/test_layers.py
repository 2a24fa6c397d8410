"""Layers, floors, circles and sizes of the product hold; tests/layers.py says what is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from .. import layers
from ..layers import ImportGraph, ImportKind

MAX_ROOM_FLOORS_OF_VALIDATE = 7
MAX_MODULES_OF_A_ROOM = 14
MAX_LINES = 400
MODULES = layers.product_modules()
RUN_TIME = (ImportKind.TOP, ImportKind.FUNCTION)


@pytest.fixture(scope="module")
def graph() -> ImportGraph:
    return ImportGraph(MODULES)


def test_no_import_circles_between_modules(graph: ImportGraph) -> None:
    assert layers.circles(graph.edges()) == []


def test_no_import_circles_between_rooms(graph: ImportGraph) -> None:
    assert layers.circles(layers.grouped(graph.edges(), layers.room)) == []


def test_a_lower_layer_imports_nothing_from_a_higher_one(graph: ImportGraph) -> None:
    assert layers.layer_violations(graph) == []


def test_rooms_of_validate_are_at_most_seven_floors_high(graph: ImportGraph) -> None:
    rooms = layers.grouped(layers.within(graph.edges(*RUN_TIME), "validate"), layers.room)
    assert len(layers.longest_chain(rooms)) <= MAX_ROOM_FLOORS_OF_VALIDATE, layers.longest_chain(rooms)


def test_a_room_has_at_most_fourteen_modules() -> None:
    assert layers.crowded_rooms(MODULES, MAX_MODULES_OF_A_ROOM) == {}


def test_a_module_has_less_than_four_hundred_lines() -> None:
    lines = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: count for name, count in lines.items() if count >= MAX_LINES} == {}


def test_a_class_name_is_defined_once_in_the_whole_tree() -> None:
    assert layers.duplicate_classes() == {}


TOY = {
    "runtime/__init__.py": "from .deep.low import A\n",
    "runtime/deep/__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .lazy import B\n",
    "runtime/deep/low.py": "class A: ...\n",
    "runtime/deep/lazy.py": "from .. import A\nclass B: ...\n",
    "runtime/top.py": "from .deep import B, low\nimport siglip_onnx.runtime.other as o\n",
    "runtime/other.py": "def f():\n    from . import top\n",
}


@pytest.fixture
def toy(tmp_path: Path) -> ImportGraph:
    """A small tree: re-exports in two packages, and a circle through a function."""
    for name, text in TOY.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return ImportGraph(layers.product_modules(tmp_path))


def test_a_reexport_is_resolved_to_the_module_that_defines_the_name(toy: ImportGraph) -> None:
    graph = toy.edges()
    assert graph["runtime.deep.lazy"] == {"runtime.deep.low"}
    assert graph["runtime.top"] == {"runtime.deep.lazy", "runtime.deep.low", "runtime.other"}
    assert "runtime.__init__" not in graph


def test_an_import_inside_a_function_closes_a_circle(toy: ImportGraph) -> None:
    assert layers.circles(toy.edges()) == [("runtime.other", "runtime.top")]
    assert layers.circles(toy.edges(ImportKind.TOP)) == []


def test_floors_are_the_longest_chain(toy: ImportGraph) -> None:
    assert layers.longest_chain(toy.edges(ImportKind.TOP)) == ("runtime.top", "runtime.deep.lazy", "runtime.deep.low")
    assert len(layers.longest_chain(toy.edges())) == 4  # both modules of the circle count
