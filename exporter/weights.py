"""A checkpoint's safetensors: which tensors there are, whether they fit the model, and each one when it is needed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..runtime.errors import CheckpointError

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES: Final = frozenset({"F32", "F16", "BF16"})
# Buffers that older versions of transformers stored along; they only count up from zero.
_IGNORED: Final = ("embeddings.position_ids",)
_AGAIN: Final = "Download the checkpoint again; compare sizes and hashes with where it comes from."


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies and what it is."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Weights:
    """Tensors of a checkpoint by name; nothing is read before it is asked for.

    Every access maps its file anew and lets go of it, so the memory in use never grows with the checkpoint.
    """

    tensors: Mapping[str, TensorInfo]

    @classmethod
    def open(cls, folder: Path) -> Weights:
        """Read the headers of `model.safetensors`, or of all the files that its index lists.

        Raises:
            CheckpointError: A file is missing or damaged.
        """
        tensors: dict[str, TensorInfo] = {}
        for file in _files(folder):
            tensors |= _header(file)
        return cls(tensors)

    def load(self, name: str) -> Tensor:
        """One tensor, float32, on the CPU.

        Raises:
            CheckpointError: Its file has vanished or changed since it was opened.
        """
        path = self.tensors[name].file
        try:
            with safe_open(path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{name} can no longer be read from {path} ({error}).", _AGAIN) from error
        return tensor.to(torch.float32)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors once they are float32."""
        return sum(4 * torch.Size(info.shape).numel() for info in self.tensors.values())

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that the tensors lie in."""
        return tuple(sorted({info.file for info in self.tensors.values()}))

    def check(self, expected: Mapping[str, tuple[int, ...]]) -> None:
        """Compare names, shapes and dtypes with what the config asks for.

        Raises:
            CheckpointError: They differ; the message lists what is missing, unexpected or wrong.
        """
        found = {name: info for name, info in self.tensors.items() if not name.endswith(_IGNORED)}
        wrong = [
            f"{name} is {list(found[name].shape)} where {list(shape)} is due"
            for name, shape in expected.items()
            if name in found and found[name].shape != shape
        ]
        dtypes = [f"{name} is {info.dtype}" for name, info in found.items() if info.dtype not in _DTYPES]
        problems = [
            _listed("missing", [n for n in expected if n not in found]),
            _listed("unexpected", [n for n in found if n not in expected]),
            _listed("wrong in shape", wrong),
            _listed("of an unusable type", dtypes),
        ]
        if any(problems):
            raise CheckpointError(
                f"The tensors in {', '.join(map(str, self.files))} do not fit config.json. "
                + " ".join(p for p in problems if p),
                "Check that config.json and the weights belong together, and that both are a SiglipModel's.",
            )


def _listed(kind: str, items: list[str]) -> str:
    more = f" and {len(items) - 5} more" if len(items) > 5 else ""
    return f"{len(items)} {kind}: {', '.join(items[:5])}{more}." if items else ""


def _files(folder: Path) -> Iterable[Path]:
    if (folder / _SINGLE).exists():
        return [folder / _SINGLE]
    if not (folder / _INDEX).exists():
        others = sorted(p.name for p in folder.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".ckpt", ".msgpack"))
        raise CheckpointError(
            f"{folder} has neither {_SINGLE} nor {_INDEX}"
            + (f"; {', '.join(others)} may hold code and is not read." if others else "."),
            "Name a folder with safetensors weights, as transformers' save_pretrained writes them.",
        )
    try:
        index = msgspec.json.decode((folder / _INDEX).read_bytes(), type=dict[str, Any])
        names = sorted(set(msgspec.convert(index.get("weight_map"), dict[str, str]).values()))
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{folder / _INDEX} is damaged ({error}).", _AGAIN) from error
    if outside := [name for name in names if Path(name).name != name]:
        raise CheckpointError(f"{folder / _INDEX} names {outside[0]!r}, which is outside its folder.", _AGAIN)
    return [folder / name for name in names]


def _header(path: Path) -> dict[str, TensorInfo]:
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  it is no dict
            return {n: TensorInfo(path, tuple(s.get_shape()), s.get_dtype()) for n, s in slices.items()}
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} is missing.", _AGAIN) from error
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error}).", _AGAIN) from error
