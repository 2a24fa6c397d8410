"""Export of a checkpoint to an artifact: both towers, the joint graph, tokenizer files and the contract."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import onnx_ir as ir
import torch

from ..runtime.artifact.artifact import Artifact, record_files, write_contract
from ..runtime.artifact.contract import Contract, EmbeddingSpec, Graph, LogitSpec, Precision, Role, TensorSpec, Variant
from ..runtime.errors import ExportError
from ..runtime.progress import Progress
from .checkpoint.checkpoint import Checkpoint
from .checkpoint.config import config_json
from .checkpoint.dialects import Sources
from .checkpoint.image_spec import FILE as PROCESSOR_FILE
from .checkpoint.image_spec import processor_config
from .checkpoint.tokenizer_spec import FILE as TOKENIZER_FILE
from .checkpoint.tokenizer_spec import tokenizer_config
from .graph.joint import write_joint
from .graph.naming import BATCH, OUTPUTS, POOLED, base_name, data_path, describe, graph_path
from .graph.preprocess import join_preprocess
from .options import ExportOptions, GraphInput
from .output_folder import new_artifact
from .tokenizer_json import fast_tokenizer, gemma_tokenizer
from .towers.modules import NaflexTower, TextTower, VisionTower
from .towers.trace import attach, trace
from .towers.weight_map import text_sources, vision_sources

_TOOLS: Final = ("siglip-onnx", "torch", "onnx", "onnx-ir", "onnxscript")


@dataclass(frozen=True)
class _TowerPlan:
    """Inputs, module and weights of a tower.

    Attributes:
        inputs: The graph's inputs.
        build: Makes the module.
        sources: Source of each parameter, by its name.
    """

    inputs: tuple[TensorSpec, ...]
    build: Callable[[], torch.nn.Module]
    sources: Sources


def export(
    checkpoint: str | Path,
    target: str | Path,
    options: ExportOptions | None = None,
    *,
    overwrite: bool = False,
    progress: Progress = print,
) -> Artifact:
    """Export a checkpoint to an fp32 artifact.

    The artifact is written to a temporary folder and renamed, so `target` is never incomplete.

    Args:
        checkpoint: A folder, or the id of a model on the Hugging Face hub.
        target: Folder of the artifact.
        options: Options of the graphs; None for the defaults.
        overwrite: Replace `target` if it is an artifact.
        progress: Called with a short description before each step.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        ExportError: The artifact cannot be made or written.
        ArtifactError: `target` is to be overwritten and is not an artifact.
    """
    progress("Reading the checkpoint")
    options, folder = options or ExportOptions(), Path(target).resolve()
    source = Checkpoint.open(checkpoint, options.dialect, options.image_size)
    _check_options(source, options)
    with new_artifact(folder, overwrite=overwrite, source=source.folder, needed=source.weights.nbytes) as partial:
        graphs = _write_graphs(source, options, partial, progress)
        progress("Writing tokenizer and configuration")
        write_files(source, partial)
        progress("Hashing")
        write_contract(partial, _contract(source, options, partial, graphs))
        Artifact.open(partial).verify(graph.path for graph in graphs.values())
    return Artifact.open(folder)


def _check_options(source: Checkpoint, options: ExportOptions) -> None:
    if source.config.vision_config.naflex and options.image_input is not GraphInput.PIXELS:
        raise ExportError(
            f"image_input must be 'pixels' for a NaFlex model, got '{options.image_input}'.", "Omit image_input."
        )


def _towers(source: Checkpoint, options: ExportOptions) -> dict[Role, _TowerPlan]:
    vision, text, length = source.config.vision_config, source.config.text_config, source.tokenizer.length
    batch = BATCH if options.batch is None else options.batch
    ids = TensorSpec("input_ids", "int64", (batch, length))
    return {
        Role.VISION: _TowerPlan(
            _vision_inputs(source, options, 1 if options.image_input is GraphInput.IMAGE else batch),
            lambda: _vision_tower(source, options),
            vision_sources(vision, source.image, options),
        ),
        Role.TEXT: _TowerPlan((ids,), lambda: TextTower(text, length, options), text_sources(text, length, options)),
    }


def _vision_tower(source: Checkpoint, options: ExportOptions) -> torch.nn.Module:
    config, patches = source.config.vision_config, source.image.max_patches
    return VisionTower(config, options) if patches is None else NaflexTower(config, options, patches)


def _vision_inputs(source: Checkpoint, options: ExportOptions, batch: int | str) -> tuple[TensorSpec, ...]:
    image, size = source.image, source.image.height
    if image.max_patches is not None and image.patch_size is not None:
        return (
            TensorSpec("pixel_values", "float32", (batch, image.max_patches, 3 * image.patch_size**2)),
            TensorSpec("pixel_attention_mask", "int64", (batch, image.max_patches)),
            TensorSpec("spatial_shapes", "int64", (batch, 2)),
        )
    if options.image_input is GraphInput.BYTES:
        return (TensorSpec("pixel_values", "uint8", (batch, size, size, 3)),)
    return (TensorSpec("pixel_values", "float32", (batch, 3, size, size)),)


def _write_graphs(source: Checkpoint, options: ExportOptions, folder: Path, progress: Progress) -> dict[Role, Graph]:
    (folder / "onnx").mkdir()
    graphs: dict[Role, Graph] = {}
    outputs = (POOLED,) if options.pooled_only else OUTPUTS
    for role, tower in _towers(source, options).items():
        progress(f"Tracing the {role} tower")
        model = trace(tower.build, tower.inputs, outputs)
        progress(f"Writing the {role} tower")
        attach(model, _loader(source, tower.sources))
        if role is Role.VISION and options.image_input is GraphInput.IMAGE:
            model = join_preprocess(model, source.image)
        path = graph_path(role)
        ir.save(model, folder / path, external_data=base_name(data_path(path)))
        graphs[role] = describe(model, path, (data_path(path),))
    progress("Writing the joint graph")
    return {**graphs, Role.JOINT: _write_joint(source, folder, graphs)}


def _write_joint(source: Checkpoint, folder: Path, graphs: dict[Role, Graph]) -> Graph:
    logits = LogitSpec(source.logit_scale, source.logit_bias)
    path, vision, text = graph_path(Role.JOINT), graphs[Role.VISION], graphs[Role.TEXT]
    joint = write_joint(folder / path, logits, folder / vision.path, folder / text.path)
    return describe(joint, path, (*text.data, *vision.data))


def _loader(source: Checkpoint, sources: Sources) -> Callable[[str], torch.Tensor]:
    def load(name: str) -> torch.Tensor:
        parameter = sources[name]
        return parameter.make(*(source.weights.load(tensor) for tensor in parameter.names))

    return load


def write_files(source: Checkpoint, folder: Path) -> None:
    """Write the tokenizer and configuration files that transformers.js, Optimum and transformers read."""
    for name in ("spiece.model", "special_tokens_map.json"):
        if (source.folder / name).exists():
            shutil.copyfile(source.folder / name, folder / name)
    tokenizer_json = gemma_tokenizer if source.tokenizer.library == "tokenizers" else fast_tokenizer
    (folder / "tokenizer.json").write_bytes(tokenizer_json(source.folder / source.tokenizer.file, source.tokenizer))
    _rewrite(source, folder, TOKENIZER_FILE, tokenizer_config(source.tokenizer))
    _rewrite(source, folder, PROCESSOR_FILE, processor_config(source.image))
    _rewrite(source, folder, "config.json", config_json(source.config))


def _rewrite(source: Checkpoint, folder: Path, name: str, required: dict[str, Any]) -> None:
    """Write a checkpoint's JSON file, if it has one, with the entries that consumers require."""
    path = source.folder / name
    original = json.loads(path.read_bytes()) if path.exists() else {}
    merged = {**original, **required}
    for key, value in required.items():
        if isinstance(value, dict) and isinstance(original.get(key), dict):
            merged[key] = {**original[key], **value}
    (folder / name).write_text(json.dumps(merged, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _contract(source: Checkpoint, options: ExportOptions, folder: Path, graphs: dict[Role, Graph]) -> Contract:
    provenance = {tool: importlib.metadata.version(tool) for tool in _TOOLS}
    defaults = asdict(ExportOptions())
    chosen = {name: str(value) for name, value in asdict(options).items() if value != defaults[name]}
    return Contract(
        name=source.name,
        tokenizer=source.tokenizer,
        image=replace(
            source.image,
            input=options.image_input.value,
            transparency=options.transparency,
            orientation=options.orientation,
        ),
        logits=LogitSpec(source.logit_scale, source.logit_bias),
        embedding=EmbeddingSpec("pooler_output", source.config.text_config.embedding_size, options.normalized),
        files=record_files(folder),
        batch=options.batch,
        variants=(Variant(Precision.FP32, graphs, {**provenance, **chosen}),),
    )
