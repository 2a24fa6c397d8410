"""Embed a collection of any size, in one process or on a Ray cluster, into one parquet file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from ..errors import InputError
from ..model import Siglip
from .embeddings_file import About
from .job import Backend, EmbedJob
from .local_backend import run_local
from .part_files import CHUNK, DoneChunk, Missing, Parts
from .stages import Stages

Progress = Callable[[int, int], None]


def embed(artifact: str | Path | Siglip, job: EmbedJob, progress: Progress = lambda done, errors: None) -> About:
    """Embed every item of a job. An unfinished run of the same job is continued.

    Args:
        artifact: A model, or the folder of an artifact, which then runs at fp32 on the CPU.
        job: The job.
        progress: Called with the number of rows that are done, and the number of those that have an error.

    Returns:
        The metadata of the output, with the numbers of rows, errors and truncated texts.

    >>> from siglip_onnx.runtime.bulk import EmbedJob, Inputs
    >>> about = embed(folder, EmbedJob(Inputs((image,)), output))
    >>> about.rows, about.errors
    (1, 0)

    Raises:
        InputError: An input or the output cannot be used, or the parts of another job are in the way.
        ArtifactError: The artifact cannot be used.
        ProviderError: A package is not installed, or running the model failed.
    """
    model = artifact if isinstance(artifact, Siglip) else Siglip.load(artifact)
    stages = Stages(model, job)
    _check_output(job)
    model.session(stages.role)  # a model that cannot run must fail before a folder is made
    size = max(CHUNK, stages.batch_size)
    with Parts(
        job.output, _job_key(stages), stages.about, job.checkpoint_interval, resume=job.resume, size=size
    ) as parts:
        done, errors = parts.rows, 0
        progress(done, errors)
        for chunk in _backend(job)(stages, parts.missing(job.inputs)):
            parts.add(chunk)
            done, errors = done + len(chunk.rows), errors + len(chunk.rows) - chunk.rows.column("error").null_count
            progress(done, errors)
        parts.flush()
        if not parts.rows:
            raise InputError(f"{' '.join(job.inputs.paths)} holds no {job.inputs.modality}.", "Name another input.")
        return parts.finish()


def _backend(job: EmbedJob) -> Callable[[Stages, Missing], Iterator[DoneChunk]]:
    if job.backend is Backend.LOCAL:
        return run_local
    from .ray_backend import run_on_ray

    return run_on_ray


def _job_key(stages: Stages) -> dict[str, Any]:
    """Everything that decides what the rows are."""
    job, options = stages.job, stages.model.images.options
    about: dict[str, Any] = msgspec.to_builtins(stages.about)
    del about["artifact"]  # the same artifact in another folder gives the same rows
    return about | {
        "inputs": msgspec.to_builtins(job.inputs),
        "mtimes": job.inputs.mtimes(),
        "template": job.template,
        "batch_size": stages.batch_size,
        "image_options": msgspec.to_builtins(options),
    }


def _check_output(job: EmbedJob) -> None:
    if job.output.is_dir():
        raise InputError(f"The output {job.output} is a folder, expected a file.", "Name a file.")
    if job.output.exists() and not job.overwrite:
        raise InputError(f"The output {job.output} exists.", "Name another output, or overwrite it with --overwrite.")
