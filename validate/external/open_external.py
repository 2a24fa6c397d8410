"""Open an external model: files of another tool, as an artifact in memory. Nothing is written.

    external = open_external(Path("Xenova/siglip-base-patch16-224"), Checkpoint.open("google/siglip-base-patch16-224"))
    model = Siglip(external.artifact, external.precision)

The checkpoint supplies what the files do not say: rules for ids and pixels, logit scale and bias.
docs/external-models.md lists the supported layouts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ...runtime.artifact.artifact import Artifact
from ...runtime.artifact.contract import (
    Contract,
    EmbeddingSpec,
    FileRecord,
    Graph,
    IOBinding,
    LogitSpec,
    Precision,
    Role,
    Variant,
)
from ...runtime.errors import ArtifactError
from ...runtime.files import sha256
from .bindings import InputForm, TowerBinder
from .folders import (
    ChosenGraphs,
    ExternalFolder,
    choose_graphs,
    detect_folder,
    folder_precisions,
    mapped_folder,
    mapped_graphs,
)
from .tower_map import TowerFile, TowerMap, read_tower_map

if TYPE_CHECKING:
    from ...exporter.checkpoint.checkpoint import Checkpoint

__all__ = ["ExternalArtifact", "ExternalModel", "TowerMap", "external_precisions", "open_external", "read_tower_map"]

_TOKENIZER: Final = "tokenizer.json"
_PREPROCESSOR: Final = "preprocessor_config.json"
_EMBEDDING: Final = "pooler_output"  # name of the embedding in our own graphs


@dataclass(frozen=True)
class ExternalArtifact(Artifact):
    """An artifact with files in other folders.

    Attributes:
        places: Paths of these files, by the path in the contract.
    """

    places: dict[str, Path] = field(default_factory=dict)

    def path(self, inner: str) -> Path:
        """Path of a file of the artifact."""
        return self.places.get(inner) or super().path(inner)


@dataclass(frozen=True)
class ExternalModel:
    """An external model as an artifact.

    Attributes:
        artifact: The artifact, with one variant. If the folder has no vocabulary, it uses the checkpoint's.
        precision: Precision of the variant.
        kind: The folder's layout: `optimum`, `transformers.js`, `immich`, or `bare` for ONNX files only.
        has_tokenizer: Whether the folder has a tokenizer.json.
        has_preprocessor: Whether the folder has a preprocessor_config.json.
        has_joint: Whether a graph gives logits.
        notes: Assumptions, a sentence each.
    """

    artifact: ExternalArtifact
    precision: Precision
    kind: str
    has_tokenizer: bool
    has_preprocessor: bool
    has_joint: bool
    notes: tuple[str, ...]


def open_external(
    path: Path, source: Checkpoint, precision: Precision | None = None, tower_map: TowerMap | None = None
) -> ExternalModel:
    """Open a folder as an export of a checkpoint.

    Args:
        path: The folder, or a single ONNX file with both towers.
        source: The checkpoint that it was made from.
        precision: Precision of the variant; None takes the only one.
        tower_map: Files of the towers; None detects them.

    Raises:
        ArtifactError: The files are missing or damaged, read weights outside the folder, do not fit the checkpoint, or
            are ambiguous; then the message has a tower map to start from.
        InputError: The tower map's precision is not the requested one.
        CheckpointError: The checkpoint has no usable scale or bias.
    """
    if source.image.max_patches is not None:
        raise ArtifactError(
            f"{source.name} reads images as patches (NaFlex), which no other tool exports.",
            "Export it with `siglip-onnx export`.",
        )
    if tower_map is None:
        place = detect_folder(path)
        chosen = choose_graphs(place, precision)
    else:
        place = mapped_folder(path)
        chosen = mapped_graphs(place.folder, tower_map, precision)
    graphs = _graphs(place.folder, chosen, InputForm.of(source), tower_map)
    own = _own_files(place, source)
    places = {source.tokenizer.file: source.folder / source.tokenizer.file, **own}
    contract = _contract(place, source, chosen, graphs, places)
    return ExternalModel(
        artifact=ExternalArtifact(place.folder, contract, places=places),
        precision=chosen.precision,
        kind=place.kind.name,
        has_tokenizer=_TOKENIZER in own,
        has_preprocessor=_PREPROCESSOR in own,
        has_joint=chosen.joint is not None,
        notes=(*chosen.notes, *_notes(graphs), *_missing(own, source)),
    )


def external_precisions(path: Path, tower_map: TowerMap | None = None) -> tuple[Precision, ...]:
    """Every precision of an external model, from the largest to the smallest; errors as of `open_external`."""
    if tower_map is not None:
        return (mapped_graphs(mapped_folder(path).folder, tower_map, None).precision,)
    return folder_precisions(detect_folder(path))


def _graphs(folder: Path, chosen: ChosenGraphs, form: InputForm, tower_map: TowerMap | None) -> dict[Role, Graph]:
    stated = {role: TowerFile(external.graph.path) for role, external in chosen.towers.items()}
    stated |= tower_map.towers if tower_map else {}
    graphs = {}
    for role, external in chosen.towers.items():
        other = stated[Role.TEXT if role is Role.VISION else Role.VISION]
        binder = TowerBinder(folder, role, external, form, stated[role], other)
        graphs[role] = replace(external.graph, usage=binder.bind())
    return graphs if chosen.joint is None else {**graphs, Role.JOINT: chosen.joint.graph}


def _own_files(place: ExternalFolder, source: Checkpoint) -> dict[str, Path]:
    """The folder's own files about texts and images."""
    texts = (_TOKENIZER, "tokenizer_config.json", source.tokenizer.file)
    known = {
        _PREPROCESSOR: place.folder / _PREPROCESSOR,
        **{name: place.folder / place.kind.texts / name for name in texts},
    }
    return {name: path for name, path in known.items() if path.is_file()}


def _contract(
    place: ExternalFolder, source: Checkpoint, chosen: ChosenGraphs, graphs: dict[Role, Graph], places: dict[str, Path]
) -> Contract:
    towers = [graph for role, graph in graphs.items() if role is not Role.JOINT]
    batches = {graph.batch for graph in towers}
    unit = all(graph.embedding(EmbeddingSpec(_EMBEDDING, 0, normalized=False)).normalized for graph in towers)
    graph_files = (path for graph in graphs.values() for path in (graph.path, *graph.data))
    files = {inner: place.folder / inner for inner in graph_files} | places
    return Contract(
        name=place.folder.resolve().name,
        tokenizer=source.tokenizer,
        image=source.image,
        logits=LogitSpec(source.logit_scale, source.logit_bias),
        embedding=EmbeddingSpec(_EMBEDDING, source.config.text_config.embedding_size, unit),
        files={inner: _record(path) for inner, path in files.items()},
        variants=(Variant(chosen.precision, graphs, provenance={}),),
        batch=batches.pop() if len(batches) == 1 else None,
    )


def _record(path: Path) -> FileRecord:
    try:
        return FileRecord(sha256(path), path.stat().st_size)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}).", "Make it readable.") from error


def _notes(graphs: dict[Role, Graph]) -> Iterator[str]:
    for role, graph in graphs.items():
        if isinstance(graph.binding, IOBinding):
            length = "scaled to length 1" if graph.binding.normalized else "not scaled"
            takes = f"{graph.binding.input_name} ({graph.row_input.dtype})"
            yield f"{role}: {graph.path}, from {takes} to {graph.binding.embedding}, which is {length}."


def _missing(own: dict[str, Path], source: Checkpoint) -> Iterator[str]:
    vocabulary = source.tokenizer.file
    if _TOKENIZER not in own:
        whose = "its own" if vocabulary in own else "the checkpoint's"
        yield f"There is no {_TOKENIZER}: ids follow the checkpoint's rules, with {whose} {vocabulary}."
    if _PREPROCESSOR not in own:
        yield f"There is no {_PREPROCESSOR}: images are prepared by the checkpoint's rules."
