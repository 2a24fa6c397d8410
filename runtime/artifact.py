"""The artifact: a folder of ONNX graphs and tokenizer files with a contract; opened, checked and extended here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import msgspec

from . import contract as contracts
from .contract import CONTRACT_FILE, Contract, FileRecord, Graph, Parity, Precision, Role, Variant, Verdict
from .errors import ArtifactError
from .files import sha256, write_file
from .graph_file import external_locations

REPORTS = "reports"
_EXPORT_AGAIN = "Export the checkpoint again with `siglip-onnx export`, or copy the artifact again from where it came."


@dataclass(frozen=True)
class Artifact:
    """An artifact's folder and its contract, as in `Artifact.open("siglip-large").verify()`."""

    folder: Path
    contract: Contract

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
        _check_listed(folder, contract, (contract.tokenizer.file,))
        return cls(folder, contract)

    def path(self, inner: str) -> Path:
        """Where a file of the artifact lies; `inner` is as the contract writes it."""
        return self.folder / inner

    def graph(self, role: Role, precision: Precision) -> Graph:
        """The graph of one role and precision.

        Raises:
            ArtifactError: The artifact has no such graph; the message lists what it has.
        """
        variant = self.contract.variant(precision)
        if variant is None or role not in variant.graphs:
            have = ", ".join(f"{v.precision} ({', '.join(v.graphs)})" for v in self.contract.variants) or "none"
            raise ArtifactError(
                f"The artifact {self.folder} has no {role} graph at {precision}; it has: {have}.",
                "Ask for one of these.",
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
            if not path.is_file() or sha256(path) != parity.report_sha256:
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
        contract = Artifact.open(self.folder).contract
        variant = contract.variant(precision)
        if variant is None or contract.without_verdicts() != self.contract.without_verdicts():
            raise ArtifactError(
                f"The artifact {self.folder} was changed while it was judged.", "Judge it again, as it is now."
            )
        others = tuple(p for p in variant.parity if p.provider != parity.provider)
        contract = contract.with_variant(replace(variant, parity=(*others, parity)))
        try:
            self.path(REPORTS).mkdir(exist_ok=True)
            for inner, content in files.items():
                write_file(self.path(inner), content)
            write_contract(self.folder, contract)
        except OSError as error:
            raise ArtifactError(
                f"The report cannot be written into {self.folder} ({error.strerror}).",
                "Make the folder writable, or name another place with --report.",
            ) from error
        return replace(self, contract=contract)


def write_contract(folder: Path, contract: Contract) -> None:
    """Write `siglip.json` into `folder`, whole or not at all."""
    write_file(folder / CONTRACT_FILE, contracts.encode(contract))


def record_files(folder: Path) -> dict[str, FileRecord]:
    """Size and hash of every file in an artifact's folder but the contract itself and the reports."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    inner = {p.relative_to(folder).as_posix(): p for p in paths}
    return {
        name: FileRecord(sha256(path), path.stat().st_size)
        for name, path in inner.items()
        if name != CONTRACT_FILE and not name.startswith(f"{REPORTS}/")
    }


def verdict_of(variant: Variant) -> Verdict | None:
    """The worst verdict that a variant carries, or None where it was never judged."""
    order = (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS)
    return min((p.verdict for p in variant.parity), key=order.index, default=None)


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
