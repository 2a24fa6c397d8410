"""How a graph of anybody's stands for a tower: which input takes the rows, and which output is the embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ...runtime.artifact.contract import ConstantInput, IOBinding, Role, TensorSpec
from ...runtime.errors import ArtifactError
from .graphs import ExternalGraph, is_mask
from .tower_map import TowerMap, which

if TYPE_CHECKING:
    from ...exporter.checkpoint.checkpoint import Checkpoint

# What the inputs and outputs are called by Optimum, transformers.js, Immich and open_clip's exports; the names settle
# only which of several that have the right form is meant.
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
    """What a checkpoint's towers read and give: pixels each way, ids in a text, numbers in an embedding."""

    height: int
    width: int
    length: int
    size: int

    @classmethod
    def of(cls, source: Checkpoint) -> InputForm:
        """The form of a checkpoint that takes images of one size."""
        image, size = source.image, source.config.text_config.embedding_size
        return cls(image.height, image.width, source.tokenizer.length, size)

    def row(self, role: Role) -> tuple[int, ...]:
        """The shape of a row of a tower."""
        return (3, self.height, self.width) if role is Role.VISION else (self.length,)


@dataclass(frozen=True)
class TowerBinder:
    """A graph that is to stand for a tower.

    Attributes:
        folder: Where it lies.
        others: What a mapping would have to say of the other tower, for the refusal to guess.
    """

    folder: Path
    role: Role
    found: ExternalGraph
    form: InputForm
    told: TowerMap
    other: TowerMap

    def usage(self) -> IOBinding:
        """How the graph is run.

        Raises:
            ArtifactError: It does not fit the checkpoint, has an input that nobody knows how to fill, lacks what the
                mapping names, or several inputs or outputs may be meant.
        """
        takes, embedding = self._input(), self._embedding()
        self._check_form(takes)
        others = [spec for spec in self.found.graph.inputs if spec.name != takes.name]
        units = self.found.units
        normalized = embedding in units if self.told.normalized is None else self.told.normalized
        return IOBinding(takes.name, embedding, normalized, tuple(self._blank(spec, takes) for spec in others))

    @property
    def path(self) -> Path:
        """The graph's file."""
        return self.folder / self.found.graph.path

    def _input(self) -> TensorSpec:
        specs = self.found.images if self.role is Role.VISION else self.found.ids
        if self.told.input is not None:
            return self._named(self.told.input, specs, "input", self.found.graph.inputs)
        named = [spec for spec in specs if spec.name in _INPUTS[self.role]]
        return self._one("inputs", named if len(named) == 1 else list(specs), self.found.graph.inputs)

    def _embedding(self) -> str:
        outputs = self.found.graph.outputs
        specs = [spec for spec in outputs if spec.dtype in _FLOATS and self._gives(spec)]
        if self.told.embedding is not None:
            return self._named(self.told.embedding, specs, "output", outputs).name
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
            f"{self.path} has no {kind} {name!r} of the {self.role} tower's form; its {kind}s are {_listed(every)}.",
            "Correct the mapping.",
        )

    def _one(self, kind: str, pool: Sequence[TensorSpec], every: tuple[TensorSpec, ...]) -> TensorSpec:
        if len(pool) == 1:
            return pool[0]
        if not pool:
            raise ArtifactError(
                f"None of the {kind} of {self.path} fits the {self.role} tower of the checkpoint, which has embeddings "
                f"of {self.form.size} numbers; they are {_listed(every)}.",
                "Name the checkpoint that it was made from, or the right files.",
            )
        said = f"Of the {kind} of {self.path} several may be meant for the {self.role} tower: {_listed(pool)}."
        raise which(said, *self._guess(kind, pool[0].name))

    def _guess(self, kind: str, name: str) -> tuple[TowerMap, TowerMap]:
        told = {"inputs": self.told.input, "outputs": self.told.embedding} | {kind: name}
        own = TowerMap(self.found.graph.path, told["inputs"], told["outputs"])
        return (own, self.other) if self.role is Role.VISION else (self.other, own)

    def _check_form(self, takes: TensorSpec) -> None:
        due = self.form.row(self.role)
        if any(isinstance(have, int) and have != want for have, want in zip(takes.shape[1:], due, strict=True)):
            raise ArtifactError(
                f"{self.path} takes {_listed((takes,))}, and the checkpoint's {self.role} tower {list(due)} a row.",
                "Name the checkpoint that it was made from.",
            )

    def _blank(self, spec: TensorSpec, takes: TensorSpec) -> ConstantInput:
        """What another input is given: ones where it is a mask, else zeros, as many rows as it needs."""
        role = Role.VISION if spec in self.found.images else Role.TEXT
        if not is_mask(spec) and spec not in (*self.found.images, *self.found.ids):
            self._unknown(spec)
        if role is self.role and not is_mask(spec):
            self._unknown(spec)
        first, *rest = spec.shape
        shape = tuple(
            have if isinstance(have, int) else want for have, want in zip(rest, self.form.row(role), strict=True)
        )
        rows = first if isinstance(first, int) else None if first == takes.shape[0] else 1
        return ConstantInput(spec.name, spec.dtype, shape, rows, int(is_mask(spec)))

    def _unknown(self, spec: TensorSpec) -> None:
        raise ArtifactError(
            f"{self.path} wants {_listed((spec,))} beside what the {self.role} tower reads, and nothing tells what to "
            "give it.",
            "Export it without that input.",
        )


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{s.name} {s.dtype} [{', '.join(map(str, s.shape))}]" for s in specs) or "none"
