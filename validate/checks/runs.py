"""Check groups about running the graphs: provider, determinism, batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from ...runtime.engines.providers import PROVIDERS
from ..report.report import Check, CheckGroup, at_least, at_most, failed, inconclusive
from .context import CheckContext

_FALLBACK_SHARE: Final = 0.5  # of the nodes that a provider must run itself where the CPU may run the others


def provider(context: CheckContext) -> Iterator[Check]:
    """Check that the requested provider runs the graphs; not every engine's list of providers proves it."""
    options = context.model.options
    for role in context.roles:
        placement = context.tower(role).placement
        name = f"{role}, share of the nodes that {options.provider} runs"
        if placement:
            share = placement.get(PROVIDERS[options.provider].name, 0) / sum(placement.values())
            limit = _FALLBACK_SHARE if options.allow_fallback else 1.0
            yield at_least(CheckGroup.PROVIDER, name, share, limit, ", ".join(map(str, placement.items())))
        elif options.allow_fallback:
            detail = "the engine does not report which nodes it leaves to the CPU"
            yield inconclusive(CheckGroup.PROVIDER, name, detail)
        else:
            detail = "the engine does not report what it runs, and no other provider is allowed"
            yield at_most(CheckGroup.PROVIDER, f"{role}, other providers allowed", 0.0, 0.0, detail)


def determinism(context: CheckContext) -> Iterator[Check]:
    """Check that two runs of the same row give the same embedding."""
    for role in context.roles:
        tower = context.tower(role)
        same = np.array_equal(tower.again, tower.actual[0], equal_nan=True)
        difference = 0.0 if same else float(np.abs(tower.again - tower.actual[0]).max())
        yield at_most(CheckGroup.DETERMINISM, f"{role}, two runs differ by", difference, 0.0)


def batch(context: CheckContext) -> Iterator[Check]:
    """Check that a row in a batch gives the embedding of the same row alone."""
    for role in context.roles:
        for size, result in context.tower(role).batches.items():
            name = f"{role}, alone against a batch of {size}"
            if isinstance(result, str):
                yield failed(CheckGroup.BATCH, name, result)
            else:
                yield at_most(CheckGroup.BATCH, name, result, context.limits.batch, "1 - cosine")
