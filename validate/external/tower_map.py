"""Tower map: a TOML file that says which file of an external model is which tower.

precision = "fp32"         # optional

[vision]
file = "a.onnx"            # relative to the model's folder
input = "image"            # this and the next two are needed only if there are several candidates
embedding = "out"
normalized = false         # whether the graph scales the embedding to length 1

[text]
file = "b.onnx"
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import msgspec

from ...runtime.artifact.contract import Precision, Role
from ...runtime.errors import ArtifactError, InputError


class TowerFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tower; a field that is None is detected.

    Attributes:
        file: Its graph, relative to the model's folder.
        input: Name of the input for pixels or ids.
        embedding: Name of the output with the embedding.
        normalized: Whether the graph scales the embedding to length 1.
    """

    file: str
    input: str | None = None
    embedding: str | None = None
    normalized: bool | None = None


class TowerMap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Both towers, in one file or two.

    Attributes:
        vision: The vision tower.
        text: The text tower.
        precision: Precision whose limits apply; None detects it from the graphs.
    """

    vision: TowerFile
    text: TowerFile
    precision: Precision | None = None

    @property
    def towers(self) -> dict[Role, TowerFile]:
        """Each tower by its role."""
        return {Role.VISION: self.vision, Role.TEXT: self.text}


def read_tower_map(path: Path) -> TowerMap:
    """Read a tower map.

    Raises:
        InputError: The file is missing or not TOML, lacks a tower, or has an unknown name or a bad value.
    """
    try:
        return msgspec.convert(tomllib.loads(path.read_bytes().decode()), TowerMap)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise InputError(
            f"The tower map {path} cannot be read ({error}).", "See docs/external-models.md for its form."
        ) from error


def ambiguous(message: str, vision: TowerFile, text: TowerFile) -> ArtifactError:
    """The error for several candidates, with a tower map to start from.

    Args:
        message: The candidates, in a sentence.
        vision: The likeliest vision tower.
        text: The likeliest text tower.
    """
    lines = (f"a line {role} = {_inline(tower)}" for role, tower in (("vision", vision), ("text", text)))
    return ArtifactError(message, f"Choose in a tower map (--tower-map), for example with {' and '.join(lines)}.")


def _inline(tower: TowerFile) -> str:
    """A TOML inline table."""
    fields = {name: value for name, value in msgspec.to_builtins(tower).items() if value is not None}
    return f"{{ {', '.join(f'{name} = {msgspec.json.encode(value).decode()}' for name, value in fields.items())} }}"
