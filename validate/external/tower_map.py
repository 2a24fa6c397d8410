"""Which file is which tower, where the files themselves do not tell: a small TOML file.

precision = "fp32"

[vision]
file = "a.onnx"            # below the folder that is judged
input = "image"            # may be left out where only one can be meant, as may the next two
embedding = "out"
normalized = false         # whether the graph scales it to length 1

[text]
file = "b.onnx"
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec

from ...runtime.artifact.contract import Precision, Role
from ...runtime.errors import ArtifactError, InputError


class TowerMap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tower; what is None is found out.

    Attributes:
        file: Its graph, relative to the folder that is judged.
        input: The input that is given pixels or ids.
        embedding: The output that is the embedding.
        normalized: Whether the graph scales it to length 1.
    """

    file: str
    input: str | None = None
    embedding: str | None = None
    normalized: bool | None = None


class Mapping(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Both towers; they may be in one file. Without `precision`, what the graphs hold tells it."""

    vision: TowerMap
    text: TowerMap
    precision: Precision | None = None

    @property
    def towers(self) -> dict[Role, TowerMap]:
        """Each tower by its role."""
        return {Role.VISION: self.vision, Role.TEXT: self.text}


def read_mapping(path: Path) -> Mapping:
    """Read a TOML file.

    Raises:
        InputError: It is missing or no TOML, lacks a tower, or has a name or value that no mapping has.
    """
    try:
        return msgspec.convert(tomllib.loads(path.read_bytes().decode()), Mapping)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise InputError(f"The mapping {path} cannot be read ({error}).", "See docs/adopt.md for the form.") from error


def which(what: str, vision: TowerMap, text: TowerMap) -> ArtifactError:
    """The refusal to guess, with a mapping that would settle it.

    Args:
        what: What there is to choose between; a sentence.
        vision: The likeliest vision tower.
        text: The likeliest text tower.
    """
    lines = (f"a line {role} = {_inline(tower)}" for role, tower in (("vision", vision), ("text", text)))
    return ArtifactError(what, f"Say which is meant in a file for --mapping, such as one with {' and '.join(lines)}.")


def _inline(tower: TowerMap) -> str:
    """TOML's inline table."""
    said = {name: value for name, value in msgspec.to_builtins(tower).items() if value is not None}
    return f"{{ {', '.join(f'{name} = {msgspec.json.encode(value).decode()}' for name, value in said.items())} }}"
