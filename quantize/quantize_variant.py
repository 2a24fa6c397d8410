"""Quantization of an artifact: build a variant, validate it, and add it to the artifact; all or nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from ..runtime.artifact.artifact import REPORTS, Artifact
from ..runtime.artifact.contract import Provider, Verdict
from ..runtime.engines.options import SessionOptions
from ..runtime.engines.preflight import check_provider
from ..runtime.errors import QuantizationError
from ..runtime.files import scratch_folder, write_file
from ..runtime.model import Siglip
from ..runtime.progress import Progress
from ..validate import CheckGroup, Report, ValidationResult, store_verdict, validate
from .calibration.split import CalibrationSplit, split_pairs
from .recipes.base import Recipe
from .record import Record
from .request import QuantizeRequest, check_request
from .search.goal import Metric
from .variant_builder import VariantBuilder

# Pairs that a search measures on: a cosine needs few, a recall needs more because it counts them.
_SEARCH_PAIRS: Final = {Metric.CENTERED_COSINE: 24, Metric.LOGIT_SIGMA: 24, Metric.RETRIEVAL_DROP: 128}


@dataclass(frozen=True)
class QuantizeResult:
    """A variant that was added to an artifact.

    Attributes:
        artifact: The artifact with the variant.
        record: How the variant was made.
        reports: Its verdict on each provider.
    """

    artifact: Artifact
    record: Record
    reports: tuple[Report, ...]


def quantize(
    folder: str | Path, recipe: Recipe, request: QuantizeRequest | None = None, *, progress: Progress = print
) -> QuantizeResult:
    """Derive a variant from an artifact's fp32 graphs, validate it, and add it to the artifact.

    The variant is made and validated in a scratch folder and moved into the artifact when it is complete, so that the
    artifact never holds a part of it. A variant that does not pass is not kept; its report is written to
    reports/rejected-….

        quantize("siglip-large", Int8(), QuantizeRequest(data=Path("my-images"), goal=Goal(0.999)))

    Args:
        folder: The artifact.
        recipe: An instance of one of `RECIPES`, with its options.
        request: All other options.
        progress: Called with a line of text before each step.

    Raises:
        ArtifactError: The artifact is missing, damaged, or was changed in the meantime.
        InputError: The data cannot be used or is missing, or an option does not fit the recipe.
        QuantizationError: The variant exists already, cannot be written, or the goal cannot be met.
        ParityError: The variant fails.
        InconclusiveError: The fp32 variant has no verdict, or there is too little data for one.
    """
    request = request or QuantizeRequest()
    artifact = Artifact.open(Path(folder).resolve())
    check_request(artifact, recipe, request)
    progress("Reading the data")
    data = _split(recipe, request)
    with _writing_to(artifact.folder), scratch_folder(artifact.folder / "variant") as scratch:
        artifact.verify()
        builder = VariantBuilder(artifact, scratch, recipe, data, progress)
        record, variants = builder.build(request.towers, request.goal, cuda=request.cuda)
        progress("Hashing")
        staged, reports = _validate(artifact.stage(scratch, variants), record, request, data, progress)
        _write_records(scratch, record)
        builder.remove_borrowed()
        progress("Moving the variant into the artifact")
        committed = _commit(staged)
    builder.remove_logs()
    _remove_rejected(artifact.folder, reports)
    return QuantizeResult(committed, record, reports)


def _split(recipe: Recipe, request: QuantizeRequest) -> CalibrationSplit:
    search_pairs = _SEARCH_PAIRS[request.goal.metric] if request.goal else 0
    return split_pairs(
        request.data, recipe.samples, request.samples, search_pairs, skip_unreadable=request.skip_unreadable
    )


@contextmanager
def _writing_to(folder: Path) -> Iterator[None]:
    """Turn an OSError into an error that names the folder."""
    try:
        yield
    except OSError as error:
        raise QuantizationError(
            f"The variant cannot be written to {folder} ({error.strerror or error}); the artifact is unchanged.",
            "Make room on that disk, or make the folder writable.",
        ) from error


def _commit(staged: Artifact) -> Artifact:
    try:
        return staged.commit()
    except OSError as error:
        raise QuantizationError(
            f"The variant could not be moved into {staged.folder} ({error.strerror or error}); the artifact now has "
            "neither it nor the variant that it was to replace.",
            "Make room and make the folder writable, then run the same command again.",
        ) from error


def _validate(
    staged: Artifact, record: Record, request: QuantizeRequest, data: CalibrationSplit, progress: Progress
) -> tuple[Artifact, tuple[Report, ...]]:
    """Validate the variant on every provider that works here; raises unless it passes or failures are kept."""
    reports = []
    for provider in _providers(request):
        model = Siglip(staged, record.precision, SessionOptions(provider))
        result = validate(
            model,
            request.reference,
            data.validation,
            limits=request.limits,
            allow_unvalidated=request.keep_failing,
            exclude_groups=frozenset({CheckGroup.NON_INFERIORITY}),
            progress=progress,
        )
        if not request.keep_failing and result.report.verdict is not Verdict.PASS:
            _write_rejected(staged.folder, result, record)
            result.report.require_pass()
        staged = store_verdict(staged, result, record)
        reports.append(result.report)
    return staged, tuple(reports)


def _providers(request: QuantizeRequest) -> list[Provider]:
    """The CPU, and CUDA if graphs were made for it and it works here."""
    return [Provider.CPU, Provider.CUDA] if request.cuda and check_provider(Provider.CUDA) is None else [Provider.CPU]


def _write_records(scratch: Path, record: Record) -> None:
    """Write the record of each tower."""
    for role, tower in record.towers.items():
        single = replace(record, towers={role: tower})
        write_file(scratch / REPORTS / f"quantize-{record.precision}-{role}.json", single.to_json())


def _write_rejected(folder: Path, result: ValidationResult, record: Record) -> None:
    """Write the report of a variant that is not kept."""
    (folder / REPORTS).mkdir(exist_ok=True)
    contents = (result.report.to_json(), result.html(record).encode())
    for path, content in zip(_rejected_paths(folder, result.report), contents, strict=True):
        write_file(path, content)


def _rejected_paths(folder: Path, report: Report) -> list[Path]:
    name = f"rejected-{report.precision}-{report.provider}"
    return [folder / REPORTS / f"{name}{suffix}" for suffix in (".json", ".html")]


def _remove_rejected(folder: Path, reports: tuple[Report, ...]) -> None:
    """Remove reports of earlier attempts that were rejected."""
    for report in reports:
        for path in _rejected_paths(folder, report):
            path.unlink(missing_ok=True)
