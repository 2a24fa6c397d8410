"""The artifact's contract: everything in `siglip.json`, as frozen dataclasses.

The file is these classes as JSON, nothing else; `decode` refuses whatever does not fit them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated, Final, Literal

import msgspec

from ..files import as_json

SCHEMA_VERSION: Final = 1
CONTRACT_FILE: Final = "siglip.json"

Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
# A path inside the artifact: relative, with forward slashes, and never upwards.
InnerPath = Annotated[str, msgspec.Meta(pattern=r"^(?!/)(?!.*(^|/)\.\.?(/|$))[A-Za-z0-9._/-]+$")]


class Precision(StrEnum):
    """The arithmetic of a variant, or the size of its weights.

    `int8` finds the range of each activation while it runs, `int8-static` has them built in, `int8-weights` and
    `int4` have integer weights alone, and `bf16` has bfloat16 weights and leaves the arithmetic to the provider.
    """

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"
    INT8 = "int8"
    INT8_STATIC = "int8-static"
    INT8_WEIGHTS = "int8-weights"
    INT4 = "int4"


class Provider(StrEnum):
    """What runs a graph: an execution provider of ONNX Runtime, or OpenVINO itself.

    `openvino` is OpenVINO without ONNX Runtime, `openvino-ort` is OpenVINO as ONNX Runtime's plugin, `node` and `web`
    are ONNX Runtime in Node and in a browser.
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
    """What a graph computes: one tower's embeddings, or the logits of both towers joined."""

    VISION = "vision"
    TEXT = "text"
    JOINT = "joint"


class ReferenceKind(StrEnum):
    """What a variant was compared with: the PyTorch reference, or this artifact's own fp32 variant."""

    CHECKPOINT = "checkpoint"
    FP32 = "fp32"


class Verdict(StrEnum):
    """How a comparison ended. Anything that could not be measured is INCONCLUSIVE, never PASS."""

    PASS = "PASS"  # noqa: S105  not a password
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True)
class TokenizerSpec:
    """How a text becomes ids, int64 [length].

    Attributes:
        file: The sentencepiece model, or the file of the tokenizers library.
        canonicalization: The rule for a text before its vocabulary sees it; `siglip` is described in
            docs/artifact.md and was introduced by big_vision (`canonicalize_text` in `prompt_engineering.py`), `gemma`
            lower-cases and does nothing else, as SigLIP 2 (arXiv:2502.14786) was trained.
        library: What reads `file`.
        lower_case: Whether letters are lower-cased, one code point at a time.
        special_pieces: Literal strings of a text that become one id each, such as `</s>`.
        unk_piece: The unknown piece, which precedes every segment while sentencepiece reads it.
        length: Ids in a text, counting the closing `eos_id` and the padding; longer texts are cut.
    """

    file: InnerPath
    lower_case: bool
    special_pieces: Annotated[dict[str, int], msgspec.Meta(min_length=1)]
    unk_piece: str
    eos_id: int
    pad_id: int
    length: Annotated[int, msgspec.Meta(ge=2, le=65536)]
    vocab_size: int
    canonicalization: Literal["siglip", "gemma"] = "siglip"
    library: Literal["sentencepiece", "tokenizers"] = "sentencepiece"
    padding_side: Literal["right"] = "right"


@dataclass(frozen=True)
class ImageSpec:
    """How an image becomes pixel_values, float32 [3, height, width], or patches of them.

    Attributes:
        resize: `stretch` ignores the aspect ratio; `patches` keeps it, to within a patch, and makes of an image at
            most `max_patches` squares of `patch_size` pixels (NaFlex, arXiv:2502.14786). `height` and `width` are then
            what a square image becomes.
        filter: Pillow's filter of that name, antialiased as Pillow's resize always is.
        input: What the vision graph takes: `pixels` normalized as said here, float32 [batch, 3, height, width]; `bytes`
            that are resized but not normalized, uint8 [batch, height, width, 3]; or one `image` of any size, uint8
            [height, width, 3].
        rescale: Factor from a byte to the scale that `mean` and `std` are on, per channel in `channel_order`.
    """

    height: Annotated[int, msgspec.Meta(ge=1, le=8192)]
    width: Annotated[int, msgspec.Meta(ge=1, le=8192)]
    filter: Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
    rescale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    resize: Literal["stretch", "patches"] = "stretch"
    antialias: Literal[True] = True
    channel_order: Literal["RGB", "BGR"] = "RGB"
    patch_size: Annotated[int, msgspec.Meta(ge=1, le=1024)] | None = None
    max_patches: Annotated[int, msgspec.Meta(ge=1, le=65536)] | None = None
    input: Literal["pixels", "bytes", "image"] = "pixels"


@dataclass(frozen=True)
class LabelSpec:
    """Labels whose embeddings are part of the vision graph, which then gives `logits` and `probabilities`, too.

    Attributes:
        labels: In the order of the columns of these outputs.
        templates: What the model read for each, `{}` standing for the label; the mean of several.
        made_from: Name of the artifact whose text tower embedded them.
    """

    labels: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    templates: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    made_from: str


@dataclass(frozen=True)
class LogitSpec:
    """logit = scale * cosine + bias, probability = sigmoid(logit); `scale` is already exponentiated."""

    scale: float
    bias: float


@dataclass(frozen=True)
class EmbeddingSpec:
    """Which output of a tower is the embedding, how wide it is, and whether the graph has normalized it."""

    output: str
    size: int
    normalized: bool


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a graph; a dimension is a number, or a name where it is free."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class FileRecord:
    """What a file of the artifact must be."""

    sha256: Sha256
    bytes: int


@dataclass(frozen=True)
class ConstantInput:
    """An input of a graph that does not matter for the tower it stands for, and what it is given all the same.

    Attributes:
        shape: Of one row.
        rows: How many rows; None for as many as the tower is given.
        value: Of every element.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    rows: int | None
    value: int


@dataclass(frozen=True)
class IOBinding:
    """How a graph that another tool wrote stands for a tower.

    Attributes:
        input_name: The input that is given the rows; they are cast to its dtype, as ids to int32 or pixels to float16.
        embedding: The output that is the embedding, in the place of the contract's.
        normalized: Whether the graph normalizes it, in the place of what the contract says.
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
        binding: How it is run, where another tool wrote it; absent from the file where this one did.
    """

    path: InnerPath
    data: tuple[InnerPath, ...]
    opset: dict[str, int]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    binding: IOBinding | msgspec.UnsetType = msgspec.UNSET

    def __post_init__(self) -> None:
        if isinstance(self.binding, IOBinding):
            fed, has = (
                {self.binding.input_name, *(constant.name for constant in self.binding.constant_inputs)},
                {i.name for i in self.inputs},
            )
            if fed != has:  # msgspec tells which place of a siglip.json this is about
                raise ValueError(f"the binding feeds {', '.join(sorted(fed))}, the inputs are {', '.join(sorted(has))}")

    @property
    def row_input(self) -> TensorSpec:
        """The input that is given the rows, or the first."""
        name = self.binding.input_name if isinstance(self.binding, IOBinding) else self.inputs[0].name
        return next(spec for spec in self.inputs if spec.name == name)

    def embedding(self, usual: EmbeddingSpec) -> EmbeddingSpec:
        """Which of its outputs is the embedding; `usual` is what the contract says of its own graphs."""
        if not isinstance(self.binding, IOBinding):
            return usual
        return replace(usual, output=self.binding.embedding, normalized=self.binding.normalized)

    @property
    def batch(self) -> int | None:
        """How many rows it takes, no more and no fewer; None where that is free.

        A graph that takes one decoded image, [height, width, 3], has no dimension for more.
        """
        first = self.row_input.shape
        if self.row_input.dtype == "uint8" and len(first) == 3:
            return 1
        return first[0] if isinstance(first[0], int) else None


@dataclass(frozen=True)
class Parity:
    """The last verdict on a variant, what it was compared with, and the report that it stands in."""

    verdict: Verdict
    provider: Provider
    report: InnerPath
    report_sha256: Sha256
    against: ReferenceKind = ReferenceKind.CHECKPOINT


@dataclass(frozen=True)
class Variant:
    """The graphs of one precision, how they were made, and what `validate` said of them.

    Attributes:
        graphs: The graph of each role. A variant of one tower has the fp32 graph of the other.
        target_provider: The one provider that the graphs are for, or None.
        provenance: Versions of the tools, and options.
    """

    precision: Precision
    graphs: dict[Role, Graph]
    provenance: dict[str, str]
    target_provider: Provider | None = None
    parity: tuple[Parity, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """Every file of its graphs."""
        return tuple(dict.fromkeys(path for graph in self.graphs.values() for path in (graph.path, *graph.data)))


@dataclass(frozen=True)
class Contract:
    """All that a runtime must not guess about an artifact.

    Attributes:
        tokenizer: None where there is no text tower, but frozen `labels`.
        batch: What every tower's batch is fixed to; None where it is free.
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
    schema_version: Literal[1] = SCHEMA_VERSION

    @property
    def towers(self) -> tuple[Role, ...]:
        """The towers that every variant has."""
        return (Role.VISION,) if self.labels else (Role.VISION, Role.TEXT)

    def variant(self, precision: Precision, provider: Provider = Provider.CPU) -> Variant | None:
        """The variant of that precision that was made for the provider, else the one made for none, else None."""
        found = {v.target_provider: v for v in self.variants if v.precision == precision}
        return found.get(provider) or found.get(None)

    def made(self, variant: Variant) -> Variant | None:
        """The variant here of the same precision and provider, without its verdicts."""
        key = (variant.precision, variant.target_provider)
        found = next((v for v in self.variants if (v.precision, v.target_provider) == key), None)
        return found and replace(found, parity=())

    def with_variant(self, variant: Variant) -> Contract:
        """The same contract with `variant` in the place of the one of its precision and provider, or added."""
        key = (variant.precision, variant.target_provider)
        others = tuple(v for v in self.variants if (v.precision, v.target_provider) != key)
        return replace(self, variants=(*others, variant))

    def without_verdicts(self) -> Contract:
        """The same contract before anybody judged it."""
        return replace(self, variants=tuple(replace(variant, parity=()) for variant in self.variants))


def encode(contract: Contract) -> bytes:
    """The contract as indented JSON (RFC 8259, UTF-8)."""
    return as_json(contract)


def decode(data: bytes) -> Contract:
    """Read what `encode` wrote.

    Raises:
        msgspec.DecodeError: The data is no JSON, or does not fit the contract; the message names the place.
    """
    contract = msgspec.json.decode(data, type=Contract)
    if unknown := _unknown(msgspec.json.decode(data), msgspec.json.decode(msgspec.json.encode(contract)), "$"):
        raise msgspec.ValidationError(f"Object contains an unknown field at {unknown}")
    return contract


def _unknown(found: object, known: object, place: str) -> str | None:
    """Where `found` has a key that `known` lacks; a misspelt key must not turn into a default."""
    if isinstance(found, dict) and isinstance(known, dict):
        if extra := found.keys() - known.keys():
            return f"`{place}.{min(extra)}`"
        pairs = [(found[key], known[key], f"{place}.{key}") for key in found]
    elif isinstance(found, list) and isinstance(known, list):
        pairs = [(a, b, f"{place}[{i}]") for i, (a, b) in enumerate(zip(found, known, strict=True))]
    else:
        return None
    return next(filter(None, (_unknown(*pair) for pair in pairs)), None)
