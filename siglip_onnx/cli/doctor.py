"""`siglip-onnx doctor`."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from pathlib import Path

import click
import rich.text

from .. import __version__
from ..runtime import Artifact
from ..runtime.artifact.contract import Provider
from ..runtime.auto_select import ranked
from ..runtime.engines import host
from ..runtime.engines.host import installed_version
from ..runtime.engines.preflight import ProviderProblem, check_provider
from ..runtime.engines.providers import PROVIDERS
from ..runtime.errors import ProviderError
from .console import json_option, print_json, progress, stdout, table

# Each package with its purpose, a key of _INSTALL or a part of [export].
_PACKAGES = {
    "numpy": "run",
    "pillow": "run",
    "sentencepiece": "run",
    "onnxruntime": "run",
    "onnxruntime-gpu": "run on a GPU",
    "openvino": "run on OpenVINO",
    "onnxruntime-ep-openvino": "run on OpenVINO",
    "pyarrow": "embed, search",
    "ray": "embed on a cluster",
    "faiss-cpu": "search faster",
    "torch": "export",
    "onnx": "export",
    "onnx-ir": "export",
    "onnxscript": "export",
    "safetensors": "export",
    "huggingface-hub": "export",
    "transformers": "validate",
    "tokenizers": "validate",
}
_INSTALL = {
    "run": "pip install 'siglip-onnx[cpu]'",
    "run on a GPU": "pip install 'siglip-onnx[gpu]' (instead of [cpu])",
    "run on OpenVINO": "pip install 'siglip-onnx[openvino]'",
    "embed, search": "pip install 'siglip-onnx[bulk]'",
    "embed on a cluster": "pip install 'siglip-onnx[ray]'",
    "search faster": "pip install faiss-cpu",
}
_EXPORT = "pip install 'siglip-onnx[export]'"


@dataclass(frozen=True)
class _Package:
    name: str
    version: str | None
    needed_to: str
    install: str


@dataclass(frozen=True)
class _Provider:
    name: Provider
    works: bool
    problem: ProviderProblem | None


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path), required=False)
@json_option
def command(artifact: Path | None, as_json: bool) -> int:
    """Show installed packages and try every provider with a small graph.

    With ARTIFACT, also show what `--provider auto` and `--precision auto` would select for it. The exit code is 3 if no
    provider works.
    """
    packages = [_package(name, purpose) for name, purpose in _PACKAGES.items()]
    with progress() as step:
        step("Trying providers")
        providers = [_Provider(name, (problem := check_provider(name)) is None, problem) for name in PROVIDERS]
    working = {provider.name for provider in providers if provider.works}
    choices = _choices(artifact, working)
    if as_json:
        facts: dict[str, object] = {
            "siglip-onnx": __version__,
            **_machine(),
            "packages": packages,
            "providers": providers,
        }
        print_json(facts | ({"choices": choices} if artifact else {}))
    else:
        _print(packages, providers)
        if artifact:
            click.echo(
                f"\nauto selects for {artifact}: "
                + (choices[0] if choices else "nothing, because no variant carries a PASS")
            )
    return 0 if working else ProviderError.exit_code


def _choices(artifact: Path | None, working: set[Provider]) -> list[str]:
    if artifact is None:
        return []
    contract = Artifact.open(artifact).contract
    return [f"{c.precision} on {c.provider}" for c in ranked(contract, None, None) if c.provider in working]


def _machine() -> dict[str, str]:
    processor = host.processor()
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor.name,
        "features": ", ".join(sorted(processor.features)) or "unknown",
        "cores": str(host.cores()),
    }


def _package(name: str, purpose: str) -> _Package:
    version = installed_version(name)
    return _Package(name, version, purpose, "" if version else _INSTALL.get(purpose, _EXPORT))


def _print(packages: list[_Package], providers: list[_Provider]) -> None:
    for name, value in {"siglip-onnx": __version__, **_machine()}.items():
        click.echo(f"{name:12} {value}")
    for warning in _warnings():
        click.echo(f"{'':12} {warning}")
    click.echo()
    rows = table("package", "installed", "needed to", "install with")
    for package in packages:
        version = rich.text.Text(package.version or "missing", "green" if package.version else "dim")
        rows.add_row(package.name, version, package.needed_to, rich.text.Text(package.install))
    stdout().print(rows)
    click.echo()
    rows = table("provider", "works", "why not", "what to do")
    for provider in providers:
        works = rich.text.Text("yes", "green") if provider.works else rich.text.Text("no", "dim")
        problem = provider.problem or ProviderProblem("", "")
        rows.add_row(provider.name, works, rich.text.Text(problem.cause), rich.text.Text(problem.fix))
    stdout().print(rows)


def _warnings() -> list[str]:
    if host.processor().saturates:
        return ["without VNNI, int8 is slower, and variants made with --set weight_bits=8 may overflow"]
    return []
