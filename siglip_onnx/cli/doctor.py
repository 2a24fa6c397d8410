"""`siglip-onnx doctor`."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

import click
import rich.text

from .. import __version__
from ..runtime.errors import ProviderError
from ..runtime.session import PROVIDERS, available_providers
from ..runtime.versions import installed_version
from .console import json_option, print_json, stdout, table

# What each package is for: running, exporting and judging.
_PACKAGES = {
    "numpy": "run",
    "pillow": "run",
    "sentencepiece": "run",
    "onnxruntime": "run",
    "onnxruntime-gpu": "run",
    "torch": "export",
    "onnx": "export",
    "onnx-ir": "export",
    "onnxscript": "export",
    "safetensors": "export",
    "huggingface-hub": "export",
    "transformers": "validate",
    "tokenizers": "validate",
}
_OPTIONAL = {"onnxruntime": "onnxruntime-gpu", "onnxruntime-gpu": "onnxruntime"}  # either will do


@dataclass(frozen=True)
class _Finding:
    name: str
    found: str | None
    needed_for: str
    install: str = ""


@click.command()
@json_option
def command(as_json: bool) -> int:
    """Show what is installed here, which providers work, and what to install for more.

    The exit code is 3 if nothing can be run.
    """
    packages = [_package(name, purpose) for name, purpose in _PACKAGES.items()]
    providers = _providers()
    if as_json:
        print_json({"siglip-onnx": __version__, **_machine(), "packages": packages, "providers": providers})
    else:
        for name, value in {"siglip-onnx": __version__, **_machine()}.items():
            click.echo(f"{name:12} {value}")
        click.echo()
        _print("package", packages)
        click.echo()
        _print("provider", providers)
    return 0 if any(provider.found for provider in providers) else ProviderError.exit_code


def _machine() -> dict[str, str]:
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count()
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": str(cores),
    }


def _package(name: str, purpose: str) -> _Finding:
    version = installed_version(name)
    covered = version is None and name in _OPTIONAL and installed_version(_OPTIONAL[name]) is not None
    extra = "cpu" if purpose == "run" else "export"
    install = "" if version or covered else f"pip install 'siglip-onnx[{extra}]'"
    return _Finding(name, version, purpose, install)


def _providers() -> list[_Finding]:
    try:
        working = available_providers()
    except ProviderError:
        working = ()
    return [
        _Finding(name, spec.ort_name if name in working else None, "run", "" if name in working else spec.install)
        for name, spec in PROVIDERS.items()
    ]


def _print(kind: str, findings: list[_Finding]) -> None:
    rows = table(kind, "found", "needed to", "install with")
    for finding in findings:
        found = rich.text.Text(finding.found or "missing", "green" if finding.found else "dim")
        rows.add_row(finding.name, found, finding.needed_for, rich.text.Text(finding.install))
    stdout().print(rows)
