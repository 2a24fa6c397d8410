"""The rungs that compare numbers: embeddings, logits, probabilities, and the order that they put labels in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...runtime.artifact.contract import Role, TensorSpec
from ..limits.defaults import Gate
from ..report.report import Check, Rung, at_least, at_most, failed, inconclusive
from ..stats import metrics
from .context import Ladder
from .tower_run import HIDDEN, Tower

Array = NDArray[Any]

JOINT_SIZE: Final = 4
_SENSIBLE: Final = 1000  # pictures that are enough to see whether a reference makes sense
CHANCE: Final = 0.001  # how improbable by chance it must be that the reference finds its own captions
_JOINT: Final = ("logits_per_image", "logits_per_text", "image_embeds", "text_embeds")
_UNIT: Final = 1e-3  # how far from 1 the length of an embedding of a normalising graph may be
_SHOWN: Final = 3  # margins that a check names
_BEST: Final = 5


def other_shape(rung: Rung, name: str, ours: Array, theirs: Array) -> Check:
    """A check that failed because nothing can be compared."""
    return failed(rung, name, f"{list(ours.shape)} where the reference has {list(theirs.shape)}")


def embeddings(ladder: Ladder) -> Iterator[Check]:
    """Each tower, each row alone, on the reference's own inputs."""
    names = {Role.VISION: tuple(ladder.names), Role.TEXT: ladder.samples.texts}
    for role in ladder.towers:
        yield from _tower(ladder, role, names[role])


def _tower(ladder: Ladder, role: Role, names: tuple[str, ...]) -> Iterator[Check]:
    tower, gate, rung = ladder.tower(role), ladder.gate, Rung.EMBEDDINGS
    ours, theirs = tower.found, tower.wanted
    if ladder.model.embedding(role).normalized:
        theirs = metrics.unit(theirs)
        yield at_most(rung, f"{role} length - 1", float(np.abs(np.linalg.norm(ours, axis=1) - 1).max()), _UNIT)
    due = (len(theirs), ladder.model.contract.embedding.size)
    if not ours.shape == theirs.shape == due:
        yield failed(rung, f"{role} shape", f"{list(ours.shape)}; reference {list(theirs.shape)}, contract {list(due)}")
        return
    if len(ladder.names) < gate.samples:
        yield inconclusive(rung, f"{role} rows", f"{len(ladder.names)} pictures; {gate.samples} are needed")
        return
    broken = np.flatnonzero(~np.isfinite(ours).all(axis=1))
    detail = f"first: {names[broken[0]]!r:.60}" if len(broken) else f"{len(ours)} rows"
    yield at_most(rung, f"{role} rows with NaN or Inf", float(len(broken)), 0.0, detail)
    yield from _cosines(ladder, role, names)
    yield at_most(rung, f"{role} relative error", metrics.relative_error(ours, theirs), gate.relative_error)
    if tower.hidden is not None:
        yield _close(rung, f"{role} {HIDDEN} relative error", *tower.hidden, gate)


def _cosines(ladder: Ladder, role: Role, names: tuple[str, ...]) -> Iterator[Check]:
    gate, tower = ladder.gate, ladder.tower(role)
    raw, centred, floors = metrics.row_cosines(tower.found, tower.wanted), tower.centred, _floors(tower)
    limits = (gate.cosine, gate.centred_cosine)
    for name, values, limit, floor in zip(("cosine", "centred cosine"), (raw, centred), limits, floors, strict=True):
        worst = f"worst: {names[int(np.argmin(values))]!r:.60}"  # a NaN counts as the smallest
        for which, share in (("min", 0.0), ("p0.1", 0.001), ("p1", 0.01), ("median", 0.5)):
            found = metrics.lowest(values, share)
            yield at_least(Rung.EMBEDDINGS, f"{role} {name} {which}", found, limit, worst, floor)


def _floors(tower: Tower) -> tuple[float | None, float | None]:
    """1 - cosine and 1 - centred cosine of rows in a batch with the same rows alone, of the worst row."""
    if tower.batched is None:
        return None, None
    alone = tower.found[tower.batch_rows]
    pair = metrics.row_cosines(tower.batched, alone), metrics.centred_cosines(tower.batched, alone, tower.mean)
    raw, centred = (_finite(1 - metrics.lowest(values, 0.0)) for values in pair)
    return raw, centred


def _finite(value: float) -> float | None:
    return max(value, 0.0) if math.isfinite(value) else None


def _close(rung: Rung, name: str, ours: Array, theirs: Array, gate: Gate) -> Check:
    if ours.shape != theirs.shape:
        return other_shape(rung, name, ours, theirs)
    return at_most(rung, name, metrics.relative_error(ours, theirs), gate.relative_error)


def _too_few(ladder: Ladder, rung: Rung) -> Check | None:
    images, labels = len(ladder.names), len(ladder.label_names)
    if images >= ladder.gate.samples and (labels > 1 or ladder.frozen):
        return None
    advice = "" if labels else "; name some with --labels"
    detail = f"{images} pictures and {labels} labels; {ladder.gate.samples} and 2 are needed{advice}"
    return inconclusive(rung, "pictures and labels", detail)


def logits(ladder: Ladder) -> Iterator[Check]:
    """From the files to the logits; an offset and a slope can be calibrated away, the noise that is left cannot."""
    if few := _too_few(ladder, Rung.LOGITS):
        yield few
        return
    ours, theirs = ladder.label_logits
    difference, gate, rung = np.abs(ours - theirs), ladder.gate, Rung.LOGITS
    slope, offset = metrics.line_fit(ours, theirs)
    floor, count = _finite(ladder.logit_floor), f"{difference.size} logits"
    yield at_most(rung, "difference max", float(difference.max()), gate.logit_max, count, floor)
    yield at_most(rung, "difference p99.9", float(np.quantile(difference, 0.999)), gate.logit_p999, count, floor)
    yield at_most(rung, "offset", abs(offset), gate.logit_offset, "a calibration would take it away")
    yield at_most(rung, "slope - 1", abs(slope - 1), gate.logit_slope, "a calibration would take it away")
    sigma = metrics.residual_sigma(ours, theirs)
    yield at_most(rung, "residual sigma", sigma, gate.logit_sigma, "noise, which stays")
    if Role.JOINT in ladder.graphs:
        yield from _joint(ladder)
    if ladder.foreign:
        yield sense(ladder, Rung.LOGITS, f"the checkpoint, read as {ladder.foreign}, finds its captions by luck")


def _joint(ladder: Ladder) -> Iterator[Check]:
    """The joint graph, which other consumers run, on a few pictures and texts, or as many as it is fixed to."""
    model, chosen, rows = ladder.model, dict[Role, Array](), dict[Role, Array]()
    for role, count in ((Role.VISION, JOINT_SIZE), (Role.TEXT, JOINT_SIZE + 1)):
        first = ladder.first_inputs(role, count)
        fixed = model.artifact.graph(role, model.precision, model.options.provider).batch
        chosen[role] = np.arange(fixed or count) % len(first)
        rows[role] = first[chosen[role]]
    session = model.session(Role.JOINT)
    feeds = dict(_joint_feed(spec, rows) for spec in session.graph.inputs)
    found = session.run(feeds, _JOINT)
    model.release(Role.JOINT)
    images, texts = (ladder.tower(role).wanted[chosen[role]] for role in (Role.VISION, Role.TEXT))
    wanted = ladder.answers.logits(images, texts)
    for name, due in (("logits_per_image", wanted), ("logits_per_text", wanted.T)):
        ours, title = found[name], f"joint graph, {name} difference max"
        if ours.shape != due.shape:
            yield other_shape(Rung.LOGITS, title, ours, due)
        else:
            yield at_most(Rung.LOGITS, title, float(np.abs(ours - due).max()), ladder.gate.logit_max)
    for name, due in (("image_embeds", images), ("text_embeds", texts)):
        title = f"joint graph, {name} relative error"
        yield _close(Rung.LOGITS, title, found[name], metrics.unit(due), ladder.gate)


def _joint_feed(spec: TensorSpec, rows: dict[Role, Array]) -> tuple[str, Array]:
    """What an input of a joint graph is given: ids, a field of the pictures' records, or their pixels."""
    pictures, ids = rows[Role.VISION], rows[Role.TEXT]
    if spec.name in (pictures.dtype.names or ()):
        return spec.name, np.ascontiguousarray(pictures[spec.name])
    if np.dtype(spec.dtype).kind == "i" and len(spec.shape) == ids.ndim:
        return spec.name, np.ones_like(ids, spec.dtype) if "mask" in spec.name else ids.astype(spec.dtype)
    fitting = pictures.astype(spec.dtype, copy=False)
    return spec.name, fitting[0] if len(spec.shape) < pictures.ndim else fitting


def probabilities(ladder: Ladder) -> Iterator[Check]:
    """What users see: probabilities by how sure the reference is, decisions at their threshold, calibration."""
    if few := _too_few(ladder, Rung.PROBABILITIES):
        yield few
        return
    rung, gate, (ours, theirs) = Rung.PROBABILITIES, ladder.gate, ladder.label_logits
    p, q = metrics.sigmoid(ours), metrics.sigmoid(theirs)
    for bucket, (drift, count) in metrics.drift_by_bucket(p, q).items():
        yield at_most(rung, f"drift max where the reference has {bucket}", drift, gate.probability, f"{count} of them")
    flips = metrics.flips(ours, theirs, math.log(gate.threshold / (1 - gate.threshold)), gate.tie)
    detail = f"{len(flips.margins)} of them{_margins(flips.margins)}"
    yield at_most(rung, f"yeses at {gate.threshold:g} that flip", flips.share, gate.flips, detail)
    if (truth := ladder.label_truth) is not None:
        best = q.argmax(1)[:, None]  # of the reference: whether ours chooses otherwise is the business of RANKING
        top, own = (np.take_along_axis(x, best, axis=1)[:, 0] for x in (q, p))
        right = np.take_along_axis(truth, best, axis=1)[:, 0]
        before, after = (metrics.calibration_error(x, right, top) for x in (top, own))
        detail = f"{before:.4f} to {after:.4f}"
        yield at_most(rung, "expected calibration error gained", after - before, gate.calibration, detail)
    name, users = "as the runtime's users get them, drift max", ladder.users_probabilities
    if isinstance(users, str):
        yield failed(rung, name, users)
    else:
        yield at_most(rung, name, float(np.abs(users[0] - users[1]).max()), gate.probability)


def _margins(margins: tuple[float, ...]) -> str:
    if not margins:
        return ""
    shown = ", ".join(f"{margin:.3g}" for margin in margins[:_SHOWN])
    return f"; margins {shown}{' …' if len(margins) > _SHOWN else ''} logits"


def ranking(ladder: Ladder) -> Iterator[Check]:
    """The order of labels; those that the reference scores alike are left out."""
    if few := _too_few(ladder, Rung.RANKING):
        yield few
        return
    rung, gate, (ours, theirs) = Rung.RANKING, ladder.gate, ladder.label_logits
    agreement = metrics.agreement(ours, theirs, tie=gate.tie)
    detail = f"{ours.shape[0]} pictures, {ours.shape[1]} labels"
    if agreement.worst is not None:
        detail += f"; first difference: {ladder.names[agreement.worst]}{_margins(agreement.margins)}"
    yield at_least(rung, "top-1 agreement", agreement.top1, gate.top1, detail)
    if ours.shape[1] > _BEST:
        yield at_least(rung, "top-5 agreement", agreement.topk, gate.top5, detail)
    yield at_least(rung, "order of the ten best", agreement.order, gate.order, f"ties within {gate.tie:g} left out")


def sense(ladder: Ladder, rung: Rung, luck: str) -> Check:
    """Whether the reference finds captions or classes better than by chance.

    Where it does not, nothing can be lost, and captions may be those of other pictures. And transformers reads no
    dialect but its own, so for the others the reference stands on our reading of the file, and a wrong one (a square
    weight turned the wrong way, say) would be on both sides. What is read wrongly makes no sense.
    """
    name = f"chance that {luck}"
    known = _known_pairs(ladder)
    if known is None:
        detail = "whether it is read rightly is seen by captions or classes alone; give --data that has some"
        return inconclusive(rung, name, detail)
    logits, truth = known
    hits = round(metrics.recall(logits, truth, 1) * len(logits))
    chance, detail = metrics.at_least_by_chance(hits, truth.mean(axis=1)), f"{hits} of {len(logits)} pictures"
    if chance <= CHANCE:
        return at_most(rung, name, chance, CHANCE, detail)
    advice = "give --data that the model was trained for; if it stays so, the weights are untrained or read wrongly"
    return inconclusive(rung, name, f"{chance:.2g} where {CHANCE} is due; {detail}; {advice}")


def _known_pairs(ladder: Ladder) -> tuple[Array, NDArray[np.bool_]] | None:
    """The reference's logits of pictures and texts, and which are true; captions, or classes where there are none."""
    images = ladder.tower(Role.VISION).wanted
    if ladder.samples.captions:
        captions, some = ladder.captions, range(min(len(images), _SENSIBLE))
        own = np.flatnonzero(np.isin(captions.owners, some))
        texts = ladder.answers.embeddings(Role.TEXT, ladder.ids[[captions.rows[i] for i in own]])
        truth = captions.truth(some, range(len(captions.rows)))[:, own]
        return ladder.answers.logits(images[: len(some)], texts), truth
    if ladder.samples.classes and ladder.frozen is None:
        return ladder.label_logits[1], ladder.class_truth
    return None
