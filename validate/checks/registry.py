"""The rungs of the ladder, the cheapest first, and how they are climbed.

Each feeds a tower what the reference feeds it, so that a fault shows on the rung where it is made: wrong pixels fail
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
from ...runtime.artifact.contract import Role, Yardstick
from ...runtime.engines.providers import PROVIDERS
from ...runtime.errors import ArtifactError, SiglipOnnxError
from ..external.open_external import BorrowingArtifact
from ..report.report import OPTIONAL, Check, Rung, at_least, at_most, failed, inconclusive
from . import numeric as numbers
from . import tasks as tasks
from .context import Ladder
from .numeric import other_shape

Array = NDArray[Any]

_ROUNDING: Final = 1.001  # a level of 256 in float32
_MOST: Final = 0.5  # share of the nodes that a provider must run itself where the rest may go to the CPU
# A literal <unk> is the one thing that tokenizer.json cannot do as the reference; see exporter/tokenizer_json.py.
_NOT_IN_FAST: Final = "<unk>"


def rungs_due(ladder: Ladder) -> frozenset[Rung]:
    """The rungs that a verdict stands on: all for which there is something to compare with."""
    samples, texts = ladder.samples, Role.TEXT in ladder.towers
    absent = {
        # A variant shares its tokenizer and pixels with the fp32 variant, whose own verdict has judged them.
        Rung.TOKENS: ladder.against is Yardstick.FP32 or not texts,
        Rung.PIXELS: ladder.against is Yardstick.FP32,
        Rung.ACCURACY: not samples.classes or not texts,
        Rung.RETRIEVAL: not samples.pairs or not texts,
        Rung.NON_INFERIORITY: samples.bundled or not (samples.classes or samples.pairs) or not texts,
    }
    due = {rung for rung in Rung if rung not in OPTIONAL and not absent.get(rung, False)}
    return frozenset(due - ladder.without)


def climb(ladder: Ladder, due: frozenset[Rung]) -> Iterator[Check]:
    """Every check of every rung; what cannot be measured fails its rung and hides nothing above it."""
    for rung, measure in _RUNGS.items():
        if rung not in due:
            continue
        ladder.progress(f"Checking {rung}")
        try:
            yield from measure(ladder)
        except SiglipOnnxError as error:
            yield failed(rung, "can be measured", str(error))
        except Exception as error:  # a broken artifact may break anything; whatever it is, it is no pass
            yield failed(rung, "can be measured", f"{type(error).__name__}: {error}")


def _contract(ladder: Ladder) -> Iterator[Check]:
    model = ladder.model
    variant = model.contract.variant(model.precision, model.options.provider)
    own = variant.files if variant else ()
    others = {path for v in model.contract.variants for path in v.files}.difference(own)
    model.artifact.verify(name for name in model.contract.files if name not in others)
    if ladder.baseline is not None and not ladder.baseline.judged:
        yield inconclusive(Rung.CONTRACT, "fp32 variant", "it has not passed against its checkpoint")
    for role in variant.graphs if variant else ():
        model.session(role)  # raises if the graph's interface is not the contract's
        if role in ladder.towers:
            yield from _right_batch(ladder, role)
        model.release(role)
    yield at_least(Rung.CONTRACT, "files as listed", 1.0, 1.0, f"{len(model.contract.files)} files")


def _right_batch(ladder: Ladder, role: Role) -> Iterator[Check]:
    contract = ladder.model.contract
    if isinstance(ladder.model.artifact, BorrowingArtifact):
        return  # nobody said which batch was meant
    picture = role is Role.VISION and contract.image.input == "picture"
    due, batch = 1 if picture else contract.batch, ladder.model.session(role).graph.batch
    if batch != due:
        yield failed(Rung.CONTRACT, f"{role} batch", f"{batch or 'free'}, where {due or 'a free one'} was exported")


def _provider(ladder: Ladder) -> Iterator[Check]:
    """Whether the provider that was asked for runs the graphs, which not every program's list of providers proves."""
    options = ladder.model.options
    spec = PROVIDERS[options.provider]
    for role in ladder.towers:
        placement, name = ladder.tower(role).placement, f"{role}, share of the nodes that {options.provider} runs"
        others = f"{role}, other providers that were let in"
        if placement:
            share, told = placement.get(spec.name, 0) / sum(placement.values()), ", ".join(map(str, placement.items()))
            yield at_least(Rung.PROVIDER, name, share, _MOST if options.allow_fallback else 1.0, told)
        elif options.allow_fallback:
            yield inconclusive(Rung.PROVIDER, name, "it does not tell, and was allowed to leave nodes to the CPU")
        else:
            yield at_most(Rung.PROVIDER, others, 0.0, 0.0, "it does not tell what it runs, and nothing else may")


def _tokens(ladder: Ladder) -> Iterator[Check]:
    texts, artifact = ladder.samples.texts, ladder.model.artifact
    if not isinstance(artifact, BorrowingArtifact):  # other tools' folders need not have what makes a contract
        spec = read_tokenizer_spec(artifact.folder, ladder.checkpoint.config.text_config)
        yield _same_file(Rung.TOKENS, "tokenizer_config.json", spec == ladder.checkpoint.tokenizer)
    yield _same_rows("runtime ids", ladder.our_ids, ladder.ids, texts)
    path = ladder.model.artifact.path("tokenizer.json")
    usual = [i for i, text in enumerate(texts) if _NOT_IN_FAST not in text]
    found = np.asarray(_fast_ids(ladder, path, [texts[i] for i in usual]))
    yield _same_rows("tokenizer.json ids", found, ladder.ids[usual], tuple(texts[i] for i in usual))


def _fast_ids(ladder: Ladder, path: Path, texts: list[str]) -> list[list[int]]:
    """Ids by the file that other consumers read; where the file leaves it to them to cut and pad, as they do it."""
    import tokenizers

    try:
        fast = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # what the library raises has no common base but this
        raise ArtifactError(f"{path} cannot be read: {error}.", "Export the checkpoint again.") from error
    spec, length = ladder.checkpoint.tokenizer, ladder.ids.shape[1]
    if isinstance(ladder.model.artifact, BorrowingArtifact) and fast.padding is None:
        fast.enable_truncation(length)
        fast.enable_padding(length=length, pad_id=spec.pad_id, pad_token=fast.id_to_token(spec.pad_id))
    rows = [fast.encode(text).ids for text in texts]
    return [row if len(row) == length else [-1] * length for row in rows]


def _same_rows(name: str, ours: Array, theirs: Array, texts: tuple[str, ...]) -> Check:
    if ours.shape != theirs.shape:
        return other_shape(Rung.TOKENS, name, ours, theirs)
    wrong = np.flatnonzero((ours != theirs).any(1))
    detail = f"{len(texts)} texts" + (f"; first difference: {texts[wrong[0]]!r:.60}" if len(wrong) else "")
    return at_most(Rung.TOKENS, f"{name} that differ", float(len(wrong)), 0.0, detail)


def _same_file(rung: Rung, name: str, same: bool) -> Check:
    """A file that other consumers read in the place of the contract."""
    return at_least(rung, f"{name} as the checkpoint's", float(same), 1.0)


def _pixels(ladder: Ladder) -> Iterator[Check]:
    spec = read_image_spec(ladder.model.artifact.folder, ladder.checkpoint.config.vision_config)
    yield _same_file(Rung.PIXELS, "preprocessor_config.json", spec == ladder.checkpoint.image)
    image = ladder.model.contract.image
    # A graph that resizes comes within one of 256 levels; docs/checkpoints.md has why not closer.
    level = image.rescale / min(image.std) * _ROUNDING if image.input == "picture" else 0.0
    for kind, pictures in (("pictures", ladder.samples.images), ("probes", ladder.samples.probes)):
        yield _largest_difference(ladder, kind, pictures, level)
    ladder.model.release(Role.VISION)


def _largest_difference(ladder: Ladder, kind: str, pictures: Any, limit: float) -> Check:
    name, largest, worst = f"{kind}, largest difference", 0.0, ""
    for which, picture in pictures.items():
        ours, theirs = ladder.seen(picture), ladder.pixels_of([picture])[0]
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            return other_shape(Rung.PIXELS, f"{name}, {which}", ours, theirs)
        difference = _difference(ours, theirs)
        if not difference <= largest or not worst:  # a NaN is the largest
            largest, worst = difference, which
        if not np.isfinite(largest):
            break
    return at_most(Rung.PIXELS, name, largest, limit, f"{len(pictures)} {kind}; worst: {worst}")


def _difference(ours: Array, theirs: Array) -> float:
    fields = [(ours[name], theirs[name]) for name in ours.dtype.names] if ours.dtype.names else [(ours, theirs)]
    return float(np.max([np.abs(a - b).max() for a, b in fields]))


def _determinism(ladder: Ladder) -> Iterator[Check]:
    for role in ladder.towers:
        tower = ladder.tower(role)
        same = np.array_equal(tower.again, tower.found[0], equal_nan=True)
        difference = 0.0 if same else float(np.abs(tower.again - tower.found[0]).max())
        yield at_most(Rung.DETERMINISM, f"{role}, two runs differ by", difference, 0.0)


def _batch(ladder: Ladder) -> Iterator[Check]:
    for role in ladder.towers:
        for size, found in ladder.tower(role).batches.items():
            name = f"{role}, alone against a batch of {size}"
            if isinstance(found, str):
                yield failed(Rung.BATCH, name, found)
            else:
                yield at_most(Rung.BATCH, name, found, ladder.gate.batch, "1 - cosine")


_RUNGS: Final[dict[Rung, Callable[[Ladder], Iterator[Check]]]] = {
    Rung.CONTRACT: _contract,
    Rung.TOKENS: _tokens,
    Rung.PIXELS: _pixels,
    Rung.PROVIDER: _provider,
    Rung.DETERMINISM: _determinism,
    Rung.BATCH: _batch,
    Rung.EMBEDDINGS: numbers.embeddings,
    Rung.LOGITS: numbers.logits,
    Rung.PROBABILITIES: numbers.probabilities,
    Rung.RANKING: numbers.ranking,
    Rung.ACCURACY: tasks.accuracy,
    Rung.RETRIEVAL: tasks.retrieval,
    Rung.NON_INFERIORITY: tasks.non_inferiority,
}
