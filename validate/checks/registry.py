"""Every check group, cheapest first, and the function that runs them.

Each group feeds a tower the reference's inputs, so a fault shows in the group that it belongs to: wrong pixels fail
PIXELS, not EMBEDDINGS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from ...runtime.artifact.contract import ReferenceKind, Role
from ...runtime.errors import SiglipOnnxError
from ..report.report import OPTIONAL, Check, CheckGroup, failed
from . import files, numeric, runs, tasks
from .context import CheckContext


def expected_groups(context: CheckContext) -> frozenset[CheckGroup]:
    """The check groups that a verdict needs: all for which there is something to compare."""
    samples, texts = context.samples, Role.TEXT in context.roles
    missing = {
        # A variant shares tokenizer and pixels with the fp32 variant, whose own verdict covers them.
        CheckGroup.TOKENS: context.against is ReferenceKind.FP32 or not texts,
        CheckGroup.PIXELS: context.against is ReferenceKind.FP32,
        CheckGroup.ACCURACY: not samples.classes or not texts,
        CheckGroup.RETRIEVAL: not samples.pairs or not texts,
        CheckGroup.NON_INFERIORITY: samples.bundled or not (samples.classes or samples.pairs) or not texts,
    }
    groups = {group for group in CheckGroup if group not in OPTIONAL and not missing.get(group, False)}
    return frozenset(groups - context.exclude_groups)


def run_checks(context: CheckContext, groups: frozenset[CheckGroup]) -> Iterator[Check]:
    """Run every check of the given groups; an error fails its group, and the groups after it still run."""
    for group, measure in _GROUPS.items():
        if group not in groups:
            continue
        context.progress(f"Checking {group}")
        try:
            yield from measure(context)
        except SiglipOnnxError as error:
            yield failed(group, "can be measured", str(error))
        except Exception as error:  # a broken artifact may raise anything
            yield failed(group, "can be measured", f"{type(error).__name__}: {error}")


_GROUPS: Final[dict[CheckGroup, Callable[[CheckContext], Iterator[Check]]]] = {
    CheckGroup.CONTRACT: files.contract,
    CheckGroup.TOKENS: files.tokens,
    CheckGroup.PIXELS: files.pixels,
    CheckGroup.PROVIDER: runs.provider,
    CheckGroup.DETERMINISM: runs.determinism,
    CheckGroup.BATCH: runs.batch,
    CheckGroup.EMBEDDINGS: numeric.embeddings,
    CheckGroup.LOGITS: numeric.logits,
    CheckGroup.PROBABILITIES: numeric.probabilities,
    CheckGroup.RANKING: numeric.ranking,
    CheckGroup.ACCURACY: tasks.accuracy,
    CheckGroup.RETRIEVAL: tasks.retrieval,
    CheckGroup.NON_INFERIORITY: tasks.non_inferiority,
}
