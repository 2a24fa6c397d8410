"""Every error that siglip-onnx raises on purpose.

    SiglipOnnxError
    ├── ParityError         1   an artifact does not compute what the reference computes
    ├── ProviderError       3   a runtime, provider or package is missing or fails to start
    ├── InconclusiveError   4   there is too little to judge by
    ├── CheckpointError     5   a checkpoint is missing, damaged or not a SigLIP model
    ├── ExportError         6   a checkpoint could not be turned into an artifact
    ├── ArtifactError       7   an artifact is missing, damaged, or not what its contract says
    ├── InputError          8   an image, text or number given by the user cannot be used
    └── QuantizationError   9   a variant could not be derived

The number is the exit code of the command line, where 0 is success and 2 a wrong usage (as everywhere in click).
"""

from __future__ import annotations

from typing import ClassVar


class SiglipOnnxError(Exception):
    """What is wrong, with which file or value, and what to do next.

    Args:
        what: What is wrong, naming the file or value; a sentence or two.
        next_step: What the user can do about it; a sentence.
    """

    exit_code: ClassVar[int]

    def __init__(self, what: str, next_step: str) -> None:
        super().__init__(what, next_step)
        self.what, self.next_step = what, next_step

    def __str__(self) -> str:
        return f"{self.what} {self.next_step}"


class ParityError(SiglipOnnxError):
    """An artifact does not compute what the reference computes."""

    exit_code = 1


class ProviderError(SiglipOnnxError):
    """A runtime, provider or package is missing or fails to start."""

    exit_code = 3


class InconclusiveError(SiglipOnnxError):
    """There is too little to judge an artifact by."""

    exit_code = 4


class CheckpointError(SiglipOnnxError):
    """A checkpoint is missing, damaged or not a SigLIP model."""

    exit_code = 5


class ExportError(SiglipOnnxError):
    """A checkpoint could not be turned into an artifact."""

    exit_code = 6


class ArtifactError(SiglipOnnxError):
    """An artifact is missing, damaged, or not what its contract says."""

    exit_code = 7


class InputError(SiglipOnnxError):
    """An image, text or number given by the user cannot be used."""

    exit_code = 8


class QuantizationError(SiglipOnnxError):
    """A variant could not be derived from an artifact."""

    exit_code = 9
