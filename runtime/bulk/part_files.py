"""Part files beside the output, from which the output is merged at the end.

Items are divided into chunks of equal size, numbered from 0. A part is a parquet file of complete chunks, one row group
each, and is written atomically. So after any interruption each chunk is either done or missing, and the next run embeds
the missing ones. Every chunk carries a digest of its items' names, by which the next run detects that the inputs
changed.
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
PART_ROWS: Final = 4096  # a part is written with this many rows at the latest (16 MB at 1024 numbers of float32)
_CHUNKS_KEY: Final = b"siglip_onnx_chunks"
_JOB: Final = "job.json"


@dataclass(frozen=True)
class Chunk:
    """Items that are embedded together."""

    number: int
    items: tuple[Item, ...]

    @property
    def digest(self) -> str:
        """16 hex digits that identify the items, by name and modification time."""
        names = (text for item in self.items for text in (item.id, item.mtime_key))
        return hashlib.sha256("\0".join(names).encode("utf-8", "backslashreplace")).hexdigest()[:16]


@dataclass(frozen=True)
class DoneChunk:
    """An embedded chunk: its number, the digest of its items, and its rows as an Arrow table."""

    number: int
    digest: str
    rows: Any


@dataclass(frozen=True)
class _StoredChunk:
    """Where a chunk is stored: its row group in a part, with the digest and number of its rows."""

    part: Path
    row_group: int
    digest: str
    rows: int


class Parts:
    """The parts of one output; a context manager that holds a lock on them.

    Args:
        output: The file that the parts become.
        job: Everything that decides what the rows are; parts of another job are refused.
        about: The metadata of the output.
        checkpoint_interval: Seconds after which a part is written.
        resume: Continue with existing parts; False deletes them.
        size: Items in a chunk; it decides which rows share a batch.

    Raises:
        InputError: Another process writes this output, parts of another job are in the way, or the folder cannot be
            written.
    """

    def __init__(
        self,
        output: Path,
        job: dict[str, Any],
        about: About,
        checkpoint_interval: float = 30.0,
        *,
        resume: bool = True,
        size: int = CHUNK,
    ) -> None:
        self.output, self.about, self._checkpoint_interval = output, about, checkpoint_interval
        self._resume, self._size = resume, size
        self.folder = output.with_name(output.name + ".parts")
        self._job = msgspec.json.format(msgspec.json.encode(job | {"chunk": size}), indent=2)
        self._unwritten: dict[int, DoneChunk] = {}
        self._unwritten_rows, self._written = 0, time.monotonic()

    def __enter__(self) -> Parts:
        with _writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(self.folder / "lock")
            try:
                self._delete_leftovers()
                self._check_job()
                self._done = {number: chunk for part in self._files() for number, chunk in _chunks(part).items()}
            except BaseException:
                self._lock.close()
                raise
        return self

    def __exit__(self, *failure: object) -> None:
        if not self._files():
            self._remove()  # there is nothing to resume
        self._lock.close()

    @property
    def rows(self) -> int:
        """The number of rows in parts."""
        return sum(chunk.rows for chunk in self._done.values())

    def missing(self, inputs: Inputs) -> Missing:
        """The chunks of the inputs that are not done."""
        done = {number: (chunk.digest, chunk.rows) for number, chunk in self._done.items()}
        return Missing(inputs, done, self._size)

    def add(self, chunk: DoneChunk) -> None:
        """Add a chunk; a part is written when it is large or old enough.

        Raises:
            InputError: The disk is full, or the folder cannot be written.
        """
        self._unwritten[chunk.number] = chunk
        self._unwritten_rows += len(chunk.rows)
        due = time.monotonic() - self._written >= self._checkpoint_interval
        if due or self._unwritten_rows >= PART_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write the chunks that are not yet in a part; errors as of `add`."""
        if not self._unwritten:
            return
        part = self.folder / f"part-{min(self._unwritten):09}-{max(self._unwritten):09}.parquet"
        with _writing(part):
            write_file(part, _encode(list(self._unwritten.values())))
        self._done |= _chunks(part)
        self._unwritten, self._unwritten_rows, self._written = {}, 0, time.monotonic()

    def finish(self) -> About:
        """Merge the parts into the output, in the order of the items, and delete them.

        Raises:
            InputError: The disk is full, or the folder cannot be written.
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

    def _delete_leftovers(self) -> None:
        """Delete temporary files of killed processes, which is safe under the lock; and parts that are not resumed."""
        for leftover in (*self.folder.glob(".*.partial-*"), *self.output.parent.glob(f"{glob.escape(self._partial)}*")):
            leftover.unlink(missing_ok=True)
        if not self._resume:
            self._delete_parts()

    def _remove(self) -> None:
        """Delete the folder while its lock is held; Windows deletes the lock file only after it is closed."""
        self._delete_parts()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.close()
        if os.name == "nt":
            shutil.rmtree(self.folder, ignore_errors=True)

    def _delete_parts(self) -> None:
        (self.folder / _JOB).unlink(missing_ok=True)
        for part in self._files():
            part.unlink(missing_ok=True)

    def _merge(self, partial: Path) -> About:
        """Write every row, in order; the metadata has the numbers of rows, errors and truncated texts."""
        arrow, _ = import_pyarrow()
        rows = errors = truncated = 0
        with partial.open("wb") as file:
            with _writer(file, schema(self.about)) as writer:
                pending: list[Any] = []
                for table in self._tables():
                    pending.append(table)
                    rows += len(table)
                    errors += len(table) - table.column("error").null_count
                    truncated += sum(table.column("truncated").to_pylist()) if "truncated" in table.column_names else 0
                    if sum(len(t) for t in pending) >= ROW_GROUP:
                        writer.write_table(arrow.concat_tables(pending).combine_chunks(), ROW_GROUP)
                        pending = []
                if pending:
                    writer.write_table(arrow.concat_tables(pending).combine_chunks(), ROW_GROUP)
                about = replace(self.about, rows=rows, errors=errors, truncated=truncated)
                writer.add_key_value_metadata({METADATA_KEY: msgspec.json.encode(about)})
            file.flush()
            os.fsync(file.fileno())
        return about

    def _tables(self) -> Iterator[Any]:
        """The rows of every chunk in order; one part is open at a time."""
        _, parquet = import_pyarrow()
        opened: tuple[Path, Any] | None = None
        for number in sorted(self._done):
            chunk = self._done[number]
            if opened is None or opened[0] != chunk.part:
                if opened is not None:
                    opened[1].close()
                opened = chunk.part, parquet.ParquetFile(chunk.part)
            yield opened[1].read_row_group(chunk.row_group)
        if opened is not None:
            opened[1].close()

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob("part-*.parquet"))

    def _check_job(self) -> None:
        file = self.folder / _JOB
        if not file.exists():
            write_file(file, self._job)
            return
        before, now = (msgspec.json.decode(data) for data in (file.read_bytes(), self._job))
        if before != now:
            different = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
            raise InputError(
                f"{self.folder} holds an unfinished job with different settings ({', '.join(different)}).",
                "Name another output, finish that job with its settings, or discard it with --no-resume.",
            )


@dataclass(frozen=True)
class Missing:
    """The chunks that are not done, in order; can be sent to another process.

    Attributes:
        inputs: All items.
        done: Digest and number of rows of every chunk that is done.
        size: Items in a chunk.
    """

    inputs: Inputs
    done: dict[int, tuple[str, int]]
    size: int = CHUNK

    def __iter__(self) -> Iterator[Chunk]:
        """List the inputs.

        Raises:
            InputError: The inputs changed since the job began.
        """
        count = 0
        for count, batch in enumerate(batched(self.inputs, self.size), 1):
            chunk = Chunk(count - 1, tuple(batch))
            if chunk.number not in self.done:
                yield chunk
            elif self.done[chunk.number] != (chunk.digest, len(chunk.items)):
                first = self.size * chunk.number
                raise _changed(f"items {first} to {first + self.done[chunk.number][1] - 1} are different")
        if any(number >= count for number in self.done):
            raise _changed("there are fewer items")


def _changed(change: str) -> InputError:
    return InputError(
        f"The inputs changed since this job began: {change}.", "Restore them, or start again with --no-resume."
    )


def _writer(file: IO[bytes] | Any, fields: Any) -> Any:
    """A parquet writer that compresses names and texts, but not vectors, which compression does not make smaller."""
    _, parquet = import_pyarrow()
    names = [field.name for field in fields]
    compressed = {name: "zstd" if name in ("id", "text", "error") else "none" for name in names}
    compressed["embedding.list.element"] = "none"
    return parquet.ParquetWriter(file, fields, compression=compressed, use_dictionary=False)


def _encode(chunks: list[DoneChunk]) -> bytes:
    arrow, _ = import_pyarrow()
    sink, digests = arrow.BufferOutputStream(), {chunk.number: chunk.digest for chunk in chunks}
    with _writer(sink, chunks[0].rows.schema) as writer:
        for chunk in chunks:
            writer.write_table(chunk.rows)
        writer.add_key_value_metadata({_CHUNKS_KEY: msgspec.json.encode(digests)})
    return bytes(sink.getvalue())


def _chunks(part: Path) -> dict[int, _StoredChunk]:
    """The chunks of a part by number."""
    arrow, parquet = import_pyarrow()
    try:
        metadata = parquet.read_metadata(part)
        digests = msgspec.json.decode(metadata.metadata[_CHUNKS_KEY], type=dict[int, str])
    except (OSError, KeyError, TypeError, arrow.ArrowException, msgspec.DecodeError) as error:
        raise InputError(f"{part} is damaged ({error}).", "Delete it; its rows are then embedded again.") from error
    return {
        number: _StoredChunk(part, group, digest, metadata.row_group(group).num_rows)
        for group, (number, digest) in enumerate(digests.items())
    }


def _locked(path: Path) -> IO[bytes]:
    """Lock a file; the system releases the lock when the process ends, even if it is killed."""
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
            f"Another process is writing the output of {path.parent}.", "Wait until it ends, or stop it."
        ) from error
    return file


class _writing:  # noqa: N801  used like a function
    """Turns an OSError while a file is written into an InputError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise InputError(
                f"{self._path} cannot be written ({error.strerror or error}).",
                "Free disk space, or make the folder writable, and run the same command again; finished rows are kept.",
            ) from error
