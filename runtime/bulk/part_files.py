"""The output while it grows: parts beside it, whole or absent, from which the output is put together at the end.

Items are cut into chunks of equal size, numbered from 0. A part is a parquet file of whole chunks, one row group each;
it is written beside its place and renamed into it. So whenever the work is stopped, each chunk is done or not, and the
next run does those that are not. Every chunk carries a digest of its items' names, by which the next run notices that
the inputs are other ones.
"""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from ..data.parquet import import_pyarrow
from ..errors import InputError
from ..files import write_file
from ..preprocessing.prefetch import batched
from .embeddings_file import METADATA_KEY, ROW_GROUP, About, schema
from .inputs import Inputs, Item

CHUNK: Final = 32  # items in a chunk, unless a batch is larger
PART_ROWS: Final = 4096  # a part is written when it has so many rows (16 MB at 1024 numbers), if not before
_CHUNKS_KEY: Final = b"siglip_onnx_chunks"
_JOB: Final = "job.json"


@dataclass(frozen=True)
class Chunk:
    """Items that are embedded together."""

    number: int
    items: tuple[Item, ...]

    @property
    def digest(self) -> str:
        """What tells its items from others: 16 hex digits over their names."""
        names = (text for item in self.items for text in (item.id, item.mtime_key))
        return hashlib.sha256("\0".join(names).encode("utf-8", "backslashreplace")).hexdigest()[:16]


DoneChunk = tuple[int, str, Any]  # its number, the digest of its items, and its rows as a table


@dataclass(frozen=True)
class _Place:
    part: Path
    row_group: int
    digest: str
    rows: int


class Parts:
    """The parts of one output; a context manager that holds the lock on them.

    Args:
        output: The file that they become.
        job: All that decides what its rows are; parts of another job are not taken.
        about: What the output will say of itself.
        save_every: Seconds after which a part is written.
        restart: Forget what was begun.
        size: Items in a chunk; it decides which rows share a batch.

    Raises:
        InputError: Another process writes this output, parts of another job are in the way, or nothing can be written.
    """

    def __init__(
        self,
        output: Path,
        job: dict[str, Any],
        about: About,
        save_every: float = 30.0,
        *,
        restart: bool = False,
        size: int = CHUNK,
    ) -> None:
        self.output, self.about, self._save_every = output, about, save_every
        self._restart, self._size = restart, size
        self.folder = output.with_name(output.name + ".parts")
        self._job = msgspec.json.format(msgspec.json.encode(job | {"chunk": size}), indent=2)
        # Digest and rows of each chunk, and not its items, which may be large.
        self._waiting: dict[int, tuple[str, Any]] = {}
        self._rows, self._written = 0, time.monotonic()

    def __enter__(self) -> Parts:
        with _writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.folder / "lock")
            try:
                self._tidy()
                self._same_job()
                self._done = {number: place for part in self._files() for number, place in _chunks(part).items()}
            except BaseException:
                self._lock.close()
                raise
        return self

    def __exit__(self, *failure: object) -> None:
        if not self._files():
            self._remove()  # nothing was done that could be gone on with
        self._lock.close()

    @property
    def rows(self) -> int:
        """Rows that are done."""
        return sum(place.rows for place in self._done.values())

    def missing(self, inputs: Inputs) -> Missing:
        """The chunks of the inputs that are not done."""
        done = {number: (place.digest, place.rows) for number, place in self._done.items()}
        return Missing(inputs, done, self._size)

    def add(self, number: int, digest: str, table: Any) -> None:
        """Take up the rows of a chunk; a part is written when it is large or old enough.

        Raises:
            InputError: There is no room, or the folder cannot be written.
        """
        self._waiting[number] = digest, table
        self._rows += len(table)
        if self._rows >= PART_ROWS or time.monotonic() - self._written >= self._save_every:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if not self._waiting:
            return
        part = self.folder / f"part-{min(self._waiting):09}-{max(self._waiting):09}.parquet"
        digests = {number: digest for number, (digest, _) in self._waiting.items()}
        with _writing(part):
            write_file(part, _encoded([table for _, table in self._waiting.values()], digests))
        self._done |= _chunks(part)
        self._waiting, self._rows, self._written = {}, 0, time.monotonic()

    def finish(self) -> About:
        """Put the parts together into the output, in the order of the items, and remove them.

        Raises:
            InputError: There is no room, or the folder cannot be written.
        """
        self.flush()
        partial = self.output.with_name(f"{self._partial}{os.getpid()}")
        try:
            with _writing(self.output):
                about = self._merge(partial)
                os.replace(partial, self.output)
        finally:
            partial.unlink(missing_ok=True)
        self._remove()
        return about

    @property
    def _partial(self) -> str:
        return f".{self.output.name}.partial-"

    def _tidy(self) -> None:
        """Remove what a killed process left, since we hold the lock; and all that was begun, if that is wanted."""
        for leftover in (*self.folder.glob(".*.partial-*"), *self.output.parent.glob(f"{glob.escape(self._partial)}*")):
            leftover.unlink(missing_ok=True)
        if self._restart:
            self._forget()

    def _remove(self) -> None:
        """Remove the folder while its lock is held, except where the system does not let an open file go."""
        self._forget()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()
        if os.name == "nt":
            shutil.rmtree(self.folder, ignore_errors=True)

    def _forget(self) -> None:
        (self.folder / _JOB).unlink(missing_ok=True)
        for part in self._files():
            part.unlink(missing_ok=True)

    def _merge(self, partial: Path) -> About:
        """Write every row, in order, and how many of them have an error or were cut."""
        arrow, _ = import_pyarrow()
        rows = errors = cut = 0
        with partial.open("wb") as file:
            with _writer(file, schema(self.about)) as writer:
                waiting: list[Any] = []
                for table in self._tables():
                    waiting.append(table)
                    rows += len(table)
                    errors += len(table) - table.column("error").null_count
                    cut += sum(table.column("cut").to_pylist()) if "cut" in table.column_names else 0
                    if sum(len(t) for t in waiting) >= ROW_GROUP:
                        writer.write_table(arrow.concat_tables(waiting).combine_chunks(), ROW_GROUP)
                        waiting = []
                if waiting:
                    writer.write_table(arrow.concat_tables(waiting).combine_chunks(), ROW_GROUP)
                about = replace(self.about, rows=rows, errors=errors, cut=cut)
                writer.add_key_value_metadata({METADATA_KEY: msgspec.json.encode(about)})
            file.flush()
            os.fsync(file.fileno())
        return about

    def _tables(self) -> Iterator[Any]:
        """The rows of every chunk in order; one part is open at a time."""
        _, parquet = import_pyarrow()
        opened: tuple[Path, Any] | None = None
        for number in sorted(self._done):
            place = self._done[number]
            if opened is None or opened[0] != place.part:
                if opened is not None:
                    opened[1].close()
                opened = place.part, parquet.ParquetFile(place.part)
            yield opened[1].read_row_group(place.row_group)
        if opened is not None:
            opened[1].close()

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.parquet"))

    def _same_job(self) -> None:
        file = self.folder / _JOB
        if not file.exists():
            write_file(file, self._job)
            return
        before, now = (msgspec.json.decode(data) for data in (file.read_bytes(), self._job))
        if before != now:
            other = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
            raise InputError(
                f"{self.folder} holds the beginning of another job ({', '.join(other)} differ).",
                "Name another output, finish that job as it was begun, or forget it with --restart.",
            )


@dataclass(frozen=True)
class Missing:
    """The chunks that are not done, in order; it may be sent to another process.

    Attributes:
        inputs: All items.
        done: Digest and length of every chunk that is done.
        size: Items in a chunk.
    """

    inputs: Inputs
    done: dict[int, tuple[str, int]]
    size: int = CHUNK

    def __iter__(self) -> Iterator[Chunk]:
        """List the inputs.

        Raises:
            InputError: They are not what they were when the job was begun.
        """
        count = 0
        for count, batch in enumerate(batched(self.inputs, self.size), 1):
            chunk = Chunk(count - 1, tuple(batch))
            if chunk.number not in self.done:
                yield chunk
            elif self.done[chunk.number] != (chunk.digest, len(chunk.items)):
                first = self.size * chunk.number
                raise _changed(f"item {first} to {first + self.done[chunk.number][1]} are others")
        if any(number >= count for number in self.done):
            raise _changed("there are fewer now")


def _changed(what: str) -> InputError:
    return InputError(
        f"The inputs changed since this job was begun: {what}.", "Restore them, or start anew with --restart."
    )


def _writer(file: IO[bytes] | Any, fields: Any) -> Any:
    """Names and texts are compressed; vectors are noise, to which that does nothing."""
    _, parquet = import_pyarrow()
    names = [field.name for field in fields]
    compressed = {name: "zstd" if name in ("id", "text", "error") else "none" for name in names}
    compressed["embedding.list.element"] = "none"
    return parquet.ParquetWriter(file, fields, compression=compressed, use_dictionary=False)


def _encoded(tables: list[Any], digests: dict[int, str]) -> bytes:
    arrow, _ = import_pyarrow()
    sink = arrow.BufferOutputStream()
    with _writer(sink, tables[0].schema) as writer:
        for table in tables:
            writer.write_table(table)
        writer.add_key_value_metadata({_CHUNKS_KEY: msgspec.json.encode(digests)})
    return bytes(sink.getvalue())


def _chunks(part: Path) -> dict[int, _Place]:
    """Where the chunks of a part are."""
    arrow, parquet = import_pyarrow()
    try:
        metadata = parquet.read_metadata(part)
        digests = msgspec.json.decode(metadata.metadata[_CHUNKS_KEY], type=dict[int, str])
    except (OSError, KeyError, TypeError, arrow.ArrowException, msgspec.DecodeError) as error:
        raise InputError(f"{part} is damaged ({error}).", "Remove it; its rows are then made again.") from error
    return {
        number: _Place(part, group, digest, metadata.row_group(group).num_rows)
        for group, (number, digest) in enumerate(digests.items())
    }


def _locked(path: Path) -> IO[bytes]:
    """A file that one process at a time may hold; the system lets go of it when the process ends, however it ends."""
    file = path.open("ab")
    try:
        if os.name == "nt":
            import msvcrt

            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise InputError(
            f"Another process is writing the output that {path.parent} belongs to.", "Wait for it, or end it."
        ) from error
    return file


class _writing:  # noqa: N801  used like a function
    """Turns what the system says when it cannot write into an error for the user."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise InputError(
                f"{self._path} cannot be written ({error.strerror or error}).",
                "What was done is kept: make room, or make the folder writable, and run the same command again.",
            ) from error
