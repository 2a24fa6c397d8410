"""The artifact folder: open it, check its files, add variants and verdicts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import msgspec

from ..errors import ArtifactError
from ..files import sha256, sync, write_file
from . import contract as contracts
from .contract import (
    CONTRACT_FILE,
    Contract,
    FileRecord,
    Graph,
    Parity,
    Precision,
    Provider,
    ReferenceKind,
    Role,
    Variant,
    Verdict,
)
from .external_data import external_locations

REPORTS = "reports"
_EXPORT_AGAIN = "Export the checkpoint again with `siglip-onnx export`, or copy the artifact again."


@dataclass(frozen=True)
class Artifact:
    """An artifact, as in `Artifact.open("siglip-large").verify()`.

    Attributes:
        folder: The folder.
        contract: Its contract.
        staged: Folder with new files that are not part of the artifact yet; see `stage`.
        before: The contract before staging.
    """

    folder: Path
    contract: Contract
    staged: Path | None = None
    before: Contract | None = None

    @classmethod
    def open(cls, folder: str | Path) -> Artifact:
        """Read the contract of the artifact in `folder`, and no other file.

        Raises:
            ArtifactError: The contract is missing or damaged, has another schema version, or lacks a file's hash.
        """
        folder = Path(folder)
        contract = _read_contract(folder / CONTRACT_FILE)
        for variant in contract.variants:
            for graph in variant.graphs.values():
                _check_listed(folder, contract, (graph.path, *graph.data))
        _check_listed(folder, contract, (contract.tokenizer.file,) if contract.tokenizer else ())
        return cls(folder, contract)

    def path(self, inner: str) -> Path:
        """The path of a file; `inner` is its path in the contract."""
        if self.staged is not None and (self.staged / inner).exists():
            return self.staged / inner
        return self.folder / inner

    def graph(self, role: Role, precision: Precision, provider: Provider = Provider.CPU) -> Graph:
        """The graph of a role and precision for the provider, or the portable one.

        Raises:
            ArtifactError: The artifact has neither; the message lists its graphs.
        """
        variant = self.contract.variant(precision, provider)
        if variant is None or role not in variant.graphs:
            available = ", ".join(f"{v.precision} ({', '.join(v.graphs)})" for v in self.contract.variants) or "none"
            raise ArtifactError(
                f"The artifact {self.folder} has no {role} graph at {precision}; it has: {available}.",
                "Use one of these, or make the variant with `siglip-onnx quantize`.",
            )
        return variant.graphs[role]

    def verify(self, inner_paths: Iterable[str] | None = None) -> None:
        """Check the size and SHA-256 of files, and the data files of graphs.

        Args:
            inner_paths: Paths in the contract; None checks every file, and the reports of verdicts.

        Raises:
            ArtifactError: A file is missing, has another hash, or is a graph that reads other data files.
        """
        chosen = list(self.contract.files) if inner_paths is None else list(inner_paths)
        for inner in chosen:
            self._verify_file(inner, self.contract.files[inner])
        for variant in self.contract.variants:
            for graph in variant.graphs.values():
                if graph.path in chosen:
                    self.verify_external_data(graph)
        if inner_paths is None:
            self._verify_reports()

    def _verify_reports(self) -> None:
        for parity in (parity for variant in self.contract.variants for parity in variant.parity):
            path = self.path(parity.report)
            if not path.is_file() or sha256(path) != parity.report_sha256 or _verdict_in(path) != parity.verdict:
                raise ArtifactError(
                    f"The report {path} of the verdict {parity.verdict} is missing or was changed.",
                    "Run `siglip-onnx validate` again.",
                )

    def _verify_file(self, inner: str, record: FileRecord) -> None:
        path = self.path(inner)
        try:
            size = path.stat().st_size
            digest = sha256(path) if size == record.bytes else None
        except OSError as error:
            raise ArtifactError(
                f"The artifact's file {path} cannot be read ({error.strerror}).", _EXPORT_AGAIN
            ) from error
        if digest != record.sha256:
            actual = f"{size} bytes" if digest is None else f"SHA-256 {digest}"
            expected = f"{record.bytes} bytes" if digest is None else f"SHA-256 {record.sha256}"
            raise ArtifactError(
                f"{path} was damaged or changed: {CONTRACT_FILE} lists {expected}, the file has {actual}.",
                _EXPORT_AGAIN,
            )

    def verify_external_data(self, graph: Graph) -> None:
        """Check that a graph only reads the data files that the contract lists for it.

        Raises:
            ArtifactError: The graph reads another file, or is not an ONNX file.
        """
        try:
            locations = external_locations(self.path(graph.path).read_bytes())
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{self.path(graph.path)} is not an ONNX file ({error}).", _EXPORT_AGAIN) from error
        parent = PurePosixPath(graph.path).parent
        for location in sorted(locations):
            if str(parent / location) not in graph.data:
                raise ArtifactError(
                    f"{self.path(graph.path)} reads weights from {location!r}; {CONTRACT_FILE} lists other data files "
                    f"for it ({', '.join(graph.data) or 'none'}).",
                    "Do not use this artifact unless you know who changed it. " + _EXPORT_AGAIN,
                )

    def with_report(self, precision: Precision, parity: Parity, files: Mapping[str, bytes]) -> Artifact:
        """Write the files of a report and add its verdict to the contract; return the new artifact.

        Verdicts that other processes added in the meantime are kept.

        Args:
            precision: The variant.
            parity: The verdict.
            files: Contents of the report's files by their path inside the artifact.

        Raises:
            ArtifactError: The folder cannot be written, or its artifact changed in the meantime.
        """
        contract = self.contract if self.staged else Artifact.open(self.folder).contract
        variant = contract.variant(precision, parity.provider)
        if variant is None or contract.without_verdicts() != self.contract.without_verdicts():
            raise ArtifactError(
                f"The artifact {self.folder} changed during validation.", "Run `siglip-onnx validate` again."
            )
        others = tuple(p for p in variant.parity if p.provider != parity.provider)
        contract = contract.with_variant(replace(variant, parity=(*others, parity)))
        target = self.staged or self.folder
        try:
            (target / REPORTS).mkdir(exist_ok=True)
            for inner, content in files.items():
                write_file(target / inner, content)
            if self.staged is None:
                write_contract(self.folder, contract)
        except OSError as error:
            raise ArtifactError(
                f"The report cannot be written into {self.folder} ({error.strerror}).",
                "Make the folder writable, or write the report elsewhere (--output-dir).",
            ) from error
        return replace(self, contract=contract)

    def stage(self, folder: Path, variants: Iterable[Variant]) -> Artifact:
        """The artifact with new variants whose files are in `folder`, before anything is moved; see `commit`.

        A new variant replaces the one of its precision and target provider. `folder` may also hold files of the
        artifact that a new graph needs beside it.
        """
        variants = tuple(variants)
        paths = {path for variant in variants for path in variant.files if (folder / path).exists()}
        records = {path: _record(folder / path) for path in paths}
        changed = {path for path, record in records.items() if self.contract.files.get(path) != record}
        kept = [v for v in self.contract.variants if not changed.intersection(v.files)]
        contract = replace(self.contract, variants=tuple(kept))
        for variant in variants:
            contract = contract.with_variant(variant)
        before, after = ({path for v in c.variants for path in v.files} for c in (self.contract, contract))
        files = {name: record for name, record in contract.files.items() if name not in before - after} | records
        return Artifact(self.folder, replace(contract, files=files), folder, self.contract)

    def commit(self) -> Artifact:
        """Move staged files into the artifact; return the new artifact. Variants added in the meantime are kept.

        The contract drops the replaced variants before a file is moved, and lists the new ones after the last file was
        moved: a process killed in between leaves an artifact without these variants, never with half of one.

        Raises:
            ArtifactError: A file of the new variants was changed in the meantime.
            OSError: A file cannot be moved; the artifact then lacks the replaced variants.
        """
        assert self.staged is not None and self.before is not None  # noqa: S101, PT018  see stage
        sync(self.staged)
        new = [v for v in self.contract.variants if any((self.staged / g.path).exists() for g in v.graphs.values())]
        old = Artifact.open(self.folder)
        complete = old.stage(self.staged, new).contract
        changed = any(old.contract.without_parity(v) != self.before.without_parity(v) for v in new)
        if changed or any(complete.files.get(path) != self.contract.files[path] for v in new for path in v.files):
            raise ArtifactError(f"{self.folder} was changed by another process.", "Run the command again.")
        kept = {name: record for name, record in complete.files.items() if old.contract.files.get(name) == record}
        rest = tuple(variant for variant in complete.variants if variant not in new)
        write_contract(self.folder, replace(complete, variants=rest, files=kept))
        _move_files(self.staged, self.folder, {name for name in complete.files if name not in kept})
        write_contract(self.folder, complete)
        for name in old.contract.files.keys() - complete.files.keys():
            (self.folder / name).unlink(missing_ok=True)
        return Artifact.open(self.folder)


def _move_files(source: Path, target: Path, names: set[str]) -> None:
    """Move these files, and all reports, from one folder to another."""
    for path in [path for path in source.rglob("*") if path.is_file()]:
        name = path.relative_to(source).as_posix()
        if name in names or name.startswith(f"{REPORTS}/"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            path.replace(target / name)


def write_contract(folder: Path, contract: Contract) -> None:
    """Write `siglip.json` into `folder` atomically."""
    write_file(folder / CONTRACT_FILE, contracts.encode(contract))


def record_files(folder: Path) -> dict[str, FileRecord]:
    """Size and hash of every file in an artifact's folder except the contract and the reports."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    inner = {p.relative_to(folder).as_posix(): p for p in paths}
    return {
        name: _record(path)
        for name, path in inner.items()
        if name != CONTRACT_FILE and not name.startswith(f"{REPORTS}/")
    }


def _record(path: Path) -> FileRecord:
    return FileRecord(sha256(path), path.stat().st_size)


def verdict_of(variant: Variant, contract: Contract, provider: Provider | None = None) -> Verdict | None:
    """The worst verdict on a variant, on one provider or (None) on all; None if it was never validated.

    A verdict against the fp32 variant is at best INCONCLUSIVE unless the fp32 variant carries a PASS.
    """
    order = (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS)
    matching = [parity for parity in variant.parity if provider in (None, parity.provider)]
    verdicts = [parity.verdict for parity in matching]
    if any(parity.against is ReferenceKind.FP32 for parity in matching):
        base = contract.variant(Precision.FP32)
        proved = base is not None and verdict_of(base, contract, Provider.CPU) is Verdict.PASS
        verdicts += [] if proved else [Verdict.INCONCLUSIVE]
    return min(verdicts, key=order.index, default=None)


def _verdict_in(report: Path) -> object:
    try:
        return msgspec.json.decode(report.read_bytes(), type=dict[str, object]).get("verdict")
    except msgspec.DecodeError:
        return None


def _read_contract(path: Path) -> Contract:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(
            f"{path.parent} is not an artifact: its {CONTRACT_FILE} cannot be read ({error.strerror}).",
            "Pass a folder that `siglip-onnx export` wrote.",
        ) from error
    try:
        return contracts.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(f"{path} is not a valid contract: {error}.", _EXPORT_AGAIN) from error


def _check_listed(folder: Path, contract: Contract, inner_paths: tuple[str, ...]) -> None:
    unlisted = [p for p in inner_paths if p not in contract.files]
    if unlisted:
        raise ArtifactError(f"{folder / CONTRACT_FILE} lists no hash for {', '.join(unlisted)}.", _EXPORT_AGAIN)
