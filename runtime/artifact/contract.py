"""The artifact's contract: the content of `siglip.json`, as frozen dataclasses.

The file holds these classes as JSON; `decode` refuses everything else. docs/artifact.md describes the file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Final, Literal

import msgspec

from ..files import as_json
from .inner_path import InnerPath
from .input_specs import ImageSpec, TokenizerSpec
from .strict_json import decode_strict

SCHEMA_VERSION: Final = 2
CONTRACT_FILE: Final = "siglip.json"

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Precision(StrEnum):
    """The precision of a variant's arithmetic, or of its weights.

    `int8` computes the range of each activation at inference, `int8-static` stores ranges from calibration,
    `int8-weights` and `int4` have integer weights only, and `bf16` has bfloat16 weights and leaves the precision of the
    arithmetic to the provider.
    """

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    INT8_STATIC = "int8-static"
    INT8_WEIGHTS = "int8-weights"
    INT4 = "int4"


class Provider(StrEnum):
    """The runtime of a graph: an execution provider of ONNX Runtime, or OpenVINO itself.

    `openvino` is OpenVINO without ONNX Runtime, `openvino-ort` is OpenVINO as a plugin of ONNX Runtime, and `node` and
    `web` are ONNX Runtime in Node and in a browser.
    """

    CPU = "cpu"
    CUDA = "cuda"
    TENSORRT = "tensorrt"
    OPENVINO = "openvino"
    OPENVINO_ORT = "openvino-ort"
    COREML = "coreml"
    DIRECTML = "directml"
    WEBGPU = "webgpu"
    NODE = "node"
    WEB = "web"


class Role(StrEnum):
    """The function of a graph: one tower's embeddings, or the logits of both towers."""

    VISION = "vision"
    TEXT = "text"
    JOINT = "joint"


class ReferenceKind(StrEnum):
    """The reference that a variant was compared with: PyTorch with the checkpoint, or the artifact's fp32 variant."""

    CHECKPOINT = "checkpoint"
    FP32 = "fp32"


class Verdict(StrEnum):
    """The result of a validation. A check that could not be measured is INCONCLUSIVE, never PASS."""

    PASS = "PASS"  # noqa: S105  not a password
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True)
class LabelSpec:
    """Labels whose embeddings are constants of the vision graph, which also has outputs `logits` and `probabilities`.

    Attributes:
        labels: The labels, in the order of the columns of these outputs.
        templates: The prompt templates, in which `{}` stands for the label; several are averaged.
        source_artifact: Name of the artifact whose text tower embedded the labels.
    """

    labels: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    templates: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    source_artifact: str


@dataclass(frozen=True)
class LogitSpec:
    """logit = scale * cosine + bias, probability = sigmoid(logit); `scale` is already exponentiated."""

    scale: float
    bias: float


@dataclass(frozen=True)
class EmbeddingSpec:
    """The embedding of a tower.

    Attributes:
        output: Name of the output.
        size: Length of an embedding.
        normalized: Whether the graph scales embeddings to length 1.
    """

    output: str
    size: int
    normalized: bool


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a graph; a free dimension has a name instead of a number."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class FileRecord:
    """Hash and size of a file of the artifact."""

    sha256: Sha256
    bytes: int


@dataclass(frozen=True)
class ConstantInput:
    """An input of an external graph that does not affect the tower's embeddings, and its constant value.

    Attributes:
        dtype: NumPy's name of its dtype.
        shape: Shape of one row.
        rows: Number of rows; None for as many as the tower has.
        value: Value of every element.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    rows: int | None
    value: int


@dataclass(frozen=True)
class IOBinding:
    """How an external graph, which another tool wrote, serves as a tower.

    Attributes:
        input_name: The input for the rows, which are cast to its dtype: ids to int32, or pixels to float16.
        embedding: The output that is the embedding, instead of the contract's `embedding.output`.
        normalized: Whether the graph scales embeddings to length 1, instead of the contract's `embedding.normalized`.
        constant_inputs: Every other input.
    """

    input_name: str
    embedding: str
    normalized: bool
    constant_inputs: tuple[ConstantInput, ...] = ()


@dataclass(frozen=True)
class Graph:
    """One ONNX file, the data files it may read, and its interface.

    Attributes:
        data: The files that its external data may be in.
        opset: Version of each operator domain.
        binding: How an external graph serves as a tower; absent from the file for graphs of this tool.
    """

    path: InnerPath
    data: tuple[InnerPath, ...]
    opset: dict[str, int]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    binding: IOBinding | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if not isinstance(self.binding, IOBinding):
            return
        bound = {self.binding.input_name, *(constant.name for constant in self.binding.constant_inputs)}
        inputs = {spec.name for spec in self.inputs}
        if bound != inputs:  # msgspec adds the place in siglip.json
            raise ValueError(
                f"the binding feeds {', '.join(sorted(bound))}, the inputs are {', '.join(sorted(inputs))}"
            )

    @property
    def row_input(self) -> TensorSpec:
        """The input for the rows of images or ids."""
        name = self.binding.input_name if isinstance(self.binding, IOBinding) else self.inputs[0].name
        return next(spec for spec in self.inputs if spec.name == name)

    def embedding(self, default: EmbeddingSpec) -> EmbeddingSpec:
        """The graph's embedding; `default` is the contract's."""
        if not isinstance(self.binding, IOBinding):
            return default
        return replace(default, output=self.binding.embedding, normalized=self.binding.normalized)

    @property
    def batch(self) -> int | None:
        """Number of rows of every batch, or None if the batch is free; 1 for an input [height, width, 3]."""
        shape = self.row_input.shape
        if self.row_input.dtype == "uint8" and len(shape) == 3:
            return 1
        return shape[0] if isinstance(shape[0], int) else None


@dataclass(frozen=True)
class Parity:
    """The latest verdict on a variant on one provider.

    Attributes:
        report: Path of the report, inside the artifact.
        report_sha256: Hash of the report.
        against: The reference.
    """

    verdict: Verdict
    provider: Provider
    report: InnerPath
    report_sha256: Sha256
    against: ReferenceKind = ReferenceKind.CHECKPOINT


@dataclass(frozen=True)
class Variant:
    """The graphs of one precision, their provenance and their verdicts.

    Attributes:
        graphs: The graph of each role. A variant of one tower includes the fp32 graph of the other tower.
        provenance: Versions of the tools that made it, and their options.
        target_provider: The only provider that the graphs are for; None for portable graphs.
        parity: The latest verdict on each provider.
    """

    precision: Precision
    graphs: dict[Role, Graph]
    provenance: dict[str, str]
    target_provider: Provider | None = None
    parity: tuple[Parity, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of all graphs and data files."""
        return tuple(dict.fromkeys(path for graph in self.graphs.values() for path in (graph.path, *graph.data)))


@dataclass(frozen=True)
class Contract:
    """Everything that a runtime must know about an artifact and must not guess.

    Attributes:
        name: Name of the model.
        tokenizer: None for a classifier with frozen `labels`, which has no text tower.
        logits: From cosines to logits.
        embedding: The embedding of both towers.
        files: Every file of the artifact but the contract and the reports.
        batch: Fixed batch of every tower; None if it is free.
    """

    name: str
    tokenizer: TokenizerSpec | None
    image: ImageSpec
    logits: LogitSpec
    embedding: EmbeddingSpec
    files: dict[InnerPath, FileRecord]
    variants: tuple[Variant, ...]
    labels: LabelSpec | None = None
    batch: Annotated[int, msgspec.Meta(ge=1)] | None = None
    schema_version: Literal[2] = SCHEMA_VERSION

    @property
    def towers(self) -> tuple[Role, ...]:
        """The towers of every variant."""
        return (Role.VISION,) if self.labels else (Role.VISION, Role.TEXT)

    def variant(self, precision: Precision, provider: Provider = Provider.CPU) -> Variant | None:
        """The variant of a precision for the provider; otherwise the portable one; None if there is neither."""
        variants = {v.target_provider: v for v in self.variants if v.precision == precision}
        return variants.get(provider) or variants.get(None)

    def without_parity(self, variant: Variant) -> Variant | None:
        """The variant here with the precision and target provider of `variant`, without its verdicts."""
        key = (variant.precision, variant.target_provider)
        same = next((v for v in self.variants if (v.precision, v.target_provider) == key), None)
        return same and replace(same, parity=())

    def with_variant(self, variant: Variant) -> Contract:
        """A copy with `variant` added, or replacing the one of its precision and target provider."""
        key = (variant.precision, variant.target_provider)
        others = tuple(v for v in self.variants if (v.precision, v.target_provider) != key)
        return replace(self, variants=(*others, variant))

    def without_verdicts(self) -> Contract:
        """A copy without verdicts."""
        return replace(self, variants=tuple(replace(variant, parity=()) for variant in self.variants))


def encode(contract: Contract) -> bytes:
    """The contract as indented JSON (RFC 8259, UTF-8)."""
    return as_json(contract)


class _Version(msgspec.Struct):
    schema_version: object = None


def decode(data: bytes) -> Contract:
    """Read the bytes that `encode` wrote.

    Raises:
        msgspec.DecodeError: The data is not JSON, has another schema version, or does not fit the contract; the message
            names the place.
    """
    version = msgspec.json.decode(data, type=_Version).schema_version
    if version != SCHEMA_VERSION:
        raise msgspec.ValidationError(f"expected schema_version {SCHEMA_VERSION}, got {version!r}")
    return decode_strict(data, Contract)
