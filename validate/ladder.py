"""The ladder of checks, the cheapest first.

Each rung feeds a tower what the reference feeds it, so that a fault shows on the rung where it is made: wrong pixels
fail PIXELS, not EMBEDDINGS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ..runtime.contract import Role
from ..runtime.errors import SiglipOnnxError
from ..runtime.model import Siglip, normalized
from . import metrics
from .gates import Gate
from .reference import Reference
from .report import Check, Rung, at_least, at_most, failed, inconclusive
from .samples import Samples

Progress = Callable[[str], None]
Array = NDArray[Any]

BATCHES: Final = (2, 7, 32)
JOINT_SIZE: Final = 4
# A literal <unk> is the one thing that tokenizer.json cannot do as the reference; see exporter/fast_tokenizer.py.
_NOT_IN_FAST: Final = "<unk>"


class Ladder:
    """Everything that the rungs measure, each computed once and when it is first needed.

    Args:
        model: What is judged.
        reference: What it is compared with.
        samples: On what.
        gate: The limits.
        progress: Told what is being done, in a few words, before each longer step.
    """

    def __init__(self, model: Siglip, reference: Reference, samples: Samples, gate: Gate, progress: Progress) -> None:
        self.model, self.reference, self.samples, self.gate = model, reference, samples, gate
        self.progress = progress

    def climb(self) -> Iterator[Check]:
        """Every check of every rung; what cannot be measured fails its rung and hides nothing above it."""
        for rung, measure in _RUNGS.items():
            self.progress(f"Checking {rung}")
            try:
                yield from measure(self)
            except SiglipOnnxError as error:
                yield failed(rung, "can be measured", str(error))

    @cached_property
    def ids(self) -> NDArray[np.int64]:
        """The reference's ids of every text, int64 [texts, length]."""
        return self.reference.ids(self.samples.texts)

    @cached_property
    def our_ids(self) -> NDArray[np.int64]:
        """The runtime's ids of every text."""
        return self.model.tokenizer(self.samples.texts)

    @cached_property
    def pixels(self) -> Array:
        """The reference's pixels of every picture, float32 [images, 3, height, width]."""
        return self.reference.pixels(list(self.samples.images.values()))

    @cached_property
    def our_pixels(self) -> Array:
        """The runtime's pixels of every picture."""
        return self.model.images(list(self.samples.images.values()))

    @cached_property
    def wanted(self) -> dict[Role, Array]:
        """The reference's embeddings, [rows, size], of its own pixels and ids."""
        self.progress("Running the reference")
        self.reference.check_logits(self.pixels, self.ids)
        return {
            Role.VISION: np.concatenate(list(self.reference.image_embeddings(self.pixels))),
            Role.TEXT: np.concatenate(list(self.reference.text_embeddings(self.ids))),
        }

    @cached_property
    def found(self) -> dict[Role, Array]:
        """Our embeddings of the reference's pixels and ids, each row run alone."""
        return {Role.VISION: self._alone(Role.VISION, self.pixels), Role.TEXT: self._alone(Role.TEXT, self.ids)}

    def _alone(self, role: Role, rows: Array) -> Array:
        self.progress(f"Running the {role} tower")
        return np.concatenate([self.model.encode(role, rows[i : i + 1]) for i in range(len(rows))])

    @cached_property
    def end_to_end(self) -> dict[Role, Array]:
        """Our embeddings of our own pixels and ids; the towers run again only where these differ."""
        inputs = {Role.VISION: (self.our_pixels, self.pixels), Role.TEXT: (self.our_ids, self.ids)}
        return {
            role: self.found[role] if np.array_equal(ours, theirs) else self._alone(role, ours)
            for role, (ours, theirs) in inputs.items()
        }

    def rows(self, texts: tuple[str, ...]) -> list[int]:
        """Where texts stand among `samples.texts`."""
        place = {text: i for i, text in enumerate(self.samples.texts)}
        return [place[text] for text in texts]

    @cached_property
    def choices(self) -> list[int]:
        """Labels among the texts, those with the same ids only once."""
        rows = self.rows(self.samples.labels)
        return list({self.ids[row].tobytes(): row for row in reversed(rows)}.values())[::-1]

    def logits(self, texts: list[int]) -> tuple[Array, Array]:
        """Our logits and the reference's, [images, texts], from the files to the end."""
        ours, theirs = self.end_to_end, self.wanted
        found = self.model.logits(normalized(ours[Role.VISION]), normalized(ours[Role.TEXT][texts]))
        return found, self.reference.logits(theirs[Role.VISION], theirs[Role.TEXT][texts])


def _contract(ladder: Ladder) -> Iterator[Check]:
    ladder.model.artifact.verify()
    for role in Role:
        ladder.model.session(role)  # raises if the graph's interface is not the contract's
    yield at_least(Rung.CONTRACT, "files as listed", 1.0, 1.0, f"{len(ladder.model.contract.files)} files")


def _tokens(ladder: Ladder) -> Iterator[Check]:
    texts = ladder.samples.texts
    yield _same_rows("runtime ids", ladder.our_ids, ladder.ids, texts)
    path = ladder.model.artifact.path("tokenizer.json")
    usual = [i for i, text in enumerate(texts) if _NOT_IN_FAST not in text]
    found = np.asarray(_fast_ids(str(path), [texts[i] for i in usual], ladder.ids.shape[1]))
    yield _same_rows("tokenizer.json ids", found, ladder.ids[usual], tuple(texts[i] for i in usual))


def _fast_ids(path: str, texts: list[str], length: int) -> list[list[int]]:
    import tokenizers

    fast = tokenizers.Tokenizer.from_file(path)
    rows = [fast.encode(text).ids for text in texts]
    return [row if len(row) == length else [-1] * length for row in rows]


def _same_rows(name: str, ours: Array, theirs: Array, texts: tuple[str, ...]) -> Check:
    wrong = np.flatnonzero((ours != theirs).any(1))
    detail = f"{len(texts)} texts" + (f"; first difference: {texts[wrong[0]]!r:.60}" if len(wrong) else "")
    return at_most(Rung.TOKENS, f"{name} that differ", float(len(wrong)), 0.0, detail)


def _pixels(ladder: Ladder) -> Iterator[Check]:
    yield _largest_difference("pictures", list(ladder.samples.images), ladder.our_pixels, ladder.pixels)
    probes = list(ladder.samples.probes.values())
    ours, theirs = ladder.model.images(probes), ladder.reference.pixels(probes)
    yield _largest_difference("probes", list(ladder.samples.probes), ours, theirs)


def _largest_difference(kind: str, names: list[str], ours: Array, theirs: Array) -> Check:
    name = f"{kind}, largest difference"
    if ours.shape != theirs.shape:
        return failed(Rung.PIXELS, name, f"{list(ours.shape)} where the reference has {list(theirs.shape)}")
    differences = np.abs(ours - theirs).max((1, 2, 3))
    worst = int(differences.argmax())
    return at_most(Rung.PIXELS, name, float(differences[worst]), 0.0, f"{len(names)} {kind}; worst: {names[worst]}")


def _determinism(ladder: Ladder) -> Iterator[Check]:
    for role, inputs in ((Role.VISION, ladder.pixels[:1]), (Role.TEXT, ladder.ids[:1])):
        first, second = (ladder.model.encode(role, inputs) for _ in range(2))
        yield at_most(Rung.DETERMINISM, f"{role}, two runs differ by", float(np.abs(first - second).max()), 0.0)


def _embeddings(ladder: Ladder) -> Iterator[Check]:
    for role, names in ((Role.VISION, tuple(ladder.samples.images)), (Role.TEXT, ladder.samples.texts)):
        yield from _tower(ladder, role, names)


def _tower(ladder: Ladder, role: Role, names: tuple[str, ...]) -> Iterator[Check]:
    ours, theirs, gate, rung = ladder.found[role], ladder.wanted[role], ladder.gate, Rung.EMBEDDINGS
    if ours.shape != theirs.shape:
        yield failed(rung, f"{role} shape", f"{list(ours.shape)} where the reference has {list(theirs.shape)}")
        return
    if len(ours) < gate.samples:
        yield inconclusive(rung, f"{role} rows", f"{len(ours)} rows; {gate.samples} are needed")
    broken = np.flatnonzero(~np.isfinite(ours).all(1))
    detail = f"first: {names[broken[0]]!r:.60}" if len(broken) else f"{len(ours)} rows"
    yield at_most(rung, f"{role} rows with NaN or Inf", float(len(broken)), 0.0, detail)
    raw, centred = metrics.row_cosines(ours, theirs), metrics.centred_cosines(ours, theirs)
    for name, values, limit in (("cosine", raw, gate.cosine), ("centred cosine", centred, gate.centred_cosine)):
        worst = f"worst: {names[int(np.argmin(values))]!r:.60}"  # a NaN counts as the smallest
        for which, share in (("min", 0.0), ("p0.1", 0.001), ("p1", 0.01), ("median", 0.5)):
            yield at_least(rung, f"{role} {name} {which}", metrics.lowest(values, share), limit, worst)
    yield at_most(rung, f"{role} relative error", metrics.relative_error(ours, theirs), gate.relative_error)


def _logits(ladder: Ladder) -> Iterator[Check]:
    ours, theirs = ladder.logits(ladder.choices)
    difference, gate, rung = np.abs(ours - theirs), ladder.gate, Rung.LOGITS
    slope, offset = metrics.line_fit(ours, theirs)
    yield at_most(rung, "difference max", float(difference.max()), gate.logit_max, f"{difference.size} logits")
    yield at_most(rung, "difference p99.9", float(np.quantile(difference, 0.999)), gate.logit_p999)
    yield at_most(rung, "offset", abs(offset), gate.logit_offset)
    yield at_most(rung, "slope - 1", abs(slope - 1), gate.logit_slope)
    yield _joint(ladder)


def _joint(ladder: Ladder) -> Check:
    """The joint graph, which other consumers run, on a few pictures and texts."""
    pixels, ids = ladder.pixels[:JOINT_SIZE], ladder.ids[: JOINT_SIZE + 1]
    found = ladder.model.session(Role.JOINT).run({"pixel_values": pixels, "input_ids": ids})["logits_per_image"]
    wanted = ladder.reference.logits(ladder.wanted[Role.VISION][: len(pixels)], ladder.wanted[Role.TEXT][: len(ids)])
    name = "joint graph, difference max"
    if found.shape != wanted.shape:
        return failed(Rung.LOGITS, name, f"{list(found.shape)} where the reference has {list(wanted.shape)}")
    return at_most(Rung.LOGITS, name, float(np.abs(found - wanted).max()), ladder.gate.logit_max)


def _probabilities(ladder: Ladder) -> Iterator[Check]:
    ours, theirs = map(metrics.sigmoid, ladder.logits(ladder.choices))
    drift = np.abs(ours - theirs)
    yield at_most(Rung.PROBABILITIES, "drift max", float(drift.max()), ladder.gate.probability)


def _ranking(ladder: Ladder) -> Iterator[Check]:
    ours, theirs = ladder.logits(ladder.choices)
    images, labels = ours.shape
    if images < ladder.gate.samples or labels < 2:
        yield inconclusive(Rung.RANKING, "pictures and labels", f"{images} pictures and {labels} labels")
        return
    agreement = metrics.agreement(ours, theirs)
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
    ids = ladder.ids[pairs]
    truth = (ids[:, None] == ids[None]).all(2)
    for way, turn in (("image to text", lambda x: x), ("text to image", np.transpose)):
        for k in (1, 5):
            before, after = (metrics.recall(turn(x), turn(truth), k) for x in (theirs, ours))
            detail = f"{before:.4f} to {after:.4f} on {len(pairs)} pairs"
            yield at_most(Rung.RETRIEVAL, f"{way} R@{k} lost", before - after, ladder.gate.recall_drop, detail)


def _batch(ladder: Ladder) -> Iterator[Check]:
    for role, rows in ((Role.VISION, ladder.pixels), (Role.TEXT, ladder.ids)):
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
