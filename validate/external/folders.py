"""Folders in the layouts of other tools, and the graphs in them that are the towers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from ...runtime.artifact.contract import Precision, Role
from ...runtime.errors import ArtifactError, InputError
from .graphs import ExternalGraph, read_graph
from .tower_map import TowerFile, TowerMap, ambiguous

_TOWERS: Final = (Role.VISION, Role.TEXT)
_READS: Final = {Role.VISION: "images", Role.TEXT: "texts"}
_ALL: Final = frozenset(Precision)
_INT8: Final = frozenset({Precision.INT8, Precision.INT8_STATIC, Precision.INT8_WEIGHTS})
# Precisions that a file with a suffix may have, so that not every file must be read; its content decides. From
# transformers.js (`DEFAULT_DTYPE_SUFFIX_MAPPING` in src/utils/dtypes.js), Optimum and siglip-onnx.
_SUFFIXES: Final = {
    "fp16": frozenset({Precision.FP16}),
    "bf16": frozenset({Precision.BF16}),
    "quantized": _INT8,
    "int8": _INT8,
    "uint8": _INT8,
    "int8_static": _INT8,
    "int8_weights": _INT8,
    "q4": frozenset({Precision.INT4}),
    "q4f16": frozenset({Precision.INT4}),
    "bnb4": frozenset({Precision.INT4}),
}
_SUFFIX: Final = re.compile(rf"_({'|'.join(sorted(_SUFFIXES, key=len, reverse=True))})$")


@dataclass(frozen=True)
class FolderKind:
    """A layout of external models.

    Attributes:
        name: Name of the tool.
        graphs: Patterns of its graphs; each must match a file.
        texts: Folder of the tokenizer's files.
        others: Further files that the layout has.
    """

    name: str
    graphs: tuple[str, ...]
    texts: str = "."
    others: tuple[str, ...] = ()

    def fits(self, folder: Path) -> bool:
        """Whether a folder has this layout."""
        return all(any(folder.glob(pattern)) for pattern in (*self.graphs, *self.others))


# Immich: machine-learning/immich_ml/models/clip; transformers.js: scripts/convert.py; Optimum: `main_export`.
_OPTIMUM: Final = FolderKind("optimum", ("*.onnx",), others=("config.json",))
_BARE: Final = FolderKind("bare", ("*.onnx",))
_KINDS: Final = (
    FolderKind("immich", ("visual/*.onnx", "textual/*.onnx"), "textual"),
    FolderKind("transformers.js", ("onnx/*.onnx",)),
    _OPTIMUM,
    _BARE,
)


@dataclass(frozen=True)
class ExternalFolder:
    """A folder without a contract.

    Attributes:
        folder: The folder.
        kind: Its layout.
        files: The graphs, relative to the folder.
    """

    folder: Path
    kind: FolderKind
    files: tuple[str, ...]


@dataclass(frozen=True)
class ChosenGraphs:
    """The graphs of one precision.

    Attributes:
        precision: The precision.
        towers: A graph for each tower; both may be the same.
        joint: The graph with logits; None if there is none.
        notes: Decisions, a sentence each.
    """

    precision: Precision
    towers: dict[Role, ExternalGraph]
    joint: ExternalGraph | None
    notes: tuple[str, ...] = ()


def detect_folder(path: Path) -> ExternalFolder:
    """Find the graphs of a folder, or take a single file.

    Raises:
        ArtifactError: There is no folder, or no graph in it.
    """
    if path.is_file():
        return ExternalFolder(path.parent, _OPTIMUM if _OPTIMUM.fits(path.parent) else _BARE, (path.name,))
    if not path.is_dir():
        raise ArtifactError(f"There is no folder {path}.", "Name an artifact, or a folder of ONNX files.")
    for kind in _KINDS:
        if kind.fits(path):
            files = sorted(file for pattern in kind.graphs for file in path.glob(pattern))
            return ExternalFolder(path, kind, tuple(file.relative_to(path).as_posix() for file in files))
    raise ArtifactError(
        f"{path} is neither an artifact nor an ONNX folder in the layout of Optimum, transformers.js or Immich.",
        "Name such a folder, or the files of its towers in a tower map (--tower-map).",
    )


def mapped_folder(path: Path) -> ExternalFolder:
    """The folder of a tower map's files, in any layout: a folder, or that of a file.

    Raises:
        ArtifactError: There is no such folder.
    """
    folder = path.parent if path.is_file() else path
    if not folder.is_dir():
        raise ArtifactError(f"There is no folder {folder}.", "Name the folder of the tower map's files.")
    return ExternalFolder(folder, _BARE, ())


def choose_graphs(place: ExternalFolder, requested: Precision | None) -> ChosenGraphs:
    """The graphs of a precision: for each tower its own graph, else the joint one, else those of fp32.

    Args:
        place: The folder.
        requested: The precision; None takes the only one.

    Raises:
        ArtifactError: There is no such precision, a tower is missing, or there are several candidates.
    """
    graphs = [read_graph(place.folder, file) for file in place.files if _may_have(file, requested)]
    precision = requested or _only(place, graphs)
    if not _of(graphs, precision):
        raise ArtifactError(
            f"{place.folder} has no {precision} graph; it has {_listed(graphs)}.",
            "Choose another precision with --precision, or name a file in a tower map (--tower-map).",
        )
    pools = {role: _pool(graphs, role, precision) for role in _TOWERS}
    for role, pool in pools.items():
        if not pool:
            raise ArtifactError(
                f"No graph in {place.folder} reads {_READS[role]}; it has {_listed(graphs)}.",
                "Name a folder with both towers.",
            )
    joints = [graph for graph in _of(graphs, precision) if graph.role is Role.JOINT and graph.complete]
    for pool in (*pools.values(), joints):
        if len(pool) > 1:
            names = " and ".join(graph.graph.path for graph in pool)
            raise ambiguous(f"In {place.folder}, {names} are the same graph at {precision}.", *_guesses(pools))
    towers = {role: pool[0] for role, pool in pools.items()}
    return ChosenGraphs(precision, towers, joints[0] if joints else None, tuple(_notes(graphs, towers, precision)))


def mapped_graphs(folder: Path, tower_map: TowerMap, requested: Precision | None) -> ChosenGraphs:
    """The graphs of a tower map.

    Args:
        folder: Folder of the files.
        tower_map: The tower map.
        requested: The precision; None takes that of the tower map or its graphs.

    Raises:
        ArtifactError: A graph cannot be read.
        InputError: The precision is not the requested one, or is ambiguous.
    """
    towers = {role: read_graph(folder, tower.file) for role, tower in tower_map.towers.items()}
    precision = tower_map.precision or _common_precision(towers)
    if requested not in (None, precision):
        raise InputError(
            f"The graphs of the tower map are {precision}, requested was {requested}.", f"Add --precision {precision}."
        )
    vision, text = towers[Role.VISION], towers[Role.TEXT]
    joint = vision if vision.graph.path == text.graph.path and vision.complete else None
    return ChosenGraphs(precision, towers, joint, tuple(_notes((), towers, precision)))


def folder_precisions(place: ExternalFolder) -> tuple[Precision, ...]:
    """Every precision of a folder's graphs, from the largest to the smallest."""
    by_suffix = {file: _suffix_precisions(file) for file in place.files}
    ambiguous_files = [file for file, precisions in by_suffix.items() if len(precisions) > 1]
    known = {precision for precisions in by_suffix.values() if len(precisions) == 1 for precision in precisions}
    known |= {graph.precision for graph in (read_graph(place.folder, file) for file in ambiguous_files) if graph.role}
    return tuple(precision for precision in Precision if precision in known)


def _suffix_precisions(file: str) -> frozenset[Precision]:
    suffix = _SUFFIX.search(PurePosixPath(file).stem)
    return _SUFFIXES[suffix[1]] if suffix else _ALL


def _may_have(file: str, requested: Precision | None) -> bool:
    """Whether a file may have a graph of a precision, or an fp32 tower to go with it."""
    return requested is None or bool(_suffix_precisions(file) & {requested, Precision.FP32})


def _of(graphs: Sequence[ExternalGraph], precision: Precision) -> list[ExternalGraph]:
    return [graph for graph in graphs if graph.precision == precision and graph.role]


def _pool(graphs: Sequence[ExternalGraph], role: Role, precision: Precision) -> list[ExternalGraph]:
    for candidate in dict.fromkeys((precision, Precision.FP32)):
        for kind in (role, Role.JOINT):
            if pool := [graph for graph in _of(graphs, candidate) if graph.role is kind]:
                return pool
    return []


def _only(place: ExternalFolder, graphs: Sequence[ExternalGraph]) -> Precision:
    precisions = list(dict.fromkeys(graph.precision for graph in graphs if graph.role))
    if len(precisions) == 1:
        return precisions[0]
    raise ArtifactError(f"{place.folder} has {_listed(graphs)}.", "Choose a precision with --precision.")


def _common_precision(towers: dict[Role, ExternalGraph]) -> Precision:
    """The precision of two graphs, one of which may be fp32."""
    below = {graph.precision for graph in towers.values()} - {Precision.FP32}
    if len(below) <= 1:
        return below.pop() if below else Precision.FP32
    precisions = " and ".join(f"{graph.graph.path} is {graph.precision}" for graph in towers.values())
    raise InputError(f"{precisions}, so their limits are ambiguous.", 'Add a line precision = "…" to the tower map.')


def _listed(graphs: Sequence[ExternalGraph]) -> str:
    roles = {None: "reads neither images nor texts", Role.JOINT: "both towers"}
    return ", ".join(f"{g.graph.path} ({roles.get(g.role, g.role)}, {g.precision})" for g in graphs) or "none"


def _guesses(pools: dict[Role, list[ExternalGraph]]) -> Iterator[TowerFile]:
    for pool in pools.values():
        yield TowerFile(pool[0].graph.path)


def _notes(graphs: Sequence[ExternalGraph], towers: dict[Role, ExternalGraph], precision: Precision) -> Iterator[str]:
    for role, graph in towers.items():
        if graph.precision != precision:
            yield f"{role}: {graph.graph.path} is {graph.precision}; with the other tower it counts as {precision}."
    if len({graph.graph.path for graph in towers.values()}) == 1:
        yield f"{towers[Role.VISION].graph.path} has both towers: while one runs, the other gets one blank row."
    for graph in graphs:
        if graph.role is None:
            yield f"{graph.graph.path} reads neither images nor texts and is ignored."
