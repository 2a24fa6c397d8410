"""Which variant on which provider, from the names that a user gives."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, TypeVar

from .artifact.artifact import Artifact
from .artifact.contract import Precision, Provider
from .engines.options import SessionOptions
from .engines.preflight import check_provider, ensure_provider
from .engines.providers import ranked
from .errors import InputError, ProviderError

AUTO: Final = "auto"
_Choice = TypeVar("_Choice", Precision, Provider)


def choose(
    artifact: Artifact, precision: str, provider: str, options: SessionOptions | None
) -> tuple[Precision, SessionOptions]:
    """The precision, and the options with the provider, that were asked for; for `auto` the fastest with a PASS.

    Raises:
        ProviderError: The provider does not work here; or with `auto`, nothing that works here carries a PASS.
        InputError: There is no precision or provider of that name.
    """
    wanted = None if precision == AUTO else _member(Precision, precision)
    chosen = replace(options or SessionOptions(), provider=_provider(artifact, provider, wanted))
    if provider == AUTO:
        chosen = chosen.for_its_provider()
    else:
        ensure_provider(chosen.provider, chosen)  # a missing provider is an error now, not at first use
    return wanted or _fastest(artifact, chosen.provider), chosen


def _member(kind: type[_Choice], name: str) -> _Choice:
    try:
        return kind(name)
    except ValueError:
        known = ", ".join(kind)
        raise InputError(f"There is no {kind.__name__.lower()} {name!r}.", f"Use one of: {known}; or {AUTO}.") from None


def _provider(artifact: Artifact, name: str, precision: Precision | None) -> Provider:
    """The provider of that name; for `auto` the fastest with a PASS that works here."""
    if name != AUTO:
        return _member(Provider, name)
    tried: dict[Provider, str] = {}
    for choice in ranked(artifact.contract, None, precision):
        if choice.provider not in tried:
            found = check_provider(choice.provider)
            if found is None:
                return choice.provider
            tried[choice.provider] = found.cause
    told = "; ".join(f"{provider}: {cause}" for provider, cause in tried.items()) or "no variant carries a PASS"
    raise ProviderError(
        f"Nothing in {artifact.folder} that carries a PASS works here ({told}).",
        "Judge a variant with `siglip-onnx validate`, or name precision and provider yourself.",
    )


def _fastest(artifact: Artifact, provider: Provider) -> Precision:
    choices = ranked(artifact.contract, provider, None)
    if not choices:
        raise ProviderError(
            f"No variant of {artifact.folder} carries a PASS on {provider}.",
            f"Run `siglip-onnx validate {artifact.folder} --provider {provider}`, or name a precision.",
        )
    return choices[0].precision
