"""Choose a variant and a provider: the ones that the user names, or for `auto` the fastest ones with a PASS."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, TypeVar

from .artifact.artifact import Artifact, verdict_of
from .artifact.contract import Contract, Precision, Provider, Verdict
from .engines import host
from .engines.options import SessionOptions
from .engines.preflight import check_provider, ensure_provider
from .engines.providers import PROVIDERS
from .errors import InputError, ProviderError

AUTO: Final = "auto"
_Name = TypeVar("_Name", Precision, Provider)


@dataclass(frozen=True)
class Choice:
    """A provider with a precision.

    Attributes:
        provider: The provider.
        precision: The precision.
        needs: Instruction sets (`host.FEATURES`) without which a later choice in the ranking is faster.
    """

    provider: Provider
    precision: Precision
    needs: frozenset[str] = frozenset()


def _choice(provider: Provider, precision: Precision, *needs: str) -> Choice:
    return Choice(provider, precision, frozenset(needs))


# Fastest first, by the measurements in docs/runtime.md. The last line adds every pair, so that each precision of a
# provider that the user names has a rank.
RANKING: Final = (
    _choice(Provider.CUDA, Precision.FP16),
    _choice(Provider.DIRECTML, Precision.FP16),
    _choice(Provider.COREML, Precision.FP16),
    _choice(Provider.OPENVINO, Precision.INT8_STATIC, "amx-int8"),
    _choice(Provider.OPENVINO, Precision.BF16, "amx-bf16"),
    _choice(Provider.CPU, Precision.INT8, "vnni"),
    _choice(Provider.CPU, Precision.INT8, "dot-product"),
    _choice(Provider.OPENVINO, Precision.INT8_STATIC, "vnni"),
    _choice(Provider.CUDA, Precision.FP32),
    _choice(Provider.OPENVINO, Precision.FP32),
    _choice(Provider.CPU, Precision.INT8_STATIC),
    _choice(Provider.CPU, Precision.FP32),
    _choice(Provider.WEBGPU, Precision.FP16),
    _choice(Provider.WEBGPU, Precision.FP32),
    *(_choice(provider, precision) for provider in Provider for precision in Precision),
)


def select(
    artifact: Artifact, precision: str, provider: str, options: SessionOptions | None
) -> tuple[Precision, SessionOptions]:
    """The precision, and the session options with the provider.

    Args:
        artifact: The artifact to run.
        precision: Name of a precision, or `auto`.
        provider: Name of a provider, or `auto`.
        options: Other session options; the provider in them is ignored.

    Raises:
        ProviderError: The provider does not work here; or for `auto`, nothing that works here carries a PASS.
        InputError: The precision or provider is unknown.
    """
    named = None if precision == AUTO else _parse(Precision, precision)
    chosen = replace(options or SessionOptions(), provider=_provider(artifact, provider, named))
    if provider == AUTO:
        chosen = chosen.for_its_provider()
    else:
        ensure_provider(chosen.provider, chosen)  # report a missing provider now, not at the first inference
    return named or _fastest(artifact, chosen.provider), chosen


def ranked(contract: Contract, provider: Provider | None, precision: Precision | None) -> list[Choice]:
    """The choices that carry a PASS in an artifact, fastest on this processor first.

    Args:
        contract: The artifact's contract.
        provider: Only choices on this provider; None for all that `auto` may choose.
        precision: Only choices of this precision; None for all.
    """
    features = host.processor().features
    fitting = (
        choice
        for choice in RANKING
        if provider in (None, choice.provider) and precision in (None, choice.precision) and choice.needs <= features
        if provider is not None or not PROVIDERS[choice.provider].by_name_only
    )
    return [choice for choice in dict.fromkeys(fitting) if _passes(contract, choice)]


def _passes(contract: Contract, choice: Choice) -> bool:
    variant = contract.variant(choice.precision, choice.provider)
    return variant is not None and verdict_of(variant, contract, choice.provider) is Verdict.PASS


def _parse(kind: type[_Name], name: str) -> _Name:
    try:
        return kind(name)
    except ValueError:
        known = ", ".join(kind)
        raise InputError(f"Unknown {kind.__name__.lower()} {name!r}.", f"Use one of: {known}; or {AUTO}.") from None


def _provider(artifact: Artifact, name: str, precision: Precision | None) -> Provider:
    """The provider of that name; for `auto` the fastest that works here and carries a PASS."""
    if name != AUTO:
        return _parse(Provider, name)
    causes: dict[Provider, str] = {}
    for choice in ranked(artifact.contract, None, precision):
        if choice.provider not in causes:
            problem = check_provider(choice.provider)
            if problem is None:
                return choice.provider
            causes[choice.provider] = problem.cause
    reasons = "; ".join(f"{provider}: {cause}" for provider, cause in causes.items()) or "no variant carries a PASS"
    raise ProviderError(
        f"Nothing in {artifact.folder} both carries a PASS and works here ({reasons}).",
        "Validate a variant with `siglip-onnx validate`, or name the precision and the provider.",
    )


def _fastest(artifact: Artifact, provider: Provider) -> Precision:
    choices = ranked(artifact.contract, provider, None)
    if not choices:
        raise ProviderError(
            f"No variant of {artifact.folder} carries a PASS on {provider}.",
            f"Run `siglip-onnx validate {artifact.folder} --provider {provider}`, or name a precision.",
        )
    return choices[0].precision
