"""Check groups about files: the contract, and the tokenizer and image processor that they describe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import numpy as np

from ...exporter.checkpoint.image_spec import read_image_spec
from ...exporter.checkpoint.tokenizer_spec import read_tokenizer_spec
from ...runtime.arrays import AnyArray
from ...runtime.artifact.contract import Role
from ...runtime.errors import ArtifactError
from ..data.images import ImageSource
from ..external.open_external import ExternalArtifact
from ..report.report import Check, CheckGroup, at_least, at_most, failed, inconclusive, shape_mismatch
from .context import CheckContext

_ROUNDING: Final = 1.001  # one of 256 levels, with room for float32
# tokenizer.json cannot treat a literal <unk> like the reference; see exporter/tokenizer_json.py.
_NOT_IN_FAST: Final = "<unk>"


def contract(context: CheckContext) -> Iterator[Check]:
    """Check that every file has its hash and every graph the interface that the contract states."""
    model = context.model
    variant = model.contract.variant(model.precision, model.options.provider)
    own = variant.files if variant else ()
    others = {path for v in model.contract.variants for path in v.files}.difference(own)
    model.artifact.verify(name for name in model.contract.files if name not in others)
    if context.reference.fp32 is not None and not context.reference.fp32.validated:
        yield inconclusive(CheckGroup.CONTRACT, "fp32 variant", "it has no PASS against its checkpoint")
    for role in variant.graphs if variant else ():
        model.session(role)  # raises if the graph's interface is not the contract's
        if role in context.roles:
            yield from _batch(context, role)
        model.release(role)
    yield at_least(CheckGroup.CONTRACT, "files as listed", 1.0, 1.0, f"{len(model.contract.files)} files")


def _batch(context: CheckContext, role: Role) -> Iterator[Check]:
    stated = context.model.contract
    if isinstance(context.model.artifact, ExternalArtifact):
        return  # no contract states the batch
    image = role is Role.VISION and stated.image.input == "image"
    expected, actual = 1 if image else stated.batch, context.model.session(role).graph.batch
    if actual != expected:
        detail = f"{actual or 'free'}, the contract has {expected or 'a free one'}"
        yield failed(CheckGroup.CONTRACT, f"{role} batch", detail)


def tokens(context: CheckContext) -> Iterator[Check]:
    """Compare ids by the runtime and by tokenizer.json with the reference's."""
    texts, artifact, checkpoint = context.samples.texts, context.model.artifact, context.require_checkpoint()
    if not isinstance(artifact, ExternalArtifact):  # folders of other tools need not have tokenizer_config.json
        spec = read_tokenizer_spec(artifact.folder, checkpoint.config.text_config)
        yield _same_file(CheckGroup.TOKENS, "tokenizer_config.json", spec == checkpoint.tokenizer)
    expected = context.inputs.ids
    yield _same_ids("runtime ids", context.inputs.own_ids, expected, texts)
    usual = [i for i, text in enumerate(texts) if _NOT_IN_FAST not in text]
    usual_texts = tuple(texts[i] for i in usual)
    fast = np.asarray(_fast_ids(context, artifact.path("tokenizer.json"), usual_texts))
    yield _same_ids("tokenizer.json ids", fast, expected[usual], usual_texts)


def _fast_ids(context: CheckContext, path: Path, texts: tuple[str, ...]) -> list[list[int]]:
    """Ids by tokenizer.json; where it leaves truncation and padding to its users, do it as they do."""
    import tokenizers

    try:
        fast = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the library's errors have no other common base
        raise ArtifactError(f"{path} cannot be read: {error}.", "Export the checkpoint again.") from error
    spec, length = context.require_checkpoint().tokenizer, context.inputs.ids.shape[1]
    if isinstance(context.model.artifact, ExternalArtifact) and fast.padding is None:
        fast.enable_truncation(length)
        fast.enable_padding(length=length, pad_id=spec.pad_id, pad_token=fast.id_to_token(spec.pad_id))
    rows = [fast.encode(text).ids for text in texts]
    return [row if len(row) == length else [-1] * length for row in rows]


def _same_ids(name: str, actual: AnyArray, expected: AnyArray, texts: tuple[str, ...]) -> Check:
    if actual.shape != expected.shape:
        return shape_mismatch(CheckGroup.TOKENS, name, actual, expected)
    wrong = np.flatnonzero((actual != expected).any(1))
    detail = f"{len(texts)} texts" + (f"; first difference: {texts[wrong[0]]!r:.60}" if len(wrong) else "")
    return at_most(CheckGroup.TOKENS, f"{name} that differ", float(len(wrong)), 0.0, detail)


def _same_file(group: CheckGroup, name: str, same: bool) -> Check:
    """A file that other programs read instead of the contract."""
    return at_least(group, f"{name} equals the checkpoint's", float(same), 1.0)


def pixels(context: CheckContext) -> Iterator[Check]:
    """Compare the pixels of every image, and of images of unusual form, with the reference's."""
    checkpoint, image = context.require_checkpoint(), context.model.contract.image
    spec = read_image_spec(context.model.artifact.folder, checkpoint.config.vision_config)
    yield _same_file(CheckGroup.PIXELS, "preprocessor_config.json", spec.decoded_as(image) == checkpoint.image)
    # A graph that resizes comes within one of 256 levels; docs/checkpoints.md says why not closer.
    level = image.rescale / min(image.std) * _ROUNDING if image.input == "image" else 0.0
    yield _largest_difference("images", _image_pairs(context), level)
    yield _largest_difference("probes", _probe_pairs(context, context.samples.probes), level)
    context.model.release(Role.VISION)


Pairs = Iterator[tuple[str, AnyArray, AnyArray]]  # name, the candidate's pixels, the reference's


def _image_pairs(context: CheckContext) -> Pairs:
    for number, name in enumerate(context.inputs.names):
        own = context.inputs.own_pixels(context.inputs.images[number])
        yield name, own, own if context.inputs.pixels_equal(number, own) else context.inputs.pixels(number)


def _probe_pairs(context: CheckContext, probes: Mapping[str, ImageSource]) -> Pairs:
    for name, image in probes.items():
        yield name, context.inputs.own_pixels(image), context.inputs.pixels_of(image)


def _largest_difference(kind: str, pairs: Pairs, limit: float) -> Check:
    name, largest, worst, count = f"{kind}, largest difference", 0.0, "", 0
    for count, (image, actual, expected) in enumerate(pairs, 1):  # noqa: B007  counts the images for the detail
        if actual.shape != expected.shape or actual.dtype != expected.dtype:
            return shape_mismatch(CheckGroup.PIXELS, f"{name}, {image}", actual, expected)
        difference = _difference(actual, expected)
        if not difference <= largest or not worst:  # a NaN is the largest
            largest, worst = difference, image
        if not np.isfinite(largest):
            break
    return at_most(CheckGroup.PIXELS, name, largest, limit, f"{count} {kind}; worst: {worst}")


def _difference(actual: AnyArray, expected: AnyArray) -> float:
    names = actual.dtype.names
    fields = [(actual[name], expected[name]) for name in names] if names else [(actual, expected)]
    return float(np.max([np.abs(a - b).max() for a, b in fields]))
