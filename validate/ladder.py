"""The ladder of checks, the cheapest first.

Each rung feeds a tower what the reference feeds it, so that a fault shows on the rung where it is made: wrong pixels
fail PIXELS, not EMBEDDINGS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from ..exporter.image_spec import read_image_spec
from ..exporter.tokenizer_spec import read_tokenizer_spec
from ..runtime.contract import Role, Yardstick
from ..runtime.errors import ArtifactError, SiglipOnnxError
from ..runtime.model import Siglip, normalized
from . import metrics
from .baseline import Baseline
from .gates import Gate
from .reference import Reference
from .report import RUNGS, Check, Rung, at_least, at_most, failed, inconclusive
from .samples import Samples

if TYPE_CHECKING:
    from ..exporter.checkpoint import Checkpoint

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
        source: The checkpoint that it was made from; None to compare with the fp32 variant.
        reference: What is right: the checkpoint as transformers computes it, or the fp32 variant.
        samples: On what.
        gate: The limits.
        progress: Told what is being done, in a few words, before each longer step.
    """

    def __init__(
        self,
        model: Siglip,
        source: Checkpoint | None,
        reference: Reference | Baseline,
        samples: Samples,
        gate: Gate,
        progress: Progress,
    ) -> None:
        self.model, self.source, self.reference = model, source, reference
        self.samples, self.gate, self.progress = samples, gate, progress

    def prepare(self) -> None:
        """Read the data and try the reference.

        Raises:
            InputError: A picture or text cannot be read.
            CheckpointError: The reference contradicts itself.
        """
        self.progress("Reading the data")
        if isinstance(self.reference, Reference):
            self.reference.check_logits(self.pixels, self.ids)
        else:
            _ = self.pixels

    def climb(self) -> Iterator[Check]:
        """Every check of every rung; what cannot be measured fails its rung and hides nothing above it."""
        for rung, measure in _RUNGS.items():
            if rung not in RUNGS[self.against]:
                continue
            self.progress(f"Checking {rung}")
            try:
                yield from measure(self)
            except SiglipOnnxError as error:
                yield failed(rung, "can be measured", str(error))
            except Exception as error:  # a broken artifact may break anything; whatever it is, it is no pass
                yield failed(rung, "can be measured", f"{type(error).__name__}: {error}")

    @property
    def against(self) -> Yardstick:
        """What the model is compared with."""
        return Yardstick.FP32 if self.source is None else Yardstick.CHECKPOINT

    @property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint, for the rungs that are climbed only where there is one."""
        assert self.source is not None  # noqa: S101  see RUNGS
        return self.source

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
    def inputs(self) -> dict[Role, Array]:
        """What the reference feeds each tower: its own pixels and ids."""
        return {Role.VISION: self.pixels, Role.TEXT: self.ids}

    @cached_property
    def wanted(self) -> dict[Role, Array]:
        """The reference's embeddings, [rows, size], of its own inputs."""
        self.progress("Running the reference")
        return {role: self.reference.embeddings(role, rows) for role, rows in self.inputs.items()}

    @cached_property
    def found(self) -> dict[Role, Array]:
        """Our embeddings of the reference's inputs, each row run alone."""
        return {role: self._alone(role, rows) for role, rows in self.inputs.items()}

    def _alone(self, role: Role, rows: Array) -> Array:
        self.progress(f"Running the {role} tower")
        return np.concatenate([self.model.encode(role, rows[i : i + 1]) for i in range(len(rows))])

    @cached_property
    def end_to_end(self) -> dict[Role, Array]:
        """Our embeddings of our own inputs; the towers run again only where these differ."""
        ours = {Role.VISION: self.our_pixels, Role.TEXT: self.our_ids}
        return {
            role: self.found[role] if np.array_equal(rows, self.inputs[role]) else self._alone(role, rows)
            for role, rows in ours.items()
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

    @cached_property
    def label_logits(self) -> tuple[Array, Array]:
        """`logits` of every picture and label."""
        return self.logits(self.choices)

    def logits(self, texts: list[int]) -> tuple[Array, Array]:
        """Our logits and the reference's, [images, texts], from the files to the end."""
        ours, theirs = self.end_to_end, self.wanted
        found = self.model.logits(normalized(ours[Role.VISION]), normalized(ours[Role.TEXT][texts]))
        return found, self.reference.logits(theirs[Role.VISION], theirs[Role.TEXT][texts])


def _contract(ladder: Ladder) -> Iterator[Check]:
    model, reference = ladder.model, ladder.reference
    variant = model.contract.variant(model.precision, model.options.provider)
    own = variant.files if variant else ()
    others = {path for v in model.contract.variants for path in v.files}.difference(own)
    model.artifact.verify(name for name in model.contract.files if name not in others)
    if isinstance(reference, Baseline) and not reference.judged:
        yield inconclusive(Rung.CONTRACT, "fp32 variant", "it has not passed against its checkpoint")
    for role in Role:
        ladder.model.session(role)  # raises if the graph's interface is not the contract's
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
    yield _largest_difference("pictures", list(ladder.samples.images), ladder.our_pixels, ladder.pixels)
    probes = list(ladder.samples.probes.values())
    ours, theirs = ladder.model.images(probes), ladder.reference.pixels(probes)
    yield _largest_difference("probes", list(ladder.samples.probes), ours, theirs)


def _largest_difference(kind: str, names: list[str], ours: Array, theirs: Array) -> Check:
    name = f"{kind}, largest difference"
    if ours.shape != theirs.shape:
        return _other_shape(Rung.PIXELS, name, ours, theirs)
    differences = np.abs(ours - theirs).max((1, 2, 3))
    worst = int(differences.argmax())
    return at_most(Rung.PIXELS, name, float(differences[worst]), 0.0, f"{len(names)} {kind}; worst: {names[worst]}")


def _determinism(ladder: Ladder) -> Iterator[Check]:
    for role, rows in ladder.inputs.items():
        first, second = (ladder.model.encode(role, rows[:1]) for _ in range(2))
        yield at_most(Rung.DETERMINISM, f"{role}, two runs differ by", float(np.abs(first - second).max()), 0.0)


def _embeddings(ladder: Ladder) -> Iterator[Check]:
    for role, names in ((Role.VISION, tuple(ladder.samples.images)), (Role.TEXT, ladder.samples.texts)):
        yield from _tower(ladder, role, names)


def _tower(ladder: Ladder, role: Role, names: tuple[str, ...]) -> Iterator[Check]:
    ours, theirs, gate, rung = ladder.found[role], ladder.wanted[role], ladder.gate, Rung.EMBEDDINGS
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
    yield _hidden(ladder, role)


def _hidden(ladder: Ladder, role: Role) -> Check:
    """The other output of a tower, on a few rows."""
    rows, session = ladder.inputs[role][:1], ladder.model.session(role)
    ours = session.run({session.graph.inputs[0].name: rows})["last_hidden_state"]
    theirs = ladder.reference.hidden(role, rows)
    return _close(Rung.EMBEDDINGS, f"{role} last_hidden_state relative error", ours, theirs, ladder.gate)


def _close(rung: Rung, name: str, ours: Array, theirs: Array, gate: Gate) -> Check:
    if ours.shape != theirs.shape:
        return _other_shape(rung, name, ours, theirs)
    return at_most(rung, name, metrics.relative_error(ours, theirs), gate.relative_error)


def _logits(ladder: Ladder) -> Iterator[Check]:
    if min(len(ladder.samples.images), len(ladder.choices)) < ladder.gate.samples:
        yield inconclusive(Rung.LOGITS, "pictures and labels", f"{ladder.gate.samples} of each are needed")
        return
    ours, theirs = ladder.label_logits
    difference, gate, rung = np.abs(ours - theirs), ladder.gate, Rung.LOGITS
    slope, offset = metrics.line_fit(ours, theirs)
    yield at_most(rung, "difference max", float(difference.max()), gate.logit_max, f"{difference.size} logits")
    yield at_most(rung, "difference p99.9", float(np.quantile(difference, 0.999)), gate.logit_p999)
    yield at_most(rung, "offset", abs(offset), gate.logit_offset)
    yield at_most(rung, "slope - 1", abs(slope - 1), gate.logit_slope)
    yield from _joint(ladder)


def _joint(ladder: Ladder) -> Iterator[Check]:
    """The joint graph, which other consumers run, on a few pictures and texts."""
    pixels, ids = ladder.pixels[:JOINT_SIZE], ladder.ids[: JOINT_SIZE + 1]
    found = ladder.model.session(Role.JOINT).run({"pixel_values": pixels, "input_ids": ids})
    images, texts = ladder.wanted[Role.VISION][: len(pixels)], ladder.wanted[Role.TEXT][: len(ids)]
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
    model, few = ladder.model, slice(JOINT_SIZE)
    files, texts = list(ladder.samples.images.values())[few], [ladder.samples.texts[row] for row in ladder.choices[few]]
    found = model.probabilities(model.encode_image(files, batch_size=1), model.encode_text(texts, batch_size=1))
    largest = float(np.abs(found - theirs[few, few]).max())
    yield at_most(Rung.PROBABILITIES, "as the runtime's users get them, drift max", largest, ladder.gate.probability)


def _ranking(ladder: Ladder) -> Iterator[Check]:
    ours, theirs = ladder.label_logits
    images, labels = ours.shape
    if min(images, labels) < ladder.gate.samples:
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
    ids = ladder.ids[pairs]
    truth = (ids[:, None] == ids[None]).all(2)
    for way, turn in (("image to text", lambda x: x), ("text to image", np.transpose)):
        for k in (1, 5):
            before, after = (metrics.recall(turn(x), turn(truth), k) for x in (theirs, ours))
            lost = metrics.recall_lost(turn(ours), turn(theirs), turn(truth), k, ladder.gate.tie)
            detail = f"{before:.4f} to {after:.4f} on {len(pairs)} pairs"
            yield at_most(Rung.RETRIEVAL, f"{way} R@{k} lost", lost, ladder.gate.recall_drop, detail)


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
