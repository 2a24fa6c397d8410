"""From an artifact to the same artifact with one more variant, judged; all or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from ..runtime.artifact.artifact import REPORTS, Artifact
from ..runtime.artifact.contract import Precision, Provider, Role, Verdict
from ..runtime.engines.options import SessionOptions
from ..runtime.engines.preflight import check_provider
from ..runtime.errors import InputError, QuantizationError
from ..runtime.files import scratch_folder, write_file
from ..runtime.model import Siglip
from ..validate import CheckGroup, LimitTable, Report, ValidationResult, store_verdict, validate
from ..validate.reference.fp32_variant import Fp32Reference
from .calibration.split import Data, read
from .recipes.base import Recipe
from .recipes.recipes import Fp16
from .record import Record
from .search.search import Goal, Metric
from .variant_builder import TOWERS, VariantBuilder

Progress = Callable[[str], None]

# Pairs that a search measures on: a cosine needs few, a recall counts them.
_SEARCHED: Final = {Metric.CENTRED_COSINE: 24, Metric.LOGIT_SIGMA: 24, Metric.RETRIEVAL_DROP: 128}


@dataclass(frozen=True)
class QuantizeRequest:
    """What is to be done besides the recipe.

    Attributes:
        towers: Which towers to derive; the variant keeps the graph that it has of the other, or the float32 one.
        data: A folder with captions.jsonl and perhaps labels.txt; None for the bundled photos.
        samples: How many of its pairs to calibrate with; None leaves it to the recipe. The others judge.
        skip_unreadable: Leave out images that cannot be read.
        goal: Search for what to keep at higher precision until this is met.
        reference: The checkpoint to judge by; None for the fp32 variant, which must have passed.
        cuda: Write graphs with fused operators for CUDA, too.
        overwrite: Replace a variant that is there already.
        keep_failing: Keep the variant whatever the verdict is.
        limits: The limits of the verdict.
    """

    towers: tuple[Role, ...] = TOWERS
    data: Path | None = None
    samples: int | None = None
    skip_unreadable: bool = False
    goal: Goal | None = None
    reference: str | Path | None = None
    cuda: bool = False
    overwrite: bool = False
    keep_failing: bool = False
    limits: LimitTable = field(default_factory=LimitTable)


@dataclass(frozen=True)
class QuantizeResult:
    """The artifact with its new variant, how the variant was made, and how it was judged."""

    artifact: Artifact
    record: Record
    reports: tuple[Report, ...]


def quantize(
    folder: str | Path, recipe: Recipe, job: QuantizeRequest | None = None, *, progress: Progress = print
) -> QuantizeResult:
    """Derive a variant from an artifact's fp32 graphs, judge it, and add it to the artifact.

    The variant is made and judged in a folder of its own and moved into its place when it is complete: whoever looks
    sees the artifact without it or with all of it. One that does not pass is not kept; its report goes to
    reports/rejected-….

        quantize("siglip-large", Int8(), Job(data=Path("my-images"), goal=Goal(0.999)))

    Args:
        folder: The artifact.
        recipe: One of `RECIPES`, with its options.
        job: What else is to be done.
        progress: Told what is being done, in a few words, before each step.

    Raises:
        ArtifactError: The artifact is missing, damaged, or was changed in the meantime.
        InputError: The data cannot be used, or there is none where it is needed.
        QuantizationError: The variant is there already, cannot be written, or the goal cannot be reached.
        ParityError: The variant fails.
        InconclusiveError: There is nothing or too little to judge it by.
    """
    job = job or QuantizeRequest()
    artifact = Artifact.open(Path(folder).resolve())
    _check(artifact, recipe, job)
    progress("Reading the data")
    search = _SEARCHED[job.goal.metric] if job.goal else 0
    data = read(job.data, recipe.samples, job.samples, search, skip_unreadable=job.skip_unreadable)
    with _writing(artifact.folder), scratch_folder(artifact.folder / "variant") as scratch:
        artifact.verify()
        derivation = VariantBuilder(artifact, scratch, recipe, data, progress)
        record, variants = derivation.make(job.towers, job.goal, cuda=job.cuda)
        progress("Hashing")
        staged, reports = _judge(artifact.stage(scratch, variants), record, job, data, progress)
        for role, tower in record.towers.items():
            alone = replace(record, towers={role: tower})
            write_file(scratch / REPORTS / f"quantize-{recipe.precision}-{role}.json", alone.to_json())
        derivation.return_borrowed()
        progress("Moving it into its place")
        made = _commit(staged)
    derivation.finish()
    _forget_rejected(artifact.folder, reports)
    return QuantizeResult(made, record, reports)


def _check_form(artifact: Artifact, recipe: Recipe, job: QuantizeRequest) -> None:
    """Calibration runs a tower block by block on single rows, which not every form of graph allows."""
    contract = artifact.contract
    if contract.labels is not None:
        raise QuantizationError(
            f"{artifact.folder} is a classifier of frozen labels.",
            "Quantize the artifact that it was made from, and freeze the labels at that precision.",
        )
    forms = {
        f"a batch fixed to {contract.batch}": contract.batch is not None,
        "images of any size": contract.image.input == "image",
        "patches, a mask and shapes": contract.image.resize == "patches",
    }
    special = [form for form, is_so in forms.items() if is_so]
    if special and (recipe.samples or job.goal or job.cuda):
        raise QuantizationError(
            f"{recipe.precision} is calibrated on single rows, and the graphs of {artifact.folder} take {special[0]}.",
            "Use bf16 or int8-weights, or export without that option, with --image-input bytes for one.",
        )


def _check(artifact: Artifact, recipe: Recipe, job: QuantizeRequest) -> None:
    if not job.towers or not set(job.towers) <= set(TOWERS):
        raise InputError(f"These are no towers: {', '.join(job.towers) or 'none'}.", "Name vision, text, or both.")
    _check_form(artifact, recipe, job)
    if job.samples is not None and not recipe.samples:
        raise InputError(f"{recipe.precision} with these options calibrates nothing.", "Leave out --samples.")
    fp32 = [artifact.graph(role, Precision.FP32).path for role in TOWERS]
    variant = artifact.contract.variant(recipe.precision)
    done = [role for role in job.towers if variant and variant.graphs[role].path not in fp32]
    if done and not job.overwrite:
        raise QuantizationError(
            f"{artifact.folder} has the {' and the '.join(done)} tower at {recipe.precision} already.",
            "Make it anew with --overwrite.",
        )
    if job.data is None and (recipe.fitted or job.goal):
        raise InputError(
            f"No calibration data: {recipe.precision}{' with a search' * bool(job.goal)} is fitted to what the model "
            "will see, for which the bundled photos cannot stand.",
            "Give your own images and captions with --data.",
        )
    if job.cuda and not isinstance(recipe, Fp16):
        raise InputError(f"There is no fused CUDA graph at {recipe.precision}.", "Leave out --cuda, or use fp16.")
    if job.reference is None and not job.keep_failing:
        Fp32Reference(artifact.folder)  # nothing could be proved by it; better to say so before the work than after it


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise QuantizationError(
            f"The variant cannot be written to {folder} ({error.strerror or error}); nothing was left behind.",
            "Make room on that disk, or make the folder writable.",
        ) from error


def _commit(staged: Artifact) -> Artifact:
    try:
        return staged.commit()
    except OSError as error:
        raise QuantizationError(
            f"The variant could not be moved into {staged.folder} ({error.strerror or error}); the artifact is now "
            "without it, and without what it was to replace.",
            "Make room and make the folder writable, then run the same command again.",
        ) from error


def _judge(
    staged: Artifact, record: Record, job: QuantizeRequest, data: Data, progress: Progress
) -> tuple[Artifact, tuple[Report, ...]]:
    """Judge on every provider that is here; only a PASS is let through, unless told otherwise."""
    reports = []
    for provider in _providers(job):
        model = Siglip(staged, record.precision, SessionOptions(provider))
        result = validate(
            model,
            job.reference,
            data.judged,
            limits=job.limits,
            allow_unvalidated=job.keep_failing,
            exclude_groups=frozenset({CheckGroup.NON_INFERIORITY}),
            progress=progress,
        )
        report = result.report
        if not job.keep_failing and report.verdict is not Verdict.PASS:
            _reject(staged.folder, result, record)
            report.require_pass()
        staged = store_verdict(staged, result, record)
        reports.append(report)
    return staged, tuple(reports)


def _providers(job: QuantizeRequest) -> list[Provider]:
    """The CPU, and CUDA if graphs were made for it and it works here."""
    return [Provider.CPU, Provider.CUDA] if job.cuda and check_provider(Provider.CUDA) is None else [Provider.CPU]


def _reject(folder: Path, result: ValidationResult, record: Record) -> None:
    """Leave the report of a variant that is not kept."""
    (folder / REPORTS).mkdir(exist_ok=True)
    contents = (result.report.to_json(), result.html(record).encode())
    for path, content in zip(_rejected(folder, result.report), contents, strict=True):
        write_file(path, content)


def _rejected(folder: Path, report: Report) -> list[Path]:
    name = f"rejected-{report.precision}-{report.provider}"
    return [folder / REPORTS / f"{name}{suffix}" for suffix in (".json", ".html")]


def _forget_rejected(folder: Path, reports: tuple[Report, ...]) -> None:
    for report in reports:
        for path in _rejected(folder, report):
            path.unlink(missing_ok=True)
