"""The check groups of the ladder, the cheapest first, and how they are climbed.

Each feeds a tower what the reference feeds it, so that a fault shows on the group where it is made: wrong pixels fail
PIXELS, not EMBEDDINGS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...exporter.checkpoint.image_spec import read_image_spec
from ...exporter.checkpoint.tokenizer_spec import read_tokenizer_spec
from ...runtime.artifact.contract import ReferenceKind, Role
from ...runtime.engines.providers import PROVIDERS
from ...runtime.errors import ArtifactError, SiglipOnnxError
from ..external.open_external import ExternalArtifact
from ..report.report import OPTIONAL, Check, CheckGroup, at_least, at_most, failed, inconclusive
from . import numeric as numbers
from . import tasks as tasks
from .context import CheckContext
from .numeric import other_shape

Array = NDArray[Any]

_ROUNDING: Final = 1.001  # a level of 256 in float32
_MOST: Final = 0.5  # share of the nodes that a provider must run itself where the rest may go to the CPU
# A literal <unk> is the one thing that tokenizer.json cannot do as the reference; see exporter/tokenizer_json.py.
_NOT_IN_FAST: Final = "<unk>"


def expected_groups(context: CheckContext) -> frozenset[CheckGroup]:
    """The check groups that a verdict stands on: all for which there is something to compare with."""
    samples, texts = context.samples, Role.TEXT in context.towers
    absent = {
        # A variant shares its tokenizer and pixels with the fp32 variant, whose own verdict has judged them.
        CheckGroup.TOKENS: context.against is ReferenceKind.FP32 or not texts,
        CheckGroup.PIXELS: context.against is ReferenceKind.FP32,
        CheckGroup.ACCURACY: not samples.classes or not texts,
        CheckGroup.RETRIEVAL: not samples.pairs or not texts,
        CheckGroup.NON_INFERIORITY: samples.bundled or not (samples.classes or samples.pairs) or not texts,
    }
    due = {group for group in CheckGroup if group not in OPTIONAL and not absent.get(group, False)}
    return frozenset(due - context.without)


def run_checks(context: CheckContext, due: frozenset[CheckGroup]) -> Iterator[Check]:
    """Every check of every group; what cannot be measured fails its group and hides nothing above it."""
    for group, measure in _RUNGS.items():
        if group not in due:
            continue
        context.progress(f"Checking {group}")
        try:
            yield from measure(context)
        except SiglipOnnxError as error:
            yield failed(group, "can be measured", str(error))
        except Exception as error:  # a broken artifact may break anything; whatever it is, it is no pass
            yield failed(group, "can be measured", f"{type(error).__name__}: {error}")


def _contract(context: CheckContext) -> Iterator[Check]:
    model = context.model
    variant = model.contract.variant(model.precision, model.options.provider)
    own = variant.files if variant else ()
    others = {path for v in model.contract.variants for path in v.files}.difference(own)
    model.artifact.verify(name for name in model.contract.files if name not in others)
    if context.baseline is not None and not context.baseline.judged:
        yield inconclusive(CheckGroup.CONTRACT, "fp32 variant", "it has not passed against its checkpoint")
    for role in variant.graphs if variant else ():
        model.session(role)  # raises if the graph's interface is not the contract's
        if role in context.towers:
            yield from _right_batch(context, role)
        model.release(role)
    yield at_least(CheckGroup.CONTRACT, "files as listed", 1.0, 1.0, f"{len(model.contract.files)} files")


def _right_batch(context: CheckContext, role: Role) -> Iterator[Check]:
    contract = context.model.contract
    if isinstance(context.model.artifact, ExternalArtifact):
        return  # nobody said which batch was meant
    image = role is Role.VISION and contract.image.input == "image"
    due, batch = 1 if image else contract.batch, context.model.session(role).graph.batch
    if batch != due:
        yield failed(
            CheckGroup.CONTRACT, f"{role} batch", f"{batch or 'free'}, where {due or 'a free one'} was exported"
        )


def _provider(context: CheckContext) -> Iterator[Check]:
    """Whether the provider that was asked for runs the graphs, which not every program's list of providers proves."""
    options = context.model.options
    spec = PROVIDERS[options.provider]
    for role in context.towers:
        placement, name = context.tower(role).placement, f"{role}, share of the nodes that {options.provider} runs"
        others = f"{role}, other providers that were let in"
        if placement:
            share, told = placement.get(spec.name, 0) / sum(placement.values()), ", ".join(map(str, placement.items()))
            yield at_least(CheckGroup.PROVIDER, name, share, _MOST if options.allow_fallback else 1.0, told)
        elif options.allow_fallback:
            yield inconclusive(CheckGroup.PROVIDER, name, "it does not tell, and was allowed to leave nodes to the CPU")
        else:
            yield at_most(CheckGroup.PROVIDER, others, 0.0, 0.0, "it does not tell what it runs, and nothing else may")


def _tokens(context: CheckContext) -> Iterator[Check]:
    texts, artifact = context.samples.texts, context.model.artifact
    if not isinstance(artifact, ExternalArtifact):  # other tools' folders need not have what makes a contract
        spec = read_tokenizer_spec(artifact.folder, context.checkpoint.config.text_config)
        yield _same_file(CheckGroup.TOKENS, "tokenizer_config.json", spec == context.checkpoint.tokenizer)
    yield _same_rows("runtime ids", context.our_ids, context.ids, texts)
    path = context.model.artifact.path("tokenizer.json")
    usual = [i for i, text in enumerate(texts) if _NOT_IN_FAST not in text]
    found = np.asarray(_fast_ids(context, path, [texts[i] for i in usual]))
    yield _same_rows("tokenizer.json ids", found, context.ids[usual], tuple(texts[i] for i in usual))


def _fast_ids(context: CheckContext, path: Path, texts: list[str]) -> list[list[int]]:
    """Ids by the file that other consumers read; where the file leaves it to them to cut and pad, as they do it."""
    import tokenizers

    try:
        fast = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # what the library raises has no common base but this
        raise ArtifactError(f"{path} cannot be read: {error}.", "Export the checkpoint again.") from error
    spec, length = context.checkpoint.tokenizer, context.ids.shape[1]
    if isinstance(context.model.artifact, ExternalArtifact) and fast.padding is None:
        fast.enable_truncation(length)
        fast.enable_padding(length=length, pad_id=spec.pad_id, pad_token=fast.id_to_token(spec.pad_id))
    rows = [fast.encode(text).ids for text in texts]
    return [row if len(row) == length else [-1] * length for row in rows]


def _same_rows(name: str, ours: Array, theirs: Array, texts: tuple[str, ...]) -> Check:
    if ours.shape != theirs.shape:
        return other_shape(CheckGroup.TOKENS, name, ours, theirs)
    wrong = np.flatnonzero((ours != theirs).any(1))
    detail = f"{len(texts)} texts" + (f"; first difference: {texts[wrong[0]]!r:.60}" if len(wrong) else "")
    return at_most(CheckGroup.TOKENS, f"{name} that differ", float(len(wrong)), 0.0, detail)


def _same_file(group: CheckGroup, name: str, same: bool) -> Check:
    """A file that other consumers read in the place of the contract."""
    return at_least(group, f"{name} as the checkpoint's", float(same), 1.0)


def _pixels(context: CheckContext) -> Iterator[Check]:
    spec = read_image_spec(context.model.artifact.folder, context.checkpoint.config.vision_config)
    yield _same_file(CheckGroup.PIXELS, "preprocessor_config.json", spec == context.checkpoint.image)
    image = context.model.contract.image
    # A graph that resizes comes within one of 256 levels; docs/checkpoints.md has why not closer.
    level = image.rescale / min(image.std) * _ROUNDING if image.input == "image" else 0.0
    for kind, images in (("images", context.samples.images), ("probes", context.samples.probes)):
        yield _largest_difference(context, kind, images, level)
    context.model.release(Role.VISION)


def _largest_difference(context: CheckContext, kind: str, images: Any, limit: float) -> Check:
    name, largest, worst = f"{kind}, largest difference", 0.0, ""
    for which, image in images.items():
        ours, theirs = context.seen(image), context.pixels_of([image])[0]
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            return other_shape(CheckGroup.PIXELS, f"{name}, {which}", ours, theirs)
        difference = _difference(ours, theirs)
        if not difference <= largest or not worst:  # a NaN is the largest
            largest, worst = difference, which
        if not np.isfinite(largest):
            break
    return at_most(CheckGroup.PIXELS, name, largest, limit, f"{len(images)} {kind}; worst: {worst}")


def _difference(ours: Array, theirs: Array) -> float:
    fields = [(ours[name], theirs[name]) for name in ours.dtype.names] if ours.dtype.names else [(ours, theirs)]
    return float(np.max([np.abs(a - b).max() for a, b in fields]))


def _determinism(context: CheckContext) -> Iterator[Check]:
    for role in context.towers:
        tower = context.tower(role)
        same = np.array_equal(tower.again, tower.found[0], equal_nan=True)
        difference = 0.0 if same else float(np.abs(tower.again - tower.found[0]).max())
        yield at_most(CheckGroup.DETERMINISM, f"{role}, two runs differ by", difference, 0.0)


def _batch(context: CheckContext) -> Iterator[Check]:
    for role in context.towers:
        for size, found in context.tower(role).batches.items():
            name = f"{role}, alone against a batch of {size}"
            if isinstance(found, str):
                yield failed(CheckGroup.BATCH, name, found)
            else:
                yield at_most(CheckGroup.BATCH, name, found, context.gate.batch, "1 - cosine")


_RUNGS: Final[dict[CheckGroup, Callable[[CheckContext], Iterator[Check]]]] = {
    CheckGroup.CONTRACT: _contract,
    CheckGroup.TOKENS: _tokens,
    CheckGroup.PIXELS: _pixels,
    CheckGroup.PROVIDER: _provider,
    CheckGroup.DETERMINISM: _determinism,
    CheckGroup.BATCH: _batch,
    CheckGroup.EMBEDDINGS: numbers.embeddings,
    CheckGroup.LOGITS: numbers.logits,
    CheckGroup.PROBABILITIES: numbers.probabilities,
    CheckGroup.RANKING: numbers.ranking,
    CheckGroup.ACCURACY: tasks.accuracy,
    CheckGroup.RETRIEVAL: tasks.retrieval,
    CheckGroup.NON_INFERIORITY: tasks.non_inferiority,
}
