"""Files with tensors: what is in them, and each tensor when it is needed. Nothing here can run code."""

from __future__ import annotations

import ast
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Protocol

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...runtime.errors import CheckpointError

# transformers' and PaddleNLP's names, then open_clip's (`HF_SAFETENSORS_WEIGHTS_NAME` in constants.py).
SAFETENSORS: Final = ("model.safetensors", "open_clip_model.safetensors")
_INDEX: Final = "model.safetensors.index.json"
_UNREAD: Final = (".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".pdparams", ".pkl", ".h5")  # most can hold code
_AGAIN: Final = "Download the checkpoint again; compare sizes and hashes with where it comes from."
_NPY_MAGIC: Final = b"\x93NUMPY"  # numpy/lib/format.py
_MAX_HEADER: Final = 65536
_PIECE: Final = 1 << 24
# What zipfile, struct, ast, msgspec and NumPy raise at an archive that is not what it claims to be.
_DAMAGE: Final = (
    OSError,
    EOFError,
    KeyError,
    MemoryError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    msgspec.MsgspecError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
# JAX's bfloat16 has no name in NumPy's format and is written as two opaque bytes.
_NPY_DTYPES: Final = {"<f4": "F32", "<f2": "F16", "|V2": "BF16"}


@dataclass(frozen=True)
class TensorInfo:
    """Where a tensor lies and what it is."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


class Store(Protocol):
    """Tensors by name; nothing is read before it is asked for.

    Attributes:
        tensors: What there is.
    """

    tensors: Mapping[str, TensorInfo]

    def load(self, name: str) -> Tensor:
        """One tensor as it is stored, on the CPU; raises CheckpointError."""


def open_store(folder: Path, *, npz: bool | None = None, open_clip: bool | None = None) -> Store:
    """The weights in a folder.

    Args:
        folder: The checkpoint.
        npz: Whether they are to be an `.npz` file; None takes whichever kind is there.
        open_clip: Whether open_clip's file comes before transformers', likewise.

    Raises:
        CheckpointError: There are none, weights of both kinds, several of one, or a file is damaged.
    """
    there = [name for name in SAFETENSORS if (folder / name).exists()]
    if open_clip is None and len(there) > 1:
        raise CheckpointError(f"{folder} has weights twice: {' and '.join(there)}.", "Name the ones with --dialect.")
    files, archives = _safetensors(folder, open_clip=bool(open_clip)), sorted(folder.glob("*.npz"))
    if npz is None and files and archives:
        raise CheckpointError(
            f"{folder} has weights twice: {files[0].name} and {archives[0].name}.",
            "Name the ones you mean with --dialect, or keep one of them.",
        )
    if archives and (npz or not files):
        if len(archives) > 1:
            raise CheckpointError(f"{folder} has {len(archives)} .npz files.", "Keep the one with the weights.")
        return NpzStore(archives[0])
    if files and not npz:
        return SafetensorsStore(files)
    others = sorted(p.name for p in folder.glob("*") if p.suffix in _UNREAD)
    raise CheckpointError(
        f"{folder} has no {'.npz file' if npz else f'{SAFETENSORS[0]}, {_INDEX}, {SAFETENSORS[1]} or .npz file'}"
        + (f"; {', '.join(others)} may hold code and is not read." if others else "."),
        "Name a folder with safetensors (transformers, PaddleNLP, open_clip) or with big_vision's .npz.",
    )


class SafetensorsStore:
    """Safetensors files. Every access maps its file anew, so the memory in use never grows with the checkpoint."""

    def __init__(self, files: list[Path]) -> None:
        tensors: dict[str, TensorInfo] = {}
        for path in files:
            try:
                with safe_open(path, framework="pt") as file:
                    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  it is no dict
                    for name, part in slices.items():
                        tensors[name] = TensorInfo(path, tuple(part.get_shape()), part.get_dtype())
            except FileNotFoundError as error:
                raise CheckpointError(f"{path} is missing.", _AGAIN) from error
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{path} is truncated or damaged ({error}).", _AGAIN) from error
        self.tensors: Mapping[str, TensorInfo] = tensors

    def load(self, name: str) -> Tensor:
        """One tensor; raises CheckpointError where its file has vanished or changed."""
        path = self.tensors[name].file
        try:
            with safe_open(path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{name} can no longer be read from {path} ({error}).", _AGAIN) from error
        return tensor


@dataclass(frozen=True)
class _Member:
    """An array of an archive: where its bytes begin in the file if they are stored as they are, its dtype and shape."""

    begin: int | None
    header: int
    dtype: str
    shape: tuple[int, ...]
    fortran: bool
    crc: int


class NpzStore:
    """A NumPy archive. What its entries claim to be is checked before anything of that size is allocated."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checked: set[str] = set()
        try:
            with zipfile.ZipFile(path) as archive, path.open("rb") as file:
                entries = {e.filename.removesuffix(".npy"): e for e in archive.infolist() if not e.is_dir()}
                self._members = {name: _member(archive, entry, file) for name, entry in entries.items()}
        except _DAMAGE as error:
            raise CheckpointError(f"{path} is truncated, damaged or no NumPy archive ({error}).", _AGAIN) from error
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(path, m.shape, _NPY_DTYPES.get(m.dtype, m.dtype)) for name, m in self._members.items()
        }

    def load(self, name: str) -> Tensor:
        """One tensor; raises CheckpointError where the file has vanished or changed, or its checksum is wrong."""
        member = self._members[name]
        dtype = np.dtype(np.int16 if member.dtype == "|V2" else member.dtype)
        count = math.prod(member.shape)
        try:
            array = self._array(name, member, dtype, count)
        except _DAMAGE as error:
            raise CheckpointError(f"{name} cannot be read from {self.path} ({error}).", _AGAIN) from error
        array = array.reshape(member.shape[::-1]).T if member.fortran else array.reshape(member.shape)
        tensor = torch.from_numpy(array)
        return tensor.view(torch.bfloat16) if member.dtype == "|V2" else tensor

    def _array(self, name: str, member: _Member, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
        if member.begin is not None:  # copy-on-write, since torch does not take arrays that cannot be written
            self._check(name, member, count * dtype.itemsize)
            return np.memmap(self.path, dtype, "c", member.begin, (count,)) if count else np.empty(0, dtype)
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{name}.npy") as file:
            file.read(member.header)
            return np.frombuffer(bytearray(file.read(count * dtype.itemsize)), dtype, count)

    def _check(self, name: str, member: _Member, size: int) -> None:
        """Compare a stored entry with its checksum, which zipfile does where it reads an entry itself."""
        assert member.begin is not None  # noqa: S101  see _array
        if name in self._checked:
            return
        with self.path.open("rb") as file:
            file.seek(member.begin - member.header)
            found, left = 0, member.header + size
            while left and (piece := file.read(min(left, _PIECE))):
                found, left = zlib.crc32(piece, found), left - len(piece)
        if left or found != member.crc:
            raise ValueError("its checksum is wrong")
        self._checked.add(name)


def _member(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, file: IO[bytes]) -> _Member:
    """What the header of an entry says; ValueError where that is not what the entry holds."""
    with archive.open(entry) as content:
        magic = content.read(8)
        wide = magic[6:7] != b"\x01"
        size = struct.unpack("<I" if wide else "<H", content.read(4 if wide else 2))[0]
        if magic[:6] != _NPY_MAGIC or size > _MAX_HEADER:
            raise ValueError(f"{entry.filename} is no array")
        header = ast.literal_eval(content.read(size).decode("latin1"))
    dtype, shape, fortran = msgspec.convert((header["descr"], header["shape"], header["fortran_order"]), _Header)
    length = 8 + (4 if wide else 2) + size
    width = 2 if dtype == "|V2" else np.dtype(dtype).itemsize
    if math.prod(shape) * width != entry.file_size - length or "O" in dtype or min(shape, default=0) < 0:
        raise ValueError(f"{entry.filename} is not the array of {dtype} {list(shape)} that it claims to be")
    begin = _stored_at(entry, file) + length if entry.compress_type == zipfile.ZIP_STORED else None
    return _Member(begin, length, dtype, shape, fortran, entry.CRC)


_Header = tuple[str, tuple[int, ...], bool]


def _stored_at(entry: zipfile.ZipInfo, file: IO[bytes]) -> int:
    """Where the content of an entry begins: behind its local header, whose names have lengths of their own."""
    file.seek(entry.header_offset + 26)  # APPNOTE.TXT, 4.3.7
    name, extra = struct.unpack("<HH", file.read(4))
    return int(entry.header_offset + 30 + name + extra)


def _safetensors(folder: Path, *, open_clip: bool) -> list[Path]:
    for name in SAFETENSORS[::-1] if open_clip else SAFETENSORS:
        if (folder / name).exists():
            return [folder / name]
    if not (folder / _INDEX).exists():
        return []
    try:
        index = msgspec.json.decode((folder / _INDEX).read_bytes(), type=dict[str, Any])
        names = sorted(set(msgspec.convert(index.get("weight_map"), dict[str, str]).values()))
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{folder / _INDEX} is damaged ({error}).", _AGAIN) from error
    if outside := [name for name in names if Path(name).name != name]:
        raise CheckpointError(f"{folder / _INDEX} names {outside[0]!r}, which is outside its folder.", _AGAIN)
    return [folder / name for name in names]
