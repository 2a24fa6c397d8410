"""Checkpoint to artifact: both towers, the joint graph, tokenizer files and the contract, all or nothing."""

from __future__ import annotations

import errno
import importlib.metadata
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir
import torch

from ..runtime.artifact import Artifact, record_files, write_contract
from ..runtime.contract import (
    Contract,
    EmbeddingSpec,
    Graph,
    LogitSpec,
    Precision,
    Role,
    Variant,
)
from ..runtime.errors import ExportError
from ..runtime.files import new_folder
from .checkpoint import Checkpoint
from .fast_tokenizer import fast_tokenizer
from .interface import base_name, data_path, describe, graph_path
from .joint import write_joint
from .towers import Source, TextTower, VisionTower, text_sources, vision_sources
from .trace import attach, trace

Progress = Callable[[str], None]

_TOOLS: Final = ("siglip-onnx", "torch", "onnx", "onnx-ir", "onnxscript")
_ROOM: Final = 1.05  # graphs and tokenizer files beside the weights


@dataclass(frozen=True)
class _Tower:
    """What differs between the two towers when they are exported."""

    input_name: str
    example: tuple[int, ...]
    dtype: torch.dtype
    build: Callable[[], torch.nn.Module]
    sources: dict[str, Source]


def export(
    checkpoint: str | Path, target: str | Path, *, overwrite: bool = False, progress: Progress = print
) -> Artifact:
    """Export a checkpoint to an fp32 artifact.

    The artifact is built beside its place and renamed into it, so `target` never holds half of one.

    Args:
        checkpoint: A folder, or the id of a model on the Hugging Face hub.
        target: The artifact's folder.
        overwrite: Replace `target` if it is an artifact already.
        progress: Told what is being done, in a few words, before each step.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        ExportError: The artifact cannot be made or written.
    """
    progress("Reading the checkpoint")
    source, folder = Checkpoint.open(checkpoint), Path(target).resolve()
    with _writing(folder):
        _check_target(folder, overwrite, source)
        with new_folder(folder, replace=overwrite) as partial:
            graphs = _write_graphs(source, partial, progress)
            progress("Writing tokenizer and configuration")
            _write_files(source, partial)
            progress("Hashing")
            write_contract(partial, _contract(source, partial, graphs))
            Artifact.open(partial).verify(graph.path for graph in graphs.values())
    return Artifact.open(folder)


def _check_target(folder: Path, overwrite: bool, source: Checkpoint) -> None:
    if folder == source.folder.resolve():
        raise ExportError(f"The artifact would replace its own checkpoint, {folder}.", "Name another folder.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        if not overwrite:
            raise ExportError(f"{folder} exists already.", "Name another folder, or replace it with --overwrite.")
        Artifact.open(folder)  # what is not an artifact is never replaced
    room = next(parent for parent in (folder, *folder.parents) if parent.exists())
    free, needed = shutil.disk_usage(room).free, int(source.weights.nbytes * _ROOM)
    if free < needed:
        raise ExportError(
            f"The artifact needs {needed / 1e9:.2f} GB, but the disk of {folder} has only {free / 1e9:.2f} GB left.",
            "Make room, or name a folder on another disk.",
        )


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        raise ExportError(
            f"The artifact cannot be written to {folder} ({error.strerror or error}); nothing was left behind.",
            "Make room on that disk, or name a folder on another." if full else "Name a folder that can be written.",
        ) from error


def _towers(source: Checkpoint) -> dict[Role, _Tower]:
    vision, text, length = source.config.vision_config, source.config.text_config, source.tokenizer.length
    size = vision.image_size
    return {
        Role.VISION: _Tower(
            "pixel_values",
            (2, 3, size, size),
            torch.float32,
            lambda: VisionTower(vision),
            vision_sources(vision),
        ),
        Role.TEXT: _Tower(
            "input_ids", (2, length), torch.int64, lambda: TextTower(text, length), text_sources(text, length)
        ),
    }


def _write_graphs(source: Checkpoint, folder: Path, progress: Progress) -> dict[Role, Graph]:
    (folder / "onnx").mkdir()
    graphs: dict[Role, Graph] = {}
    for role, tower in _towers(source).items():
        progress(f"Tracing the {role} tower")
        model = trace(tower.build, torch.Size(tower.example), tower.dtype, tower.input_name)
        progress(f"Writing the {role} tower")
        attach(model, _loader(source, tower.sources))
        path = graph_path(role)
        ir.save(model, folder / path, external_data=base_name(data_path(path)))
        graphs[role] = describe(model, path, (data_path(path),))
    progress("Writing the joint graph")
    logits = LogitSpec(source.logit_scale, source.logit_bias)
    path, towers = graph_path(Role.JOINT), (folder / graphs[role].path for role in (Role.VISION, Role.TEXT))
    joint = write_joint(folder / path, logits, *towers)
    data = tuple(data_path(graph_path(role)) for role in (Role.TEXT, Role.VISION))
    return {**graphs, Role.JOINT: describe(joint, path, data)}


def _loader(source: Checkpoint, sources: dict[str, Source]) -> Callable[[str], torch.Tensor]:
    def load(name: str) -> torch.Tensor:
        made_of = sources[name]
        return made_of.make(*(source.weights.load(tensor) for tensor in made_of.names))

    return load


def _write_files(source: Checkpoint, folder: Path) -> None:
    """Tokenizer and configuration, in the form that transformers.js and Optimum read."""
    for name in ("config.json", "spiece.model", "special_tokens_map.json"):
        if (source.folder / name).exists():
            shutil.copyfile(source.folder / name, folder / name)
    (folder / "tokenizer.json").write_bytes(fast_tokenizer(source.folder / "spiece.model", source.tokenizer))
    pieces = {number: piece for piece, number in source.tokenizer.special_pieces.items()}
    known = {
        "tokenizer_class": "SiglipTokenizer",
        "model_max_length": source.tokenizer.length,
        "pad_token": pieces[source.tokenizer.pad_id],
        "eos_token": pieces[source.tokenizer.eos_id],
        "unk_token": source.tokenizer.unk_piece,
        "do_lower_case": source.tokenizer.lower_case,
    }
    _rewrite(source, folder, "tokenizer_config.json", known)
    _rewrite(source, folder, "preprocessor_config.json", {"image_processor_type": "SiglipImageProcessor"})


def _rewrite(source: Checkpoint, folder: Path, name: str, known: dict[str, Any]) -> None:
    """A checkpoint's JSON file with the entries that consumers need, even where the original leaves them out."""
    original = json.loads((source.folder / name).read_bytes())
    (folder / name).write_text(json.dumps({**original, **known}, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _contract(source: Checkpoint, folder: Path, graphs: dict[Role, Graph]) -> Contract:
    made_with = {tool: importlib.metadata.version(tool) for tool in _TOOLS}
    return Contract(
        name=source.name,
        tokenizer=source.tokenizer,
        image=source.image,
        logits=LogitSpec(source.logit_scale, source.logit_bias),
        embedding=EmbeddingSpec("pooler_output", source.config.text_config.embedding_size, normalized=False),
        files=record_files(folder),
        variants=(Variant(Precision.FP32, graphs, made_with),),
    )
