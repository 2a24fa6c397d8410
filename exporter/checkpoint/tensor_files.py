"""Weight files: names, shapes and types of all tensors, and each tensor on demand. No file can execute code."""

from __future__ import annotations

import io
import math
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, Protocol

import msgspec
import numpy as np
import numpy.lib.format as npy
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...runtime.arrays import AnyArray
from ...runtime.errors import CheckpointError

# transformers' and PaddleNLP's names, then open_clip's (`HF_SAFETENSORS_WEIGHTS_NAME` in constants.py).
SAFETENSORS: Final = ("model.safetensors", "open_clip_model.safetensors")
_INDEX: Final = "model.safetensors.index.json"
_REFUSED: Final = (".bin", ".pt", ".pth", ".ckpt", ".msgpack", ".pdparams", ".pkl", ".h5")  # most can hold code
_DOWNLOAD: Final = "Download the checkpoint again; compare sizes and hashes with the source."
_MAX_HEADER: Final = 65536  # bytes of an array's header that are read at most
_CHUNK: Final = 1 << 24
# Errors of zipfile, struct, tokenize, msgspec and NumPy for a damaged or forged archive.
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
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
_BFLOAT16: Final = "|V2"  # NumPy's format has no name for JAX's bfloat16, which is written as two opaque bytes
_NPY_DTYPES: Final = {"<f4": "F32", "<f2": "F16", _BFLOAT16: "BF16"}


@dataclass(frozen=True)
class TensorInfo:
    """File, shape and type of a tensor; the type is named as in safetensors, such as F32 or BF16."""

    file: Path
    shape: tuple[int, ...]
    dtype: str


class TensorStore(Protocol):
    """Tensors by name, read on demand.

    Attributes:
        tensors: File, shape and type of every tensor.
    """

    tensors: Mapping[str, TensorInfo]

    def load(self, name: str) -> Tensor:
        """Read one tensor as it is stored, on the CPU; raises CheckpointError."""


def open_store(folder: Path, *, npz: bool | None = None, open_clip: bool | None = None) -> TensorStore:
    """Open the weights in a folder.

    Args:
        folder: The checkpoint.
        npz: True for the `.npz` file, False for safetensors; None for whichever exists.
        open_clip: True prefers open_clip's file, False transformers'; None accepts whichever exists.

    Raises:
        CheckpointError: There are no weights, weights of both kinds, several archives, or a file is damaged.
    """
    names = [name for name in SAFETENSORS if (folder / name).exists()]
    if open_clip is None and len(names) > 1:
        raise _ambiguous(folder, *names)
    files, archives = _safetensors(folder, open_clip=bool(open_clip)), sorted(folder.glob("*.npz"))
    if npz is None and files and archives:
        raise _ambiguous(folder, files[0].name, archives[0].name)
    if archives and (npz or not files):
        if len(archives) > 1:
            raise CheckpointError(
                f"{folder} has {len(archives)} .npz files, expected one.", "Keep only the one with the weights."
            )
        return NpzStore(archives[0])
    if files and not npz:
        return SafetensorsStore(files)
    raise _no_weights(folder, ".npz file" if npz else f"{SAFETENSORS[0]}, {_INDEX}, {SAFETENSORS[1]} or .npz file")


def _ambiguous(folder: Path, first: str, second: str) -> CheckpointError:
    return CheckpointError(
        f"{folder} has two sets of weights: {first} and {second}.",
        "Choose one by its dialect, or keep only one of them.",
    )


def _no_weights(folder: Path, expected: str) -> CheckpointError:
    refused = sorted(path.name for path in folder.glob("*") if path.suffix in _REFUSED)
    return CheckpointError(
        f"{folder} has no {expected}" + (f"; {', '.join(refused)} may hold code and is not read." if refused else "."),
        "Name a folder with safetensors (transformers, PaddleNLP, open_clip) or with big_vision's .npz.",
    )


class SafetensorsStore:
    """Safetensors files. Every access maps the file again, so memory use does not grow with the checkpoint."""

    def __init__(self, files: list[Path]) -> None:
        tensors: dict[str, TensorInfo] = {}
        for path in files:
            try:
                with safe_open(path, framework="pt") as file:
                    slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  not a dict
                    for name, part in slices.items():
                        tensors[name] = TensorInfo(path, tuple(part.get_shape()), part.get_dtype())
            except FileNotFoundError as error:
                raise CheckpointError(f"{path} is missing.", _DOWNLOAD) from error
            except (OSError, SafetensorError) as error:
                raise CheckpointError(f"{path} is truncated or damaged ({error}).", _DOWNLOAD) from error
        self.tensors: Mapping[str, TensorInfo] = tensors

    def load(self, name: str) -> Tensor:
        """Read one tensor; raises CheckpointError if its file was removed or changed."""
        path = self.tensors[name].file
        try:
            with safe_open(path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{name} can no longer be read from {path} ({error}).", _DOWNLOAD) from error
        return tensor


@dataclass(frozen=True)
class _NpyEntry:
    """An array in an archive.

    Attributes:
        begin: Offset of its data in the archive file; None if it is compressed.
        header: Bytes before the data.
        dtype: NumPy's type string, such as <f4.
        shape: Its dimensions.
        fortran: Whether the first index varies fastest.
        crc: CRC-32 of header and data.
    """

    begin: int | None
    header: int
    dtype: str
    shape: tuple[int, ...]
    fortran: bool
    crc: int


class NpzStore:
    """A NumPy archive. The header of each entry is checked against the entry's size before memory is allocated."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checked: set[str] = set()
        try:
            with zipfile.ZipFile(path) as archive, path.open("rb") as file:
                entries = {e.filename.removesuffix(".npy"): e for e in archive.infolist() if not e.is_dir()}
                self._entries = {name: _read_entry(archive, entry, file) for name, entry in entries.items()}
        except _DAMAGE as error:
            raise CheckpointError(
                f"{path} is truncated, damaged or not a NumPy archive ({error}).", _DOWNLOAD
            ) from error
        self.tensors: Mapping[str, TensorInfo] = {
            name: TensorInfo(path, m.shape, _NPY_DTYPES.get(m.dtype, m.dtype)) for name, m in self._entries.items()
        }

    def load(self, name: str) -> Tensor:
        """Read one tensor; raises CheckpointError if the file was removed or changed, or its checksum is wrong."""
        entry = self._entries[name]
        dtype = np.dtype(np.int16 if entry.dtype == _BFLOAT16 else entry.dtype)
        try:
            array = self._array(name, entry, dtype)
        except _DAMAGE as error:
            raise CheckpointError(f"{name} cannot be read from {self.path} ({error}).", _DOWNLOAD) from error
        array = array.reshape(entry.shape[::-1]).T if entry.fortran else array.reshape(entry.shape)
        tensor = torch.from_numpy(array)
        return tensor.view(torch.bfloat16) if entry.dtype == _BFLOAT16 else tensor

    def _array(self, name: str, entry: _NpyEntry, dtype: np.dtype[Any]) -> AnyArray:
        count = math.prod(entry.shape)
        if entry.begin is not None:
            self._check(name, entry, entry.begin, count * dtype.itemsize)
            # "c" is copy-on-write, because torch does not accept read-only arrays
            return np.memmap(self.path, dtype, "c", entry.begin, (count,)) if count else np.empty(0, dtype)
        with zipfile.ZipFile(self.path) as archive, archive.open(f"{name}.npy") as file:
            file.read(entry.header)
            return np.frombuffer(bytearray(file.read(count * dtype.itemsize)), dtype, count)

    def _check(self, name: str, entry: _NpyEntry, begin: int, size: int) -> None:
        """Check the CRC of an uncompressed entry, which is mapped without zipfile."""
        if name in self._checked:
            return
        with self.path.open("rb") as file:
            file.seek(begin - entry.header)
            crc, remaining = 0, entry.header + size
            while remaining and (chunk := file.read(min(remaining, _CHUNK))):
                crc, remaining = zlib.crc32(chunk, crc), remaining - len(chunk)
        if remaining or crc != entry.crc:
            raise ValueError("its checksum is wrong")
        self._checked.add(name)


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, file: IO[bytes]) -> _NpyEntry:
    """Read the header of an entry; ValueError if its size does not fit the entry's, or it holds Python objects."""
    with archive.open(entry) as content:
        shape, fortran, dtype, length = _npy_header(content.read(_MAX_HEADER))
    opaque = dtype.hasobject or dtype.names is not None or dtype.subdtype is not None
    size = math.prod(shape) * dtype.itemsize
    if opaque or min(shape, default=0) < 0 or size != entry.file_size - length:
        raise ValueError(f"{entry.filename} is not the array of {dtype} {list(shape)} that its header describes")
    begin = _data_offset(entry, file) + length if entry.compress_type == zipfile.ZIP_STORED else None
    return _NpyEntry(begin, length, dtype.str, shape, fortran, entry.CRC)


def _npy_header(start: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Parse the start of an npy file: shape, Fortran order, dtype and length of the header."""
    stream = io.BytesIO(start)
    major, _ = npy.read_magic(stream)
    read = npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0
    with warnings.catch_warnings(action="ignore"):  # NumPy warns about headers written by Python 2
        shape, fortran, dtype = read(stream, max_header_size=_MAX_HEADER)
    return shape, fortran, dtype, stream.tell()


def _data_offset(entry: zipfile.ZipInfo, file: IO[bytes]) -> int:
    """Offset of an entry's content, after its local header, whose name and extra field vary in length."""
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
        raise CheckpointError(f"{folder / _INDEX} is damaged ({error}).", _DOWNLOAD) from error
    if outside := [name for name in names if Path(name).name != name]:
        raise CheckpointError(f"{folder / _INDEX} names {outside[0]!r}, which is outside its folder.", _DOWNLOAD)
    return [folder / name for name in names]
