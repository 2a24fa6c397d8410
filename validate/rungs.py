"""The rungs of the ladder, the cheapest first: what each one checks.

Each feeds a tower what the reference feeds it, so that a fault shows on the rung where it is made: wrong pixels fail
PIXELS, not EMBEDDINGS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..exporter.dialects import Dialect
from ..exporter.image_spec import read_image_spec
from ..exporter.tokenizer_spec import read_tokenizer_spec
from ..runtime.contract import Role
from ..runtime.errors import ArtifactError, SiglipOnnxError
from . import metrics
from .baseline import Baseline
from .gates import Gate
from .ladder import Ladder
from .report import Check, Rung, at_least, at_most, failed, inconclusive

Array = NDArray[Any]

BATCHES: Final = (2, 7, 32)
JOINT_SIZE: Final = 4
_JOINT: Final = ("logits_per_image", "logits_per_text", "image_embeds", "text_embeds")
_HIDDEN: Final = "last_hidden_state"
_UNIT: Final = 1e-3  # how far from 1 the length of an embedding of a normalising graph may be
_ROUNDING: Final = 1.001  # a level of 256 in float32
CHANCE: Final = 0.001  # how improbable by chance it must be that the reference finds its own captions
# A literal <unk> is the one thing that tokenizer.json cannot do as the reference; see exporter/fast_tokenizer.py.
_NOT_IN_FAST: Final = "<unk>"


def climb(ladder: Ladder) -> Iterator[Check]:
    """Every check of every rung; what cannot be measured fails its rung and hides nothing above it."""
    for rung, measure in _RUNGS.items():
        if rung not in ladder.due:
            continue
        ladder.progress(f"Checking {rung}")
        try:
            yield from measure(ladder)
        except SiglipOnnxError as error:
            yield failed(rung, "can be measured", str(error))
        except Exception as error:  # a broken artifact may break anything; whatever it is, it is no pass
            yield failed(rung, "can be measured", f"{type(error).__name__}: {error}")


def _contract(ladder: Ladder) -> Iterator[Check]:
    model, reference = ladder.model, ladder.reference
    variant = model.contract.variant(model.precision, model.options.provider)
    own = variant.files if variant else ()
    others = {path for v in model.contract.variants for path in v.files}.difference(own)
    model.artifact.verify(name for name in model.contract.files if name not in others)
    if isinstance(reference, Baseline) and not reference.judged:
        yield inconclusive(Rung.CONTRACT, "fp32 variant", "it has not passed against its checkpoint")
    for role in variant.graphs if variant else ():
        ladder.model.session(role)  # raises if the graph's interface is not the contract's
    for role in ladder.towers:
        picture = role is Role.VISION and model.contract.image.input == "picture"
        due, batch = 1 if picture else model.contract.batch, model.session(role).graph.batch
        if batch != due:
            yield failed(Rung.CONTRACT, f"{role} batch", f"{batch or 'free'}, where {due or 'a free one'} was exported")
    yield at_least(Rung.CONTRACT, "files as listed", 1.0, 1.0, f"{len(ladder.model.contract.files)} files")


def _tokens(ladder: Ladder) -> Iterator[Check]:
    texts, folder = ladder.samples.texts, ladder.model.artifact.folder
    spec = read_tokenizer_spec(folder, ladder.checkpoint.config.text_config)
    yield _same_file(Rung.TOKENS, "tokenizer_config.json", spec == ladder.checkpoint.tokenizer)
    yield _same_rows("runtime ids", ladder.our_ids, ladder.ids, texts)
    path = ladder.model.artifact.path("tokenizer.json")
    usual = [i for i, text in enumerate(texts) if _NOT_IN_FAST not in text]
    found = np.asarray(_fast_ids(str(path), [texts[i] for i in usual], ladder.ids.shape[1]))
    yield _same_rows("tokenizer.json ids", found, ladder.ids[usual], tuple(texts[i] for i in usual))


def _fast_ids(path: str, texts: list[str], length: int) -> list[list[int]]:
    import tokenizers

    try:
        fast = tokenizers.Tokenizer.from_file(path)
    except Exception as error:  # what the library raises has no common base but this
        raise ArtifactError(f"{path} cannot be read: {error}.", "Export the checkpoint again.") from error
    rows = [fast.encode(text).ids for text in texts]
    return [row if len(row) == length else [-1] * length for row in rows]


def _same_rows(name: str, ours: Array, theirs: Array, texts: tuple[str, ...]) -> Check:
    if ours.shape != theirs.shape:
        return _other_shape(Rung.TOKENS, name, ours, theirs)
    wrong = np.flatnonzero((ours != theirs).any(1))
    detail = f"{len(texts)} texts" + (f"; first difference: {texts[wrong[0]]!r:.60}" if len(wrong) else "")
    return at_most(Rung.TOKENS, f"{name} that differ", float(len(wrong)), 0.0, detail)


def _other_shape(rung: Rung, name: str, ours: Array, theirs: Array) -> Check:
    return failed(rung, name, f"{list(ours.shape)} where the reference has {list(theirs.shape)}")


def _same_file(rung: Rung, name: str, same: bool) -> Check:
    """A file that other consumers read in the place of the contract."""
    return at_least(rung, f"{name} as the checkpoint's", float(same), 1.0)


def _pixels(ladder: Ladder) -> Iterator[Check]:
    spec = read_image_spec(ladder.model.artifact.folder, ladder.checkpoint.config.vision_config)
    yield _same_file(Rung.PIXELS, "preprocessor_config.json", spec == ladder.checkpoint.image)
    image = ladder.model.contract.image
    # A graph that resizes comes within one of 256 levels; docs/checkpoints.md has why not closer.
    level = image.rescale / min(image.std) * _ROUNDING if image.input == "picture" else 0.0
    yield _largest_difference("pictures", list(ladder.samples.images), ladder.our_pixels, ladder.pixels, level)
    probes = list(ladder.samples.probes.values())
    ours, theirs = ladder.seen(probes), ladder.reference.pixels(probes)
    yield _largest_difference("probes", list(ladder.samples.probes), ours, theirs, level)


def _largest_difference(kind: str, names: list[str], ours: Array, theirs: Array, limit: float) -> Check:
    name = f"{kind}, largest difference"
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return _other_shape(Rung.PIXELS, name, ours, theirs)
    fields = [(ours[field], theirs[field]) for field in ours.dtype.names] if ours.dtype.names else [(ours, theirs)]
    differences = np.max([np.abs(a - b).reshape(len(a), -1).max(1) for a, b in fields], axis=0)
    worst = int(differences.argmax())
    return at_most(Rung.PIXELS, name, float(differences[worst]), limit, f"{len(names)} {kind}; worst: {names[worst]}")


def _determinism(ladder: Ladder) -> Iterator[Check]:
    for role, rows in ladder.inputs.items():
        first, second = (ladder.model.encode(role, rows[:1]) for _ in range(2))
        yield at_most(Rung.DETERMINISM, f"{role}, two runs differ by", float(np.abs(first - second).max()), 0.0)


def _embeddings(ladder: Ladder) -> Iterator[Check]:
    names = {Role.VISION: tuple(ladder.samples.images), Role.TEXT: ladder.samples.texts}
    for role in ladder.towers:
        yield from _tower(ladder, role, names[role])


def _tower(ladder: Ladder, role: Role, names: tuple[str, ...]) -> Iterator[Check]:
    ours, theirs, gate, rung = ladder.found[role], ladder.wanted[role], ladder.gate, Rung.EMBEDDINGS
    if ladder.model.contract.embedding.normalized:
        theirs = metrics.unit(theirs)
        yield at_most(rung, f"{role} length - 1", float(np.abs(np.linalg.norm(ours, axis=1) - 1).max()), _UNIT)
    due = (len(theirs), ladder.model.contract.embedding.size)
    if not ours.shape == theirs.shape == due:
        yield failed(rung, f"{role} shape", f"{list(ours.shape)}; reference {list(theirs.shape)}, contract {list(due)}")
        return
    if len(ladder.samples.images) < gate.samples:
        yield inconclusive(rung, f"{role} rows", f"{len(ladder.samples.images)} pairs; {gate.samples} are needed")
        return
    broken = np.flatnonzero(~np.isfinite(ours).all(axis=1))
    detail = f"first: {names[broken[0]]!r:.60}" if len(broken) else f"{len(ours)} rows"
    yield at_most(rung, f"{role} rows with NaN or Inf", float(len(broken)), 0.0, detail)
    raw, centred = metrics.row_cosines(ours, theirs), metrics.centred_cosines(ours, theirs)
    for name, values, limit in (("cosine", raw, gate.cosine), ("centred cosine", centred, gate.centred_cosine)):
        worst = f"worst: {names[int(np.argmin(values))]!r:.60}"  # a NaN counts as the smallest
        for which, share in (("min", 0.0), ("p0.1", 0.001), ("p1", 0.01), ("median", 0.5)):
            yield at_least(rung, f"{role} {name} {which}", metrics.lowest(values, share), limit, worst)
    yield at_most(rung, f"{role} relative error", metrics.relative_error(ours, theirs), gate.relative_error)
    if _HIDDEN in {spec.name for spec in ladder.model.session(role).graph.outputs}:
        yield _hidden(ladder, role)


def _hidden(ladder: Ladder, role: Role) -> Check:
    """The other output of a tower, on a few rows."""
    ours = ladder.model.session(role).rows(ladder.inputs[role][:1], [_HIDDEN])[_HIDDEN]
    theirs = ladder.reference.hidden(role, (ladder.pixels if role is Role.VISION else ladder.ids)[:1])
    return _close(Rung.EMBEDDINGS, f"{role} last_hidden_state relative error", ours, theirs, ladder.gate)


def _close(rung: Rung, name: str, ours: Array, theirs: Array, gate: Gate) -> Check:
    if ours.shape != theirs.shape:
        return _other_shape(rung, name, ours, theirs)
    return at_most(rung, name, metrics.relative_error(ours, theirs), gate.relative_error)


def _logits(ladder: Ladder) -> Iterator[Check]:
    least = len(ladder.samples.images) if ladder.frozen else min(len(ladder.samples.images), len(ladder.choices))
    if least < ladder.gate.samples:
        yield inconclusive(Rung.LOGITS, "pictures and labels", f"{ladder.gate.samples} of each are needed")
        return
    ours, theirs = ladder.label_logits
    difference, gate, rung = np.abs(ours - theirs), ladder.gate, Rung.LOGITS
    slope, offset = metrics.line_fit(ours, theirs)
    yield at_most(rung, "difference max", float(difference.max()), gate.logit_max, f"{difference.size} logits")
    yield at_most(rung, "difference p99.9", float(np.quantile(difference, 0.999)), gate.logit_p999)
    yield at_most(rung, "offset", abs(offset), gate.logit_offset)
    yield at_most(rung, "slope - 1", abs(slope - 1), gate.logit_slope)
    if ladder.frozen is None:
        yield from _joint(ladder)
    elif foreign := _foreign(ladder):
        pairs = ladder.ids[ladder.rows(ladder.samples.pairs)]  # RETRIEVAL, where this is checked else, is not due
        texts = ladder.reference.embeddings(Role.TEXT, pairs)
        known = ladder.reference.logits(ladder.wanted[Role.VISION], texts)
        yield _sense(rung, known, _truth(pairs), foreign)


def _joint(ladder: Ladder) -> Iterator[Check]:
    """The joint graph, which other consumers run, on a few pictures and texts, or as many as it is fixed to."""
    chosen: dict[Role, Array] = {}
    feeds: dict[str, Array] = {}
    for role, count in ((Role.VISION, JOINT_SIZE), (Role.TEXT, JOINT_SIZE + 1)):
        rows, session = ladder.inputs[role], ladder.model.session(role)
        chosen[role] = np.arange(session.graph.batch or count) % len(rows)
        feeds |= session.feeds(rows[chosen[role]])
    found = ladder.model.session(Role.JOINT).run(feeds, _JOINT)
    images, texts = (ladder.wanted[role][chosen[role]] for role in (Role.VISION, Role.TEXT))
    logits = ladder.reference.logits(images, texts)
    for name, wanted in (("logits_per_image", logits), ("logits_per_text", logits.T)):
        ours, title = found[name], f"joint graph, {name} difference max"
        if ours.shape != wanted.shape:
            yield _other_shape(Rung.LOGITS, title, ours, wanted)
        else:
            yield at_most(Rung.LOGITS, title, float(np.abs(ours - wanted).max()), ladder.gate.logit_max)
    for name, wanted in (("image_embeds", images), ("text_embeds", texts)):
        title = f"joint graph, {name} relative error"
        yield _close(Rung.LOGITS, title, found[name], metrics.unit(wanted), ladder.gate)


def _probabilities(ladder: Ladder) -> Iterator[Check]:
    ours, theirs = map(metrics.sigmoid, ladder.label_logits)
    drift = np.abs(ours - theirs)
    yield at_most(Rung.PROBABILITIES, "drift max", float(drift.max()), ladder.gate.probability)
    found = ladder.users_probabilities(JOINT_SIZE)
    largest = float(np.abs(found - theirs[: found.shape[0], : found.shape[1]]).max())
    yield at_most(Rung.PROBABILITIES, "as the runtime's users get them, drift max", largest, ladder.gate.probability)


def _ranking(ladder: Ladder) -> Iterator[Check]:
    ours, theirs = ladder.label_logits
    images, labels = ours.shape
    if (images if ladder.frozen else min(images, labels)) < ladder.gate.samples:
        yield inconclusive(Rung.RANKING, "pictures and labels", f"{images} pictures and {labels} labels")
        return
    agreement = metrics.agreement(ours, theirs, tie=ladder.gate.tie)
    names = list(ladder.samples.images)
    detail = f"{images} pictures, {labels} labels"
    if agreement.worst is not None:
        detail += f"; first difference: {names[agreement.worst]}"
    yield at_least(Rung.RANKING, "top-1 agreement", agreement.top1, ladder.gate.top1, detail)
    yield at_least(Rung.RANKING, "top-5 agreement", agreement.topk, ladder.gate.top5, detail)


def _retrieval(ladder: Ladder) -> Iterator[Check]:
    pairs = ladder.rows(ladder.samples.pairs)
    if len(pairs) < ladder.gate.samples:
        yield inconclusive(Rung.RETRIEVAL, "pairs", f"{len(pairs)} pairs; {ladder.gate.samples} are needed")
        return
    ours, theirs = ladder.logits(pairs)
    truth = _truth(ladder.ids[pairs])
    if foreign := _foreign(ladder):
        yield _sense(Rung.RETRIEVAL, theirs, truth, foreign)
    for way, turn in (("image to text", lambda x: x), ("text to image", np.transpose)):
        for k in (1, 5):
            before, after = (metrics.recall(turn(x), turn(truth), k) for x in (theirs, ours))
            lost = metrics.recall_lost(turn(ours), turn(theirs), turn(truth), k, ladder.gate.tie)
            detail = f"{before:.4f} to {after:.4f} on {len(pairs)} pairs"
            yield at_most(Rung.RETRIEVAL, f"{way} R@{k} lost", lost, ladder.gate.recall_drop, detail)


def _truth(ids: Array) -> NDArray[np.bool_]:
    """Which caption is true of which picture, [pairs, pairs]: its own, and those that read the same."""
    return np.asarray((ids[:, None] == ids[None]).all(2))


def _foreign(ladder: Ladder) -> Dialect | None:
    """The dialect of the checkpoint, where it is not the one that transformers reads itself."""
    dialect = ladder.source.weights.dialect if ladder.source else Dialect.TRANSFORMERS
    return None if dialect is Dialect.TRANSFORMERS else dialect


def _sense(rung: Rung, logits: Array, truth: NDArray[np.bool_], dialect: Dialect) -> Check:
    """Whether the reference finds its own captions better than by chance.

    transformers reads no dialect but its own, so for the others the reference stands on our reading of the file, and a
    wrong one (a square weight turned the wrong way, say) would be on both sides. What is read wrongly makes no sense.
    """
    hits = metrics.recall(logits, truth, 1) * len(logits)
    chance = metrics.at_least_by_chance(round(hits), truth.mean(axis=1))
    name = f"chance that the checkpoint, read as {dialect}, finds its captions by luck"
    detail = f"{round(hits)} of {len(logits)} pictures"
    if chance <= CHANCE:
        return at_most(rung, name, chance, CHANCE, detail)
    advice = "give --data that the model was trained for; if it stays so, the weights are untrained or read wrongly"
    return inconclusive(rung, name, f"{chance:.2g} where {CHANCE} is due; {detail}; {advice}")


def _batch(ladder: Ladder) -> Iterator[Check]:
    for role, rows in ladder.inputs.items():
        for size in BATCHES:
            name = f"{role}, alone against a batch of {size}"
            chosen = np.arange(size) % len(rows)
            try:
                together = ladder.model.encode(role, rows[chosen])
            except SiglipOnnxError as error:
                yield failed(Rung.BATCH, name, str(error))
                continue
            cosines = metrics.row_cosines(together, ladder.found[role][chosen])
            yield at_most(Rung.BATCH, name, 1 - metrics.lowest(cosines, 0.0), ladder.gate.batch, "1 - cosine")


_RUNGS: Final[dict[Rung, Callable[[Ladder], Iterator[Check]]]] = {
    Rung.CONTRACT: _contract,
    Rung.TOKENS: _tokens,
    Rung.PIXELS: _pixels,
    Rung.DETERMINISM: _determinism,
    Rung.EMBEDDINGS: _embeddings,
    Rung.LOGITS: _logits,
    Rung.PROBABILITIES: _probabilities,
    Rung.RANKING: _ranking,
    Rung.RETRIEVAL: _retrieval,
    Rung.BATCH: _batch,
}
