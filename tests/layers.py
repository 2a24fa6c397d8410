"""The import graph of the product: its layers, floors and circles.

    python -m tests.layers          # a table of every package
    python -m tests.layers --edges  # and every import between rooms

What is counted:

- A *module* is a Python file of runtime/, exporter/, validate/, quantize/ or siglip_onnx/. The `__init__` of a package
  counts only where it defines a function or a class of its own; a name that an `__init__` re-exports is resolved to the
  module that defines it, so that a re-export makes no circle.
- An *import* is an edge from the importing module to the module that defines the imported name. It has one of three
  kinds: at the top of a module, inside a function, or under `if TYPE_CHECKING`.
- *Floors* are the number of modules (or rooms) on the longest chain of imports inside a package. Imports at the top and
  inside functions count, imports for type checking do not. A circle counts as many floors as it has members.
- A *circle* is a strongly connected component with more than one member; imports of every kind count.
- A *room* is a folder directly below a package; a module that lies directly in a package is a room of one module.
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
PRODUCT = "siglip_onnx"
FOLDERS = ("runtime", "exporter", "validate", "quantize")
PACKAGES = (*FOLDERS, "cli")
ALL_FOLDERS = (*FOLDERS, PRODUCT, "tests", "benchmarks", "examples")

# Low to high: a package imports nothing from a package to its right.
PACKAGE_LAYERS = (("runtime",), ("exporter",), ("validate",), ("quantize",), ("cli", "__main__"))

# Low to high, inside validate: a room imports nothing from a row below its own.
VALIDATE_LAYERS = (
    ("environment", "report", "stats", "limits", "data", "external"),
    ("reference",),
    ("checks",),
    ("request",),
    ("validate_variant", "open_model", "open_reference", "collect_plot_data", "store_verdict"),
    ("matrix", "explain"),
)


class ImportKind(StrEnum):
    """Where an import stands."""

    TOP = "top"
    FUNCTION = "function"
    TYPING = "typing"


@dataclass(frozen=True, order=True)
class Import:
    """An edge of the import graph; both ends are module names without `siglip_onnx.`."""

    source: str
    target: str
    kind: ImportKind
    line: int


Graph = Mapping[str, set[str]]


def product_modules(root: Path = ROOT) -> dict[str, Path]:
    """Every module of the product by its name without `siglip_onnx.`; packages end in `.__init__`."""
    found = {}
    for folder in (*FOLDERS, PRODUCT):
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join(parts[1:] if folder == PRODUCT else parts)] = path
    return found


class ImportGraph:
    """Imports between the modules of one tree, with re-exports resolved."""

    def __init__(self, modules: Mapping[str, Path], product: str = PRODUCT) -> None:
        self.modules, self.product = dict(modules), product
        self.trees = {name: ast.parse(path.read_text()) for name, path in modules.items()}
        self.imports = sorted({edge for name in self.modules for edge in self._imports_of(name)})

    def edges(self, *kinds: ImportKind) -> dict[str, set[str]]:
        """A graph of the given kinds of imports; without any, of all kinds."""
        graph: dict[str, set[str]] = {name: set() for name in self.modules if self._counts(name)}
        for edge in self.imports:
            if (not kinds or edge.kind in kinds) and edge.source in graph and edge.target in graph:
                graph[edge.source].add(edge.target)
        return graph

    def _counts(self, name: str) -> bool:
        """Whether a module is a node: every file, but an `__init__` only if it defines something of its own."""
        if not name.endswith("__init__"):
            return True
        own = (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef)
        return any(isinstance(node, own) and not node.name.startswith("__") for node in self.trees[name].body)

    def _imports_of(self, name: str) -> Iterator[Import]:
        for node, kind in _import_nodes(self.trees[name]):
            for target in self._targets(name, node):
                if target != name:
                    yield Import(name, target, kind, node.lineno)

    def _targets(self, name: str, node: ast.Import | ast.ImportFrom) -> Iterator[str]:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == self.product:
                    yield from self._module(alias.name.removeprefix(self.product).lstrip("."))
            return
        base = self._base(name, node)
        if base is not None:
            for alias in node.names:
                yield from self._definition(base, alias.name)

    def _base(self, name: str, node: ast.ImportFrom) -> str | None:
        """The dotted module after `from`, without the product's name; None for other libraries."""
        if not node.level:
            first, _, rest = (node.module or "").partition(".")
            return rest if first == self.product else None
        parts = name.split(".")
        above = parts[: len(parts) - node.level]
        return ".".join([*above, *([node.module] if node.module else [])])

    def _module(self, dotted: str) -> Iterator[str]:
        package = f"{dotted}.__init__".lstrip(".")
        yield from (known for known in (dotted, package) if known in self.modules)

    def _definition(self, base: str, name: str, seen: frozenset[str] = frozenset()) -> Iterator[str]:
        """The module that a name comes from: a submodule, where a package re-exports it from, or the module itself."""
        submodule = list(self._module(f"{base}.{name}".lstrip(".")))
        package = f"{base}.__init__".lstrip(".")
        if submodule:
            yield from submodule
        elif package in self.modules and package not in seen:
            yield from self._reexported(package, name, seen) or [package]
        else:
            yield from self._module(base)

    def _reexported(self, package: str, name: str, seen: frozenset[str]) -> list[str]:
        for node, _ in _import_nodes(self.trees[package]):
            if isinstance(node, ast.ImportFrom) and (base := self._base(package, node)) is not None:
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return list(self._definition(base, alias.name, seen | {package}))
        return []


def _import_nodes(tree: ast.Module) -> Iterator[tuple[ast.Import | ast.ImportFrom, ImportKind]]:
    """Every import statement of a module and where it stands."""
    pending: list[tuple[ast.AST, ImportKind]] = [(node, ImportKind.TOP) for node in tree.body]
    while pending:
        node, kind = pending.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node, kind
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            pending += [(child, ImportKind.TYPING) for child in node.body]
            pending += [(child, kind) for child in node.orelse]
        else:
            inside = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            child_kind = ImportKind.FUNCTION if inside and kind is ImportKind.TOP else kind
            pending += [(child, child_kind) for child in ast.iter_child_nodes(node)]


def within(graph: Graph, package: str) -> dict[str, set[str]]:
    """The part of a graph that lies in one package."""
    prefix = package + "."
    return {
        name: {target for target in targets if target.startswith(prefix)}
        for name, targets in graph.items()
        if name.startswith(prefix)
    }


def grouped(graph: Graph, group: Callable[[str], str]) -> dict[str, set[str]]:
    """A graph of groups of modules; imports inside a group are left out."""
    groups: dict[str, set[str]] = defaultdict(set)
    for name, targets in graph.items():
        groups[group(name)] |= {group(target) for target in targets}
    return {name: targets - {name} for name, targets in groups.items()}


def room(name: str) -> str:
    """The room of a module: `validate.checks.numeric` is in `validate.checks`, `validate.open_model` is its own."""
    return ".".join(name.split(".")[:2])


def components(graph: Graph) -> list[tuple[str, ...]]:
    """Strongly connected components, those that others import first (Tarjan's algorithm)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[tuple[str, ...]] = []

    def visit(name: str) -> None:
        index[name] = low[name] = len(index)
        stack.append(name)
        for target in sorted(graph[name]):
            if target not in index:
                visit(target)
                low[name] = min(low[name], low[target])
            elif target in stack:
                low[name] = min(low[name], index[target])
        if low[name] == index[name]:
            start = stack.index(name)
            found.append(tuple(sorted(stack[start:])))
            del stack[start:]

    for name in sorted(graph):
        if name not in index:
            visit(name)
    return found


def circles(graph: Graph) -> list[tuple[str, ...]]:
    """Modules that import each other, directly or through others."""
    return [members for members in components(graph) if len(members) > 1]


def longest_chain(graph: Graph) -> tuple[str, ...]:
    """The longest chain of imports, from the importing end; its length is the number of floors."""
    chains: dict[str, tuple[str, ...]] = {}
    for members in components(graph):
        below = {target for name in members for target in graph[name]} - set(members)
        deepest = max((chains[target] for target in sorted(below)), key=len, default=())
        chains |= dict.fromkeys(members, (*members, *deepest))
    return max(chains.values(), key=len, default=())


def layer_violations(graph: ImportGraph) -> list[str]:
    """Imports from a lower layer into a higher one, and rooms of validate that no layer names."""
    rank = layer_rank()
    problems = []
    for edge in graph.imports:
        source, target = (rank.get(room(end), rank.get(end.split(".")[0])) for end in (edge.source, edge.target))
        if source is not None and target is not None and target > source:
            problems.append(f"{edge.source}:{edge.line} imports {edge.target}, which is a layer above it")
    known = {name for layer in VALIDATE_LAYERS for name in layer}
    rooms = {name.split(".")[1] for name in graph.modules if name.startswith("validate.")} - {"__init__"}
    return problems + [f"validate/{name} is in no row of VALIDATE_LAYERS" for name in sorted(rooms - known)]


@cache
def layer_rank() -> dict[str, tuple[int, int]]:
    """The layer of a package, or of a room of validate: (package, row inside validate), higher sorts later."""
    ranks = {name: (place, 0) for place, layer in enumerate(PACKAGE_LAYERS) for name in layer}
    validate = ranks["validate"][0]
    for place, layer in enumerate(VALIDATE_LAYERS):
        ranks |= {f"validate.{name}": (validate, place) for name in layer}
    ranks["validate.__init__"] = (validate, len(VALIDATE_LAYERS))
    return ranks


def crowded_rooms(modules: Iterable[str], limit: int) -> dict[str, int]:
    """Folders with more modules than the limit; `__init__` and subfolders do not count."""
    counts: dict[str, int] = defaultdict(int)
    for name in modules:
        folder, _, module = name.rpartition(".")
        counts[folder] += module != "__init__"
    return {folder: count for folder, count in counts.items() if count > limit}


def classes(paths: Iterable[Path]) -> dict[str, list[str]]:
    """Where each class name is defined, private and nested classes included."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    return found


def duplicate_classes() -> dict[str, list[str]]:
    """Class names that the tree defines more than once, tests, benchmarks and examples included."""
    paths = [path for folder in ALL_FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    found = classes(path for path in paths if "node_modules" not in path.parts)
    return {name: places for name, places in found.items() if len(places) > 1}


def report(graph: ImportGraph, *, edges: bool = False) -> str:
    """The table that `python -m tests.layers` prints."""
    lines = [f"{'package':<10}{'modules':>8}{'floors':>8}{'rooms':>8}{'floors of rooms':>17}{'circles':>9}"]
    run, every = graph.edges(ImportKind.TOP, ImportKind.FUNCTION), graph.edges()
    details: list[str] = []
    for package in PACKAGES:
        modules, types = within(run, package), within(every, package)
        rooms, found = grouped(modules, room), circles(types)
        chain, rooms_chain = longest_chain(modules), longest_chain(rooms)
        numbers = (len(modules), len(chain), len(rooms))
        lines.append(f"{package:<10}" + "".join(f"{n:>8}" for n in numbers) + f"{len(rooms_chain):>17}{len(found):>9}")
        details += [f"\n{package}, longest chain of modules:\n  " + " -> ".join(chain)]
        details += [f"{package}, longest chain of rooms:\n  " + " -> ".join(rooms_chain)]
        details += [f"{package}, a circle of modules: " + ", ".join(members) for members in found]
        details += [f"{package}, a circle of rooms: " + ", ".join(c) for c in circles(grouped(types, room))]
        if edges:
            details += [f"  {name} -> {', '.join(sorted(targets))}" for name, targets in sorted(rooms.items())]
    details += ["\nLayers:", *(layer_violations(graph) or ["every layer holds"])]
    details += ["\nClass names defined more than once:"]
    details += [f"{name}: {', '.join(places)}" for name, places in duplicate_classes().items()] or ["none"]
    return "\n".join(lines + details)


def main(arguments: list[str]) -> int:
    print(report(ImportGraph(product_modules()), edges="--edges" in arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
