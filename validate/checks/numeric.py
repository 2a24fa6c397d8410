"""Check groups that compare numbers: embeddings, logits, probabilities, and the order of labels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np

from ...runtime.arrays import AnyArray, BoolArray
from ...runtime.artifact.contract import Role, TensorSpec
from ..limits.defaults import Limits
from ..report.report import Check, CheckGroup, at_least, at_most, failed, inconclusive, shape_mismatch
from ..stats import metrics
from .context import CheckContext
from .tower_run import HIDDEN, TowerRun

JOINT_SIZE: Final = 4  # images of the joint graph's run; it gets one text more
CHANCE: Final = 0.001  # largest probability that the reference's hits are chance
_CHANCE_IMAGES: Final = 1000
_JOINT_OUTPUTS: Final = ("logits_per_image", "logits_per_text", "image_embeds", "text_embeds")
_LENGTH_ERROR: Final = 1e-3  # how far from 1 a normalized embedding's length may be
_SHOWN_MARGINS: Final = 3
_TOP: Final = 5


def embeddings(context: CheckContext) -> Iterator[Check]:
    """Compare the embeddings of each tower, each row run alone, on the reference's inputs."""
    names = {Role.VISION: tuple(context.inputs.names), Role.TEXT: context.samples.texts}
    for role in context.roles:
        yield from _tower(context, role, names[role])


def _tower(context: CheckContext, role: Role, names: tuple[str, ...]) -> Iterator[Check]:
    tower, limits, group = context.tower(role), context.limits, CheckGroup.EMBEDDINGS
    actual, expected = tower.actual, tower.expected
    if context.model.embedding(role).normalized:
        expected = metrics.unit_rows(expected)
        length_error = float(np.abs(np.linalg.norm(actual, axis=1) - 1).max())
        yield at_most(group, f"{role} length - 1", length_error, _LENGTH_ERROR)
    shape = (len(expected), context.model.contract.embedding.size)
    if not actual.shape == expected.shape == shape:
        detail = f"{list(actual.shape)}; reference {list(expected.shape)}, contract {list(shape)}"
        yield failed(group, f"{role} shape", detail)
        return
    images = len(context.inputs.names)
    if images < limits.samples:
        yield inconclusive(group, f"{role} rows", f"{images} images; {limits.samples} are needed")
        return
    broken = np.flatnonzero(~np.isfinite(actual).all(axis=1))
    detail = f"first: {names[broken[0]]!r:.60}" if len(broken) else f"{len(actual)} rows"
    yield at_most(group, f"{role} rows with NaN or Inf", float(len(broken)), 0.0, detail)
    yield from _cosines(context, role, names)
    yield at_most(group, f"{role} relative error", metrics.relative_error(actual, expected), limits.relative_error)
    if tower.hidden is not None:
        yield _relative_error(group, f"{role} {HIDDEN} relative error", *tower.hidden, limits)


def _cosines(context: CheckContext, role: Role, names: tuple[str, ...]) -> Iterator[Check]:
    tower, limits = context.tower(role), context.limits
    cosines = {
        "cosine": (metrics.row_cosines(tower.actual, tower.expected), limits.cosine),
        "centered cosine": (tower.centered, limits.centered_cosine),
    }
    for (name, (values, limit)), noise in zip(cosines.items(), _cosine_noise(tower), strict=True):
        worst = f"worst: {names[int(np.argmin(values))]!r:.60}"  # argmin returns a NaN first
        for quantile, share in (("min", 0.0), ("p0.1", 0.001), ("p1", 0.01), ("median", 0.5)):
            value = metrics.lower_quantile(values, share)
            yield at_least(CheckGroup.EMBEDDINGS, f"{role} {name} {quantile}", value, limit, worst, noise)


def _cosine_noise(tower: TowerRun) -> tuple[float | None, float | None]:
    """1 - cosine and 1 - centered cosine between batched and single runs, of the worst row."""
    if tower.batched is None:
        return None, None
    single = tower.actual[tower.batch_rows]
    pair = metrics.row_cosines(tower.batched, single), metrics.centered_cosines(tower.batched, single, tower.mean)
    cosine, centered = (_finite(1 - metrics.lower_quantile(values, 0.0)) for values in pair)
    return cosine, centered


def _finite(value: float) -> float | None:
    return max(value, 0.0) if math.isfinite(value) else None


def _relative_error(group: CheckGroup, name: str, actual: AnyArray, expected: AnyArray, limits: Limits) -> Check:
    if actual.shape != expected.shape:
        return shape_mismatch(group, name, actual, expected)
    return at_most(group, name, metrics.relative_error(actual, expected), limits.relative_error)


def _too_few(context: CheckContext, group: CheckGroup) -> Check | None:
    images, labels, needed = len(context.inputs.names), len(context.label_names), context.limits.samples
    if images >= needed and (labels > 1 or context.has_frozen_labels):
        return None
    advice = "" if labels else "; name some with --labels"
    return inconclusive(
        group, "images and labels", f"{images} images and {labels} labels; {needed} and 2 are needed{advice}"
    )


def logits(context: CheckContext) -> Iterator[Check]:
    """Compare logits end to end. A calibration can remove an offset and a slope, but not the residual noise."""
    if too_few := _too_few(context, CheckGroup.LOGITS):
        yield too_few
        return
    actual, expected = context.logits.by_label
    difference, limits, group = np.abs(actual - expected), context.limits, CheckGroup.LOGITS
    slope, offset = metrics.line_fit(actual, expected)
    noise, count = _finite(context.logits.noise), f"{difference.size} logits"
    yield at_most(group, "difference max", float(difference.max()), limits.logit_max, count, noise)
    yield at_most(group, "difference p99.9", float(np.quantile(difference, 0.999)), limits.logit_p999, count, noise)
    yield at_most(group, "offset", abs(offset), limits.logit_offset, "a calibration would remove it")
    yield at_most(group, "slope - 1", abs(slope - 1), limits.logit_slope, "a calibration would remove it")
    sigma = metrics.residual_sigma(actual, expected)
    yield at_most(group, "residual sigma", sigma, limits.logit_sigma, "noise that no calibration removes")
    if Role.JOINT in context.graph_roles:
        yield from _joint(context)
    if context.foreign_dialect:
        claim = f"the checkpoint, read as {context.foreign_dialect}, finds its captions by luck"
        yield reference_makes_sense(context, CheckGroup.LOGITS, claim)


def _joint(context: CheckContext) -> Iterator[Check]:
    """Compare the joint graph, which other programs run, on a few rows or on as many as its batch is fixed to."""
    model, chosen, rows = context.model, dict[Role, AnyArray](), dict[Role, AnyArray]()
    for role, count in ((Role.VISION, JOINT_SIZE), (Role.TEXT, JOINT_SIZE + 1)):
        first = context.inputs.first(role, count)
        batch = model.artifact.graph(role, model.precision, model.options.provider).batch
        chosen[role] = np.arange(batch or count) % len(first)
        rows[role] = first[chosen[role]]
    session = model.session(Role.JOINT)
    outputs = session.run(dict(_joint_feed(spec, rows) for spec in session.graph.inputs), _JOINT_OUTPUTS)
    model.release(Role.JOINT)
    images, texts = (context.tower(role).expected[chosen[role]] for role in (Role.VISION, Role.TEXT))
    logits = context.reference.logits(images, texts)
    for name, expected in (("logits_per_image", logits), ("logits_per_text", logits.T)):
        yield _joint_logits(f"joint graph, {name} difference max", outputs[name], expected, context.limits)
    for name, expected in (("image_embeds", images), ("text_embeds", texts)):
        title = f"joint graph, {name} relative error"
        yield _relative_error(CheckGroup.LOGITS, title, outputs[name], metrics.unit_rows(expected), context.limits)


def _joint_logits(name: str, actual: AnyArray, expected: AnyArray, limits: Limits) -> Check:
    if actual.shape != expected.shape:
        return shape_mismatch(CheckGroup.LOGITS, name, actual, expected)
    return at_most(CheckGroup.LOGITS, name, float(np.abs(actual - expected).max()), limits.logit_max)


def _joint_feed(spec: TensorSpec, rows: dict[Role, AnyArray]) -> tuple[str, AnyArray]:
    """The array for an input of a joint graph: ids, a mask of ones, a field of the patch records, or pixels."""
    images, ids = rows[Role.VISION], rows[Role.TEXT]
    if spec.name in (images.dtype.names or ()):
        return spec.name, np.ascontiguousarray(images[spec.name])
    if np.dtype(spec.dtype).kind == "i" and len(spec.shape) == ids.ndim:
        return spec.name, np.ones_like(ids, spec.dtype) if "mask" in spec.name else ids.astype(spec.dtype)
    pixels = images.astype(spec.dtype, copy=False)
    return spec.name, pixels[0] if len(spec.shape) < images.ndim else pixels


def probabilities(context: CheckContext) -> Iterator[Check]:
    """Compare what users see: probabilities, decisions at the threshold, and calibration."""
    if too_few := _too_few(context, CheckGroup.PROBABILITIES):
        yield too_few
        return
    group, limits, (actual, expected) = CheckGroup.PROBABILITIES, context.limits, context.logits.by_label
    p, q = metrics.sigmoid(actual), metrics.sigmoid(expected)
    for bucket, (drift, count) in metrics.drift_by_bucket(p, q).items():
        name = f"drift max where the reference has {bucket}"
        yield at_most(group, name, drift, limits.probability, f"{count} of them")
    flips = metrics.flips(actual, expected, math.log(limits.threshold / (1 - limits.threshold)), limits.tie)
    detail = f"{len(flips.margins)} of them{_margins(flips.margins)}"
    yield at_most(group, f"yeses at {limits.threshold:g} that flip", flips.share, limits.flips, detail)
    truth = None if context.has_frozen_labels else context.labels.truth
    if truth is not None:
        yield _calibration(p, q, truth, limits)
    yield _user_probabilities(context)


def _calibration(p: AnyArray, q: AnyArray, truth: BoolArray, limits: Limits) -> Check:
    """How much the expected calibration error grows, on the reference's best label of each image."""
    best = q.argmax(1)[:, None]  # RANKING checks whether the candidate has the same best label
    expected, actual = (np.take_along_axis(x, best, axis=1)[:, 0] for x in (q, p))
    right = np.take_along_axis(truth, best, axis=1)[:, 0]
    before, after = (metrics.calibration_error(x, right, expected) for x in (expected, actual))
    name, detail = "expected calibration error gained", f"{before:.4f} to {after:.4f}"
    return at_most(CheckGroup.PROBABILITIES, name, after - before, limits.calibration, detail)


def _user_probabilities(context: CheckContext) -> Check:
    group, name, users = CheckGroup.PROBABILITIES, "as users get them, drift max", context.logits.user_probabilities
    if isinstance(users, str):
        return failed(group, name, users)
    return at_most(group, name, float(np.abs(users[0] - users[1]).max()), context.limits.probability)


def _margins(margins: tuple[float, ...]) -> str:
    if not margins:
        return ""
    shown = ", ".join(f"{margin:.3g}" for margin in margins[:_SHOWN_MARGINS])
    return f"; margins {shown}{' …' if len(margins) > _SHOWN_MARGINS else ''} logits"


def ranking(context: CheckContext) -> Iterator[Check]:
    """Compare the order of labels; labels with tied reference scores are left out."""
    if too_few := _too_few(context, CheckGroup.RANKING):
        yield too_few
        return
    group, limits, (actual, expected) = CheckGroup.RANKING, context.limits, context.logits.by_label
    agreement = metrics.agreement(actual, expected, tie=limits.tie)
    detail = f"{actual.shape[0]} images, {actual.shape[1]} labels"
    if agreement.worst is not None:
        detail += f"; first difference: {context.inputs.names[agreement.worst]}{_margins(agreement.margins)}"
    yield at_least(group, "top-1 agreement", agreement.top1, limits.top1, detail)
    if actual.shape[1] > _TOP:
        yield at_least(group, "top-5 agreement", agreement.topk, limits.top5, detail)
    detail = f"ties within {limits.tie:g} left out"
    yield at_least(group, "order of the ten best", agreement.order, limits.order, detail)


def reference_makes_sense(context: CheckContext, group: CheckGroup, claim: str) -> Check:
    """Whether the reference finds captions or classes better than by chance.

    A reference that finds nothing has no accuracy to lose. And transformers reads one dialect only; for the others
    both sides depend on the exporter's reader, so an error in it (a transposed square weight, for example) would be on
    both sides. Weights that are read wrongly find nothing.

    Args:
        context: The candidate and its reference.
        group: The group of the check.
        claim: The null hypothesis, for the check's name.
    """
    name, pairs = f"chance that {claim}", _known_pairs(context)
    if pairs is None:
        detail = "only captions or classes show whether the checkpoint is read correctly; give --data that has some"
        return inconclusive(group, name, detail)
    logits, truth = pairs
    hits = round(metrics.recall(logits, truth, 1) * len(logits))
    chance, detail = metrics.poisson_binomial_tail(hits, truth.mean(axis=1)), f"{hits} of {len(logits)} images"
    if chance <= CHANCE:
        return at_most(group, name, chance, CHANCE, detail)
    advice = "give --data that the model was trained for; if that changes nothing, the weights are untrained or misread"
    return inconclusive(group, name, f"{chance:.2g}, at most {CHANCE} is allowed; {detail}; {advice}")


def _known_pairs(context: CheckContext) -> tuple[AnyArray, BoolArray] | None:
    """The reference's logits of images and texts, and which pairs are true, by captions or else by classes."""
    images = context.tower(Role.VISION).expected
    if context.samples.captions:
        captions, some = context.captions, range(min(len(images), _CHANCE_IMAGES))
        own = np.flatnonzero(np.isin(captions.owners, some))
        texts = context.reference.embeddings(Role.TEXT, context.inputs.ids[[captions.rows[i] for i in own]])
        truth = captions.truth(some, range(len(captions.rows)))[:, own]
        return context.reference.logits(images[: len(some)], texts), truth
    if context.samples.classes and not context.has_frozen_labels:
        return context.logits.by_label[1], context.labels.class_truth
    return None
