"""The artifact: a folder of ONNX graphs and tokenizer files with a contract; opened, checked and extended here."""

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
_EXPORT_AGAIN = "Export the checkpoint again with `siglip-onnx export`, or copy the artifact again from where it came."


@dataclass(frozen=True)
class Artifact:
    """An artifact's folder and its contract, as in `Artifact.open("siglip-large").verify()`.

    Attributes:
        staged: A folder with files that are not in their place yet; see `stage`.
        before: The contract that it was staged upon.
    """

    folder: Path
    contract: Contract
    staged: Path | None = None
    before: Contract | None = None

    @classmethod
    def open(cls, folder: str | Path) -> Artifact:
        """Read the contract of the artifact in `folder`; its files are read by `verify` and when they are used.

        Raises:
            ArtifactError: There is no contract, or it cannot be understood.
        """
        folder = Path(folder)
        contract = _read_contract(folder / CONTRACT_FILE)
        for variant in contract.variants:
            for graph in variant.graphs.values():
                _check_listed(folder, contract, (graph.path, *graph.data))
        _check_listed(folder, contract, (contract.tokenizer.file,) if contract.tokenizer else ())
        return cls(folder, contract)

    def path(self, inner: str) -> Path:
        """Where a file of the artifact lies; `inner` is as the contract writes it."""
        if self.staged is not None and (self.staged / inner).exists():
            return self.staged / inner
        return self.folder / inner

    def graph(self, role: Role, precision: Precision, provider: Provider = Provider.CPU) -> Graph:
        """The graph of one role and precision: the one made for the provider if there is one, else the portable one.

        Raises:
            ArtifactError: The artifact has no such graph; the message lists what it has.
        """
        variant = self.contract.variant(precision, provider)
        if variant is None or role not in variant.graphs:
            have = ", ".join(f"{v.precision} ({', '.join(v.graphs)})" for v in self.contract.variants) or "none"
            raise ArtifactError(
                f"The artifact {self.folder} has no {role} graph at {precision}; it has: {have}.",
                "Ask for one of these, or make it with `siglip-onnx quantize`.",
            )
        return variant.graphs[role]

    def verify(self, inner_paths: Iterable[str] | None = None) -> None:
        """Check size and SHA-256 of files, and where graphs read their weights from.

        Without names, every file is checked, and the reports that verdicts stand on.

        Raises:
            ArtifactError: A file is missing, is not the one that the contract lists, or reads outside the artifact.
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
                    f"The verdict {parity.verdict} stands on {path}, which is missing or was changed.",
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
            found = f"{size} bytes" if digest is None else f"SHA-256 {digest}"
            wanted = f"{record.bytes} bytes" if digest is None else f"SHA-256 {record.sha256}"
            raise ArtifactError(
                f"The file {path} is not the one that {CONTRACT_FILE} lists: it has {found} where {wanted} is due, "
                "so it was damaged or changed.",
                _EXPORT_AGAIN,
            )

    def verify_external_data(self, graph: Graph) -> None:
        """Check that a graph reads weights from its own data files alone.

        Raises:
            ArtifactError: It reads from elsewhere, or is no ONNX file.
        """
        try:
            locations = external_locations(self.path(graph.path).read_bytes())
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{self.path(graph.path)} is no ONNX file ({error}).", _EXPORT_AGAIN) from error
        parent = PurePosixPath(graph.path).parent
        for location in sorted(locations):
            if str(parent / location) not in graph.data:
                raise ArtifactError(
                    f"{self.path(graph.path)} wants to read its weights from {location!r}, which is not among the "
                    f"data files that {CONTRACT_FILE} lists for it ({', '.join(graph.data) or 'none'}).",
                    "Do not use this artifact unless you know who changed it. " + _EXPORT_AGAIN,
                )

    def with_report(self, precision: Precision, parity: Parity, files: Mapping[str, bytes]) -> Artifact:
        """Store the files of a parity report and note its verdict in the contract; the artifact as it is afterwards.

        Verdicts that others have noted in the meantime are kept.

        Raises:
            ArtifactError: The folder cannot be written, or holds another artifact by now.
        """
        contract = self.contract if self.staged else Artifact.open(self.folder).contract
        variant = contract.variant(precision, parity.provider)
        if variant is None or contract.without_verdicts() != self.contract.without_verdicts():
            raise ArtifactError(
                f"The artifact {self.folder} was changed while it was judged.", "Judge it again, as it is now."
            )
        others = tuple(p for p in variant.parity if p.provider != parity.provider)
        contract = contract.with_variant(replace(variant, parity=(*others, parity)))
        place = self.staged or self.folder
        try:
            (place / REPORTS).mkdir(exist_ok=True)
            for inner, content in files.items():
                write_file(place / inner, content)
            if self.staged is None:
                write_contract(self.folder, contract)
        except OSError as error:
            raise ArtifactError(
                f"The report cannot be written into {self.folder} ({error.strerror}).",
                "Make the folder writable, or name another place with --report.",
            ) from error
        return replace(self, contract=contract)

    def stage(self, folder: Path, variants: Iterable[Variant]) -> Artifact:
        """The artifact as it would be with more variants, whose files lie in `folder`; nothing is changed yet.

        A variant takes the place of the one of its precision and provider. Files of the artifact that a staged graph
        needs beside it may be in `folder`, too.
        """
        variants = tuple(variants)
        paths = {path for variant in variants for path in variant.files if (folder / path).exists()}
        records = {path: _record(folder / path) for path in paths}
        changed = {path for path, record in records.items() if self.contract.files.get(path) != record}
        stays = [v for v in self.contract.variants if not changed.intersection(v.files)]
        contract = replace(self.contract, variants=tuple(stays))
        for variant in variants:
            contract = contract.with_variant(variant)
        before, after = ({path for v in c.variants for path in v.files} for c in (self.contract, contract))
        files = {name: record for name, record in contract.files.items() if name not in before - after} | records
        return Artifact(self.folder, replace(contract, files=files), folder, self.contract)

    def commit(self) -> Artifact:
        """Put what is staged into its place; variants that came to be in the meantime stay.

        The contract lets go of what is replaced before a file moves, and takes up the new variants when all are
        there: a process killed in between leaves an artifact without them, never one with half of them.

        Raises:
            ArtifactError: A file that the new variants use was changed in the meantime.
            OSError: A file cannot be moved; the artifact is then without what would have been replaced.
        """
        assert self.staged is not None and self.before is not None  # noqa: S101, PT018  see stage
        sync(self.staged)
        new = [v for v in self.contract.variants if any((self.staged / g.path).exists() for g in v.graphs.values())]
        old = Artifact.open(self.folder)
        whole = old.stage(self.staged, new).contract
        moved_on = any(old.contract.made(v) != self.before.made(v) for v in new)
        if moved_on or any(whole.files.get(path) != self.contract.files[path] for v in new for path in v.files):
            raise ArtifactError(f"{self.folder} was changed in the meantime.", "Work on it as it is now.")
        kept = {name: record for name, record in whole.files.items() if old.contract.files.get(name) == record}
        rest = tuple(variant for variant in whole.variants if variant not in new)
        write_contract(self.folder, replace(whole, variants=rest, files=kept))
        for path in [path for path in self.staged.rglob("*") if path.is_file()]:
            name = path.relative_to(self.staged).as_posix()
            if name.startswith(f"{REPORTS}/") or whole.files[name] != old.contract.files.get(name):
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                path.replace(self.folder / name)
        write_contract(self.folder, whole)
        for name in old.contract.files.keys() - whole.files.keys():
            (self.folder / name).unlink(missing_ok=True)
        return Artifact.open(self.folder)


def write_contract(folder: Path, contract: Contract) -> None:
    """Write `siglip.json` into `folder`, whole or not at all."""
    write_file(folder / CONTRACT_FILE, contracts.encode(contract))


def record_files(folder: Path) -> dict[str, FileRecord]:
    """Size and hash of every file in an artifact's folder but the contract itself and the reports."""
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
    """The worst verdict that a variant carries, on one provider or on all, or None where it was never judged.

    What was compared with the fp32 variant is INCONCLUSIVE unless that one carries a PASS.
    """
    order = (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS)
    given = [parity for parity in variant.parity if provider in (None, parity.provider)]
    verdicts = [parity.verdict for parity in given]
    if any(parity.against is ReferenceKind.FP32 for parity in given):
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
            "Name a folder that `siglip-onnx export` wrote.",
        ) from error
    try:
        return contracts.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(f"{path} does not fit the contract of version 1: {error}.", _EXPORT_AGAIN) from error


def _check_listed(folder: Path, contract: Contract, inner_paths: tuple[str, ...]) -> None:
    unlisted = [p for p in inner_paths if p not in contract.files]
    if unlisted:
        raise ArtifactError(
            f"{folder / CONTRACT_FILE} uses {', '.join(unlisted)} but lists no hash for it.", _EXPORT_AGAIN
        )
