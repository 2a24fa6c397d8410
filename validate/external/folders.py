"""Folders as other tools lay them out, and which graphs in them are the towers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from ...runtime.artifact.contract import Precision, Role
from ...runtime.errors import ArtifactError, InputError
from .graphs import ExternalGraph, read_graph
from .tower_map import Mapping, TowerMap, which

_TOWERS: Final = (Role.VISION, Role.TEXT)
_READS: Final = {Role.VISION: "images", Role.TEXT: "texts"}
_ALL: Final = frozenset(Precision)
_INT8: Final = frozenset({Precision.INT8, Precision.INT8_STATIC, Precision.INT8_WEIGHTS})
# What a file of that suffix may hold, so that dozens of gigabytes need not be read to find two towers; what it does
# hold decides. transformers.js (`DEFAULT_DTYPE_SUFFIX_MAPPING` in src/utils/dtypes.js), Optimum and this program.
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
    """A way to lay out a folder.

    Attributes:
        name: Whose way.
        graphs: Patterns of its graphs, each of which finds one at least.
        texts: The folder of the tokenizer's files.
        others: Further files that it is known by.
    """

    name: str
    graphs: tuple[str, ...]
    texts: str = "."
    others: tuple[str, ...] = ()

    def fits(self, folder: Path) -> bool:
        """Whether a folder is laid out so."""
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
    """Files without a contract.

    Attributes:
        folder: Where they lie.
        kind: How.
        files: The graphs, relative to the folder.
    """

    folder: Path
    kind: FolderKind
    files: tuple[str, ...]


@dataclass(frozen=True)
class Chosen:
    """The graphs of one precision.

    Attributes:
        towers: A graph for each tower; it may be the same one.
        joint: The graph that gives logits; None where there is none.
        notes: What was decided, a sentence each.
    """

    precision: Precision
    towers: dict[Role, ExternalGraph]
    joint: ExternalGraph | None
    notes: tuple[str, ...] = ()


def look(path: Path) -> ExternalFolder:
    """Find the graphs of a folder, or take a single file.

    Raises:
        ArtifactError: There are none.
    """
    if path.is_file():
        return ExternalFolder(path.parent, _OPTIMUM if _OPTIMUM.fits(path.parent) else _BARE, (path.name,))
    if not path.is_dir():
        raise ArtifactError(f"There is no folder {path}.", "Name an artifact, or a folder of ONNX files.")
    for kind in _KINDS:
        if kind.fits(path):
            found = sorted(file for pattern in kind.graphs for file in path.glob(pattern))
            return ExternalFolder(path, kind, tuple(file.relative_to(path).as_posix() for file in found))
    raise ArtifactError(
        f"{path} is neither an artifact nor a folder with ONNX files as Optimum, transformers.js or Immich have them.",
        "Name such a folder, or say with --mapping which files in it are the towers.",
    )


def named(path: Path) -> ExternalFolder:
    """Where the files of a mapping lie, in whatever order: a folder, or that of a file.

    Raises:
        ArtifactError: There is no such folder.
    """
    folder = path.parent if path.is_file() else path
    if not folder.is_dir():
        raise ArtifactError(f"There is no folder {folder}.", "Name the folder of the mapping's files.")
    return ExternalFolder(folder, _BARE, ())


def choose(place: ExternalFolder, asked: Precision | None) -> Chosen:
    """The graphs of a precision: for each tower its own graph, else the joint one, else those of fp32.

    Args:
        place: Where to choose.
        asked: Which precision; None takes the only one.

    Raises:
        ArtifactError: There is no such precision, a tower is missing, or several graphs may be meant.
    """
    found = [read_graph(place.folder, file) for file in place.files if _may_hold(file, asked)]
    precision = asked or _only(place, found)
    if not _of(found, precision):
        raise ArtifactError(
            f"{place.folder} has no {precision} graph; it has {_listed(found)}.",
            "Ask for another with --precision, or name a file with --mapping.",
        )
    pools = {role: _pool(found, role, precision) for role in _TOWERS}
    for role, pool in pools.items():
        if not pool:
            raise ArtifactError(
                f"No graph in {place.folder} reads {_READS[role]}; it has {_listed(found)}.",
                "Name a folder with both towers.",
            )
    joints = [graph for graph in _of(found, precision) if graph.role is Role.JOINT and graph.complete]
    for pool in (*pools.values(), joints):
        if len(pool) > 1:
            names = " and ".join(graph.graph.path for graph in pool)
            raise which(f"In {place.folder} {names} do the same at {precision}.", *_guesses(pools))
    towers = {role: pool[0] for role, pool in pools.items()}
    return Chosen(precision, towers, joints[0] if joints else None, tuple(_notes(found, towers, precision)))


def mapped(place: Path, mapping: Mapping, asked: Precision | None) -> Chosen:
    """The graphs that a mapping names.

    Raises:
        ArtifactError: One cannot be read.
        InputError: The precision is not the one that is asked for, or cannot be told.
    """
    towers = {role: read_graph(place, tower.file) for role, tower in mapping.towers.items()}
    precision = mapping.precision or _together(towers)
    if asked not in (None, precision):
        raise InputError(
            f"The graphs of the mapping are {precision}, and {asked} was asked for.", f"Add --precision {precision}."
        )
    vision, text = towers[Role.VISION], towers[Role.TEXT]
    joint = vision if vision.graph.path == text.graph.path and vision.complete else None
    return Chosen(precision, towers, joint, tuple(_notes((), towers, precision)))


def found_precisions(place: ExternalFolder) -> tuple[Precision, ...]:
    """Every precision that a folder has graphs of, from the largest to the smallest."""
    sure = {file: _held(file) for file in place.files}
    unsure = [file for file, held in sure.items() if len(held) > 1]
    known = {precision for held in sure.values() if len(held) == 1 for precision in held}
    known |= {graph.precision for graph in (read_graph(place.folder, file) for file in unsure) if graph.role}
    return tuple(precision for precision in Precision if precision in known)


def _held(file: str) -> frozenset[Precision]:
    suffix = _SUFFIX.search(PurePosixPath(file).stem)
    return _SUFFIXES[suffix[1]] if suffix else _ALL


def _may_hold(file: str, asked: Precision | None) -> bool:
    """Whether it is of use for a precision, or for the fp32 tower beside one."""
    return asked is None or bool(_held(file) & {asked, Precision.FP32})


def _of(found: Sequence[ExternalGraph], precision: Precision) -> list[ExternalGraph]:
    return [graph for graph in found if graph.precision == precision and graph.role]


def _pool(found: Sequence[ExternalGraph], role: Role, precision: Precision) -> list[ExternalGraph]:
    for wanted in dict.fromkeys((precision, Precision.FP32)):
        for kind in (role, Role.JOINT):
            if pool := [graph for graph in _of(found, wanted) if graph.role is kind]:
                return pool
    return []


def _only(place: ExternalFolder, found: Sequence[ExternalGraph]) -> Precision:
    precisions = list(dict.fromkeys(graph.precision for graph in found if graph.role))
    if len(precisions) == 1:
        return precisions[0]
    raise ArtifactError(f"{place.folder} has {_listed(found)}.", "Say which precision with --precision.")


def _together(towers: dict[Role, ExternalGraph]) -> Precision:
    """The precision of two graphs, of which one may have been left at fp32."""
    below = {graph.precision for graph in towers.values()} - {Precision.FP32}
    if len(below) <= 1:
        return below.pop() if below else Precision.FP32
    said = " and ".join(f"{graph.graph.path} is {graph.precision}" for graph in towers.values())
    raise InputError(
        f"{said}, so it is open by which limits they are to be judged.", 'Add a line precision = "…" to the mapping.'
    )


def _listed(found: Sequence[ExternalGraph]) -> str:
    told = {None: "reads neither images nor texts", Role.JOINT: "both towers"}
    return ", ".join(f"{g.graph.path} ({told.get(g.role, g.role)}, {g.precision})" for g in found) or "none of use"


def _guesses(pools: dict[Role, list[ExternalGraph]]) -> Iterator[TowerMap]:
    for pool in pools.values():
        yield TowerMap(pool[0].graph.path)


def _notes(found: Sequence[ExternalGraph], towers: dict[Role, ExternalGraph], precision: Precision) -> Iterator[str]:
    for role, graph in towers.items():
        if graph.precision != precision:
            yield f"{role}: {graph.graph.path} is {graph.precision}, and is judged with the other tower as {precision}."
    if len({graph.graph.path for graph in towers.values()}) == 1:
        yield f"{towers[Role.VISION].graph.path} has both towers: while one runs, the other is given one blank row."
    for graph in found:
        if graph.role is None:
            yield f"{graph.graph.path} reads neither images nor texts and was left out."
