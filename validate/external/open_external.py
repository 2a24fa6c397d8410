"""Files that other tools wrote, adopted for the time of a verdict: an artifact in memory, and nothing is written.

    adopted = adopt(Path("Xenova/siglip-base-patch16-224"), Checkpoint.open("google/siglip-base-patch16-224"))
    model = Siglip(adopted.artifact, adopted.precision)

What the runtime must not guess comes from the checkpoint: ids, pixels, scale and bias. docs/adopt.md says which folders
are understood, and how.
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
from .folders import Chosen, ExternalFolder, choose, found_precisions, look, mapped, named
from .tower_map import Mapping, TowerMap, read_mapping

if TYPE_CHECKING:
    from ...exporter.checkpoint.checkpoint import Checkpoint

__all__ = ["ExternalArtifact", "ExternalModel", "Mapping", "open_external", "precisions", "read_mapping"]

_TOKENIZER: Final = "tokenizer.json"
_PREPROCESSOR: Final = "preprocessor_config.json"
_USUAL: Final = "pooler_output"  # what graphs of ours call the embedding


@dataclass(frozen=True)
class ExternalArtifact(Artifact):
    """An artifact some of whose files lie elsewhere.

    Attributes:
        places: Where these lie, by the paths that the contract lists.
    """

    places: dict[str, Path] = field(default_factory=dict)

    def path(self, inner: str) -> Path:
        """Where a file of the artifact lies."""
        return self.places.get(inner) or super().path(inner)


@dataclass(frozen=True)
class ExternalModel:
    """Files of another tool as an artifact.

    Attributes:
        artifact: With one variant. Where the folder has no vocabulary, that of the checkpoint is listed and read.
        precision: Of that variant.
        kind: Who lays out folders so: `optimum`, `transformers.js`, `immich`, or `bare` for files alone.
        has_tokenizer: Whether the folder has a tokenizer.json of its own.
        has_preprocessor: Whether it has a preprocessor_config.json of its own.
        has_joint: Whether one graph gives logits.
        notes: What was assumed, a sentence each.
    """

    artifact: ExternalArtifact
    precision: Precision
    kind: str
    has_tokenizer: bool
    has_preprocessor: bool
    has_joint: bool
    notes: tuple[str, ...]


def open_external(
    path: Path, source: Checkpoint, precision: Precision | None = None, mapping: Mapping | None = None
) -> ExternalModel:
    """Understand what lies in a folder as an export of a checkpoint.

    Args:
        path: The folder, or a single ONNX file with both towers.
        source: What it was made from.
        precision: Which of its variants; None takes the only one.
        mapping: Which file is which tower; None finds out.

    Raises:
        ArtifactError: The files are missing or damaged, read weights from elsewhere, do not fit the checkpoint, or
            leave open what is meant; then the message has a mapping to write.
        InputError: The mapping's precision is not the one that is asked for.
        CheckpointError: The checkpoint has no scale or bias that can be used.
    """
    if source.image.max_patches is not None:
        raise ArtifactError(
            f"{source.name} reads images as patches (NaFlex), and no other tool's export of that is known.",
            "Export it with `siglip-onnx export`.",
        )
    place = look(path) if mapping is None else named(path)
    chosen = choose(place, precision) if mapping is None else mapped(place.folder, mapping, precision)
    graphs = _graphs(place.folder, chosen, InputForm.of(source), mapping)
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


def precisions(path: Path, mapping: Mapping | None = None) -> tuple[Precision, ...]:
    """Every precision that can be judged, from the largest to the smallest; errors as of `adopt`."""
    if mapping is not None:
        return (mapped(named(path).folder, mapping, None).precision,)
    return found_precisions(look(path))


def _graphs(folder: Path, chosen: Chosen, form: InputForm, mapping: Mapping | None) -> dict[Role, Graph]:
    told = {role: TowerMap(found.graph.path) for role, found in chosen.towers.items()}
    told |= mapping.towers if mapping else {}
    graphs = {}
    for role, found in chosen.towers.items():
        other = told[Role.TEXT if role is Role.VISION else Role.VISION]
        graphs[role] = replace(found.graph, binding=TowerBinder(folder, role, found, form, told[role], other).usage())
    return graphs if chosen.joint is None else {**graphs, Role.JOINT: chosen.joint.graph}


def _own_files(place: ExternalFolder, source: Checkpoint) -> dict[str, Path]:
    """What the folder itself says of texts and images."""
    texts = (_TOKENIZER, "tokenizer_config.json", source.tokenizer.file)
    known = {
        _PREPROCESSOR: place.folder / _PREPROCESSOR,
        **{name: place.folder / place.kind.texts / name for name in texts},
    }
    return {name: path for name, path in known.items() if path.is_file()}


def _contract(
    place: ExternalFolder, source: Checkpoint, chosen: Chosen, graphs: dict[Role, Graph], places: dict[str, Path]
) -> Contract:
    towers = [graph for role, graph in graphs.items() if role is not Role.JOINT]
    batches = {graph.batch for graph in towers}
    unit = all(graph.embedding(EmbeddingSpec(_USUAL, 0, normalized=False)).normalized for graph in towers)
    graph_files = (path for graph in graphs.values() for path in (graph.path, *graph.data))
    files = {inner: place.folder / inner for inner in graph_files} | places
    return Contract(
        name=place.folder.resolve().name,
        tokenizer=source.tokenizer,
        image=source.image,
        logits=LogitSpec(source.logit_scale, source.logit_bias),
        embedding=EmbeddingSpec(_USUAL, source.config.text_config.embedding_size, unit),
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
        yield f"There is no {_TOKENIZER}: ids were made by the checkpoint's rules from {whose} {vocabulary}."
    if _PREPROCESSOR not in own:
        yield f"There is no {_PREPROCESSOR}: images were prepared as the checkpoint wants them."
