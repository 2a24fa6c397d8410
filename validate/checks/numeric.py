"""The check groups that compare numbers: embeddings, logits, probabilities, and the order that they put labels in."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ...runtime.artifact.contract import Role, TensorSpec
from ..limits.defaults import Limits
from ..report.report import Check, CheckGroup, at_least, at_most, failed, inconclusive
from ..stats import metrics
from .context import CheckContext
from .tower_run import HIDDEN, TowerRun

Array = NDArray[Any]

JOINT_SIZE: Final = 4
_SENSIBLE: Final = 1000  # images that are enough to see whether a reference makes sense
CHANCE: Final = 0.001  # how improbable by chance it must be that the reference finds its own captions
_JOINT: Final = ("logits_per_image", "logits_per_text", "image_embeds", "text_embeds")
_UNIT: Final = 1e-3  # how far from 1 the length of an embedding of a normalizing graph may be
_SHOWN: Final = 3  # margins that a check names
_BEST: Final = 5


def other_shape(group: CheckGroup, name: str, ours: Array, theirs: Array) -> Check:
    """A check that failed because nothing can be compared."""
    return failed(group, name, f"{list(ours.shape)} where the reference has {list(theirs.shape)}")


def embeddings(context: CheckContext) -> Iterator[Check]:
    """Each tower, each row alone, on the reference's own inputs."""
    names = {Role.VISION: tuple(context.names), Role.TEXT: context.samples.texts}
    for role in context.towers:
        yield from _tower(context, role, names[role])


def _tower(context: CheckContext, role: Role, names: tuple[str, ...]) -> Iterator[Check]:
    tower, gate, group = context.tower(role), context.gate, CheckGroup.EMBEDDINGS
    ours, theirs = tower.found, tower.wanted
    if context.model.embedding(role).normalized:
        theirs = metrics.unit_rows(theirs)
        yield at_most(group, f"{role} length - 1", float(np.abs(np.linalg.norm(ours, axis=1) - 1).max()), _UNIT)
    due = (len(theirs), context.model.contract.embedding.size)
    if not ours.shape == theirs.shape == due:
        yield failed(
            group, f"{role} shape", f"{list(ours.shape)}; reference {list(theirs.shape)}, contract {list(due)}"
        )
        return
    if len(context.names) < gate.samples:
        yield inconclusive(group, f"{role} rows", f"{len(context.names)} images; {gate.samples} are needed")
        return
    broken = np.flatnonzero(~np.isfinite(ours).all(axis=1))
    detail = f"first: {names[broken[0]]!r:.60}" if len(broken) else f"{len(ours)} rows"
    yield at_most(group, f"{role} rows with NaN or Inf", float(len(broken)), 0.0, detail)
    yield from _cosines(context, role, names)
    yield at_most(group, f"{role} relative error", metrics.relative_error(ours, theirs), gate.relative_error)
    if tower.hidden is not None:
        yield _close(group, f"{role} {HIDDEN} relative error", *tower.hidden, gate)


def _cosines(context: CheckContext, role: Role, names: tuple[str, ...]) -> Iterator[Check]:
    gate, tower = context.gate, context.tower(role)
    raw, centered, floors = metrics.row_cosines(tower.found, tower.wanted), tower.centered, _floors(tower)
    limits = (gate.cosine, gate.centered_cosine)
    for name, values, limit, floor in zip(("cosine", "centered cosine"), (raw, centered), limits, floors, strict=True):
        worst = f"worst: {names[int(np.argmin(values))]!r:.60}"  # a NaN counts as the smallest
        for which, share in (("min", 0.0), ("p0.1", 0.001), ("p1", 0.01), ("median", 0.5)):
            found = metrics.lower_quantile(values, share)
            yield at_least(CheckGroup.EMBEDDINGS, f"{role} {name} {which}", found, limit, worst, floor)


def _floors(tower: TowerRun) -> tuple[float | None, float | None]:
    """1 - cosine and 1 - centered cosine of rows in a batch with the same rows alone, of the worst row."""
    if tower.batched is None:
        return None, None
    alone = tower.found[tower.batch_rows]
    pair = metrics.row_cosines(tower.batched, alone), metrics.centered_cosines(tower.batched, alone, tower.mean)
    raw, centered = (_finite(1 - metrics.lower_quantile(values, 0.0)) for values in pair)
    return raw, centered


def _finite(value: float) -> float | None:
    return max(value, 0.0) if math.isfinite(value) else None


def _close(group: CheckGroup, name: str, ours: Array, theirs: Array, gate: Limits) -> Check:
    if ours.shape != theirs.shape:
        return other_shape(group, name, ours, theirs)
    return at_most(group, name, metrics.relative_error(ours, theirs), gate.relative_error)


def _too_few(context: CheckContext, group: CheckGroup) -> Check | None:
    images, labels = len(context.names), len(context.label_names)
    if images >= context.gate.samples and (labels > 1 or context.frozen):
        return None
    advice = "" if labels else "; name some with --labels"
    detail = f"{images} images and {labels} labels; {context.gate.samples} and 2 are needed{advice}"
    return inconclusive(group, "images and labels", detail)


def logits(context: CheckContext) -> Iterator[Check]:
    """From the files to the logits; an offset and a slope can be calibrated away, the noise that is left cannot."""
    if few := _too_few(context, CheckGroup.LOGITS):
        yield few
        return
    ours, theirs = context.label_logits
    difference, gate, group = np.abs(ours - theirs), context.gate, CheckGroup.LOGITS
    slope, offset = metrics.line_fit(ours, theirs)
    floor, count = _finite(context.logit_floor), f"{difference.size} logits"
    yield at_most(group, "difference max", float(difference.max()), gate.logit_max, count, floor)
    yield at_most(group, "difference p99.9", float(np.quantile(difference, 0.999)), gate.logit_p999, count, floor)
    yield at_most(group, "offset", abs(offset), gate.logit_offset, "a calibration would take it away")
    yield at_most(group, "slope - 1", abs(slope - 1), gate.logit_slope, "a calibration would take it away")
    sigma = metrics.residual_sigma(ours, theirs)
    yield at_most(group, "residual sigma", sigma, gate.logit_sigma, "noise, which stays")
    if Role.JOINT in context.graphs:
        yield from _joint(context)
    if context.foreign:
        yield sense(
            context, CheckGroup.LOGITS, f"the checkpoint, read as {context.foreign}, finds its captions by luck"
        )


def _joint(context: CheckContext) -> Iterator[Check]:
    """The joint graph, which other consumers run, on a few images and texts, or as many as it is fixed to."""
    model, chosen, rows = context.model, dict[Role, Array](), dict[Role, Array]()
    for role, count in ((Role.VISION, JOINT_SIZE), (Role.TEXT, JOINT_SIZE + 1)):
        first = context.first_inputs(role, count)
        fixed = model.artifact.graph(role, model.precision, model.options.provider).batch
        chosen[role] = np.arange(fixed or count) % len(first)
        rows[role] = first[chosen[role]]
    session = model.session(Role.JOINT)
    feeds = dict(_joint_feed(spec, rows) for spec in session.graph.inputs)
    found = session.run(feeds, _JOINT)
    model.release(Role.JOINT)
    images, texts = (context.tower(role).wanted[chosen[role]] for role in (Role.VISION, Role.TEXT))
    wanted = context.answers.logits(images, texts)
    for name, due in (("logits_per_image", wanted), ("logits_per_text", wanted.T)):
        ours, title = found[name], f"joint graph, {name} difference max"
        if ours.shape != due.shape:
            yield other_shape(CheckGroup.LOGITS, title, ours, due)
        else:
            yield at_most(CheckGroup.LOGITS, title, float(np.abs(ours - due).max()), context.gate.logit_max)
    for name, due in (("image_embeds", images), ("text_embeds", texts)):
        title = f"joint graph, {name} relative error"
        yield _close(CheckGroup.LOGITS, title, found[name], metrics.unit_rows(due), context.gate)


def _joint_feed(spec: TensorSpec, rows: dict[Role, Array]) -> tuple[str, Array]:
    """What an input of a joint graph is given: ids, a field of the images' records, or their pixels."""
    images, ids = rows[Role.VISION], rows[Role.TEXT]
    if spec.name in (images.dtype.names or ()):
        return spec.name, np.ascontiguousarray(images[spec.name])
    if np.dtype(spec.dtype).kind == "i" and len(spec.shape) == ids.ndim:
        return spec.name, np.ones_like(ids, spec.dtype) if "mask" in spec.name else ids.astype(spec.dtype)
    fitting = images.astype(spec.dtype, copy=False)
    return spec.name, fitting[0] if len(spec.shape) < images.ndim else fitting


def probabilities(context: CheckContext) -> Iterator[Check]:
    """What users see: probabilities by how sure the reference is, decisions at their threshold, calibration."""
    if few := _too_few(context, CheckGroup.PROBABILITIES):
        yield few
        return
    group, gate, (ours, theirs) = CheckGroup.PROBABILITIES, context.gate, context.label_logits
    p, q = metrics.sigmoid(ours), metrics.sigmoid(theirs)
    for bucket, (drift, count) in metrics.drift_by_bucket(p, q).items():
        yield at_most(group, f"drift max where the reference has {bucket}", drift, gate.probability, f"{count} of them")
    flips = metrics.flips(ours, theirs, math.log(gate.threshold / (1 - gate.threshold)), gate.tie)
    detail = f"{len(flips.margins)} of them{_margins(flips.margins)}"
    yield at_most(group, f"yeses at {gate.threshold:g} that flip", flips.share, gate.flips, detail)
    if (truth := context.label_truth) is not None:
        best = q.argmax(1)[:, None]  # of the reference: whether ours chooses otherwise is the business of RANKING
        top, own = (np.take_along_axis(x, best, axis=1)[:, 0] for x in (q, p))
        right = np.take_along_axis(truth, best, axis=1)[:, 0]
        before, after = (metrics.calibration_error(x, right, top) for x in (top, own))
        detail = f"{before:.4f} to {after:.4f}"
        yield at_most(group, "expected calibration error gained", after - before, gate.calibration, detail)
    name, users = "as the runtime's users get them, drift max", context.users_probabilities
    if isinstance(users, str):
        yield failed(group, name, users)
    else:
        yield at_most(group, name, float(np.abs(users[0] - users[1]).max()), gate.probability)


def _margins(margins: tuple[float, ...]) -> str:
    if not margins:
        return ""
    shown = ", ".join(f"{margin:.3g}" for margin in margins[:_SHOWN])
    return f"; margins {shown}{' …' if len(margins) > _SHOWN else ''} logits"


def ranking(context: CheckContext) -> Iterator[Check]:
    """The order of labels; those that the reference scores alike are left out."""
    if few := _too_few(context, CheckGroup.RANKING):
        yield few
        return
    group, gate, (ours, theirs) = CheckGroup.RANKING, context.gate, context.label_logits
    agreement = metrics.agreement(ours, theirs, tie=gate.tie)
    detail = f"{ours.shape[0]} images, {ours.shape[1]} labels"
    if agreement.worst is not None:
        detail += f"; first difference: {context.names[agreement.worst]}{_margins(agreement.margins)}"
    yield at_least(group, "top-1 agreement", agreement.top1, gate.top1, detail)
    if ours.shape[1] > _BEST:
        yield at_least(group, "top-5 agreement", agreement.topk, gate.top5, detail)
    yield at_least(group, "order of the ten best", agreement.order, gate.order, f"ties within {gate.tie:g} left out")


def sense(context: CheckContext, group: CheckGroup, luck: str) -> Check:
    """Whether the reference finds captions or classes better than by chance.

    Where it does not, nothing can be lost, and captions may be those of other images. And transformers reads no
    dialect but its own, so for the others the reference stands on our reading of the file, and a wrong one (a square
    weight turned the wrong way, say) would be on both sides. What is read wrongly makes no sense.
    """
    name = f"chance that {luck}"
    known = _known_pairs(context)
    if known is None:
        detail = "whether it is read rightly is seen by captions or classes alone; give --data that has some"
        return inconclusive(group, name, detail)
    logits, truth = known
    hits = round(metrics.recall(logits, truth, 1) * len(logits))
    chance, detail = metrics.poisson_binomial_tail(hits, truth.mean(axis=1)), f"{hits} of {len(logits)} images"
    if chance <= CHANCE:
        return at_most(group, name, chance, CHANCE, detail)
    advice = "give --data that the model was trained for; if it stays so, the weights are untrained or read wrongly"
    return inconclusive(group, name, f"{chance:.2g} where {CHANCE} is due; {detail}; {advice}")


def _known_pairs(context: CheckContext) -> tuple[Array, NDArray[np.bool_]] | None:
    """The reference's logits of images and texts, and which are true; captions, or classes where there are none."""
    images = context.tower(Role.VISION).wanted
    if context.samples.captions:
        captions, some = context.captions, range(min(len(images), _SENSIBLE))
        own = np.flatnonzero(np.isin(captions.owners, some))
        texts = context.answers.embeddings(Role.TEXT, context.ids[[captions.rows[i] for i in own]])
        truth = captions.truth(some, range(len(captions.rows)))[:, own]
        return context.answers.logits(images[: len(some)], texts), truth
    if context.samples.classes and context.frozen is None:
        return context.label_logits[1], context.class_truth
    return None
