"""Input and output bindings of an external graph: which input takes the rows, which output is the embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ...runtime.artifact.contract import ConstantInput, IOBinding, Role, TensorSpec
from ...runtime.errors import ArtifactError
from .graphs import ExternalGraph, is_mask
from .tower_map import TowerFile, ambiguous

if TYPE_CHECKING:
    from ...exporter.checkpoint.checkpoint import Checkpoint

# Names in the exports of Optimum, transformers.js, Immich and open_clip. Names only choose among inputs or outputs of
# the right form.
_INPUTS: Final = {
    Role.VISION: ("pixel_values", "image", "images"),
    Role.TEXT: ("input_ids", "text", "ids", "tokens"),
}
_EMBEDDINGS: Final = {
    Role.VISION: ("image_embeds", "image_embedding", "image_features", "embedding", "embeddings", "pooler_output"),
    Role.TEXT: ("text_embeds", "text_embedding", "text_features", "embedding", "embeddings", "pooler_output"),
}
_FLOATS: Final = ("float32", "float16", "float64")


@dataclass(frozen=True)
class InputForm:
    """The shapes that a checkpoint's towers take and give.

    Attributes:
        height: Height of an image in pixels.
        width: Width of an image in pixels.
        length: Ids in a text.
        size: Numbers in an embedding.
    """

    height: int
    width: int
    length: int
    size: int

    @classmethod
    def of(cls, source: Checkpoint) -> InputForm:
        """The shapes of a checkpoint with a fixed image size."""
        image, size = source.image, source.config.text_config.embedding_size
        return cls(image.height, image.width, source.tokenizer.length, size)

    def row(self, role: Role) -> tuple[int, ...]:
        """The shape of one row of a tower's input."""
        return (3, self.height, self.width) if role is Role.VISION else (self.length,)


@dataclass(frozen=True)
class TowerBinder:
    """Binds an external graph to a tower.

    Attributes:
        folder: Folder of the graph.
        role: The tower.
        external: The graph.
        form: The shapes of the checkpoint's towers.
        stated: What the tower map says about this tower.
        other: What the tower map says about the other tower, for error messages.
    """

    folder: Path
    role: Role
    external: ExternalGraph
    form: InputForm
    stated: TowerFile
    other: TowerFile

    def bind(self) -> IOBinding:
        """The graph's input, embedding, and constant inputs.

        Raises:
            ArtifactError: The graph does not fit the checkpoint, has an input without a known value, lacks a name of
                the tower map, or has several candidates for its input or embedding.
        """
        takes, embedding = self._input(), self._embedding()
        self._check_form(takes)
        others = [spec for spec in self.external.graph.inputs if spec.name != takes.name]
        units = self.external.units
        normalized = embedding in units if self.stated.normalized is None else self.stated.normalized
        return IOBinding(takes.name, embedding, normalized, tuple(self._constant(spec, takes) for spec in others))

    @property
    def path(self) -> Path:
        """The graph's file."""
        return self.folder / self.external.graph.path

    def _input(self) -> TensorSpec:
        specs = self.external.images if self.role is Role.VISION else self.external.ids
        if self.stated.input is not None:
            return self._named(self.stated.input, specs, "input", self.external.graph.inputs)
        named = [spec for spec in specs if spec.name in _INPUTS[self.role]]
        return self._one("inputs", named if len(named) == 1 else list(specs), self.external.graph.inputs)

    def _embedding(self) -> str:
        outputs = self.external.graph.outputs
        specs = [spec for spec in outputs if spec.dtype in _FLOATS and self._gives(spec)]
        if self.stated.embedding is not None:
            return self._named(self.stated.embedding, specs, "output", outputs).name
        named = [spec for spec in specs if spec.name in _EMBEDDINGS[self.role]]
        wide = [spec for spec in specs if spec.shape[1] == self.form.size]
        pool = next((pool for pool in (named, wide, specs) if pool), [])
        return self._one("outputs", pool, outputs).name

    def _gives(self, spec: TensorSpec) -> bool:
        return len(spec.shape) == 2 and (isinstance(spec.shape[1], str) or spec.shape[1] == self.form.size)

    def _named(self, name: str, specs: Sequence[TensorSpec], kind: str, every: tuple[TensorSpec, ...]) -> TensorSpec:
        for spec in specs:
            if spec.name == name:
                return spec
        raise ArtifactError(
            f"{self.path} has no {kind} {name!r} that fits the {self.role} tower; its {kind}s are {_listed(every)}.",
            "Correct the tower map.",
        )

    def _one(self, kind: str, pool: Sequence[TensorSpec], every: tuple[TensorSpec, ...]) -> TensorSpec:
        if len(pool) == 1:
            return pool[0]
        if not pool:
            raise ArtifactError(
                f"None of the {kind} of {self.path} fits the {self.role} tower of the checkpoint, whose embeddings "
                f"have {self.form.size} numbers; they are {_listed(every)}.",
                "Name the checkpoint that the graph was made from, or other files.",
            )
        message = f"Several {kind} of {self.path} fit the {self.role} tower: {_listed(pool)}."
        raise ambiguous(message, *self._guess(kind, pool[0].name))

    def _guess(self, kind: str, name: str) -> tuple[TowerFile, TowerFile]:
        names = {"inputs": self.stated.input, "outputs": self.stated.embedding} | {kind: name}
        own = TowerFile(self.external.graph.path, names["inputs"], names["outputs"])
        return (own, self.other) if self.role is Role.VISION else (self.other, own)

    def _check_form(self, takes: TensorSpec) -> None:
        expected = self.form.row(self.role)
        if any(isinstance(size, int) and size != due for size, due in zip(takes.shape[1:], expected, strict=True)):
            raise ArtifactError(
                f"{self.path} takes {_listed((takes,))}, the checkpoint's {self.role} tower takes {list(expected)}.",
                "Name the checkpoint that the graph was made from.",
            )

    def _constant(self, spec: TensorSpec, takes: TensorSpec) -> ConstantInput:
        """A constant for another input: ones for a mask, else zeros, with as many rows as it needs."""
        role = Role.VISION if spec in self.external.images else Role.TEXT
        if not is_mask(spec) and spec not in (*self.external.images, *self.external.ids):
            raise self._unknown(spec)
        if role is self.role and not is_mask(spec):
            raise self._unknown(spec)
        first, *rest = spec.shape
        shape = tuple(
            size if isinstance(size, int) else due for size, due in zip(rest, self.form.row(role), strict=True)
        )
        rows = first if isinstance(first, int) else None if first == takes.shape[0] else 1
        return ConstantInput(spec.name, spec.dtype, shape, rows, int(is_mask(spec)))

    def _unknown(self, spec: TensorSpec) -> ArtifactError:
        return ArtifactError(
            f"{self.path} has the input {_listed((spec,))} besides that of the {self.role} tower, with no known value.",
            "Export it without that input.",
        )


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{s.name} {s.dtype} [{', '.join(map(str, s.shape))}]" for s in specs) or "none"
