"""All errors that siglip-onnx raises on purpose.

    SiglipOnnxError
    ├── ParityError         1   an artifact does not match its reference
    ├── ProviderError       3   a runtime, provider or package is missing or fails to start
    ├── InconclusiveError   4   there is too little data for a verdict
    ├── CheckpointError     5   a checkpoint is missing, damaged or not a SigLIP model
    ├── ExportError         6   a checkpoint could not be turned into an artifact
    ├── ArtifactError       7   an artifact is missing, damaged, or does not match its contract
    ├── InputError          8   an image, text or argument of the user is invalid
    └── QuantizationError   9   a variant could not be derived

The number is the exit code of the command line; 0 is success and 2 is wrong usage, as click has it.
"""

from __future__ import annotations

import contextlib
from typing import ClassVar


class SiglipOnnxError(Exception):
    """The base of all errors: what is wrong, and what to do next.

    Args:
        message: What is wrong, with the name of the file or value; one or two sentences.
        next_step: What the user can do about it; one sentence.
    """

    exit_code: ClassVar[int]

    def __init__(self, message: str, next_step: str) -> None:
        super().__init__(message, next_step)
        self.message, self.next_step = message, next_step

    def __str__(self) -> str:
        return f"{self.message} {self.next_step}"


class ParityError(SiglipOnnxError):
    """An artifact does not match its reference."""

    exit_code = 1


class ProviderError(SiglipOnnxError):
    """A runtime, provider or package is missing or fails to start."""

    exit_code = 3


class InconclusiveError(SiglipOnnxError):
    """There is too little data for a verdict."""

    exit_code = 4


class CheckpointError(SiglipOnnxError):
    """A checkpoint is missing, damaged or not a SigLIP model."""

    exit_code = 5


class ExportError(SiglipOnnxError):
    """A checkpoint could not be turned into an artifact."""

    exit_code = 6


class ArtifactError(SiglipOnnxError):
    """An artifact is missing, damaged, or does not match its contract."""

    exit_code = 7


class InputError(SiglipOnnxError):
    """An image, text or argument of the user is invalid."""

    exit_code = 8


class QuantizationError(SiglipOnnxError):
    """A variant could not be derived from an artifact."""

    exit_code = 9


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or the name of its class where the message is empty."""
    with contextlib.suppress(IndexError):
        return str(error).strip().splitlines()[0]
    return type(error).__name__
