"""`siglip-onnx inspect`."""

from __future__ import annotations

from pathlib import Path

import click

from ..runtime import Artifact
from ..runtime.artifact.artifact import verdict_of
from ..runtime.artifact.contract import Contract, Graph
from ..runtime.artifact.input_specs import ImageSpec
from .console import artifact_argument, colored, json_option, print_json, progress, stdout, table


@click.command()
@artifact_argument
@click.option("--verify", is_flag=True, help="Also check the SHA-256 of every file.")
@json_option
def command(artifact: Path, verify: bool, as_json: bool) -> None:
    """Show the model, graphs, sizes and verdicts of ARTIFACT."""
    opened = Artifact.open(artifact)
    if verify:
        with progress() as step:
            step("Hashing")
            opened.verify()
    if as_json:
        print_json(opened.contract)
        return
    _describe(opened.contract)
    if verify:
        click.echo(f"All {len(opened.contract.files)} files match the contract.")


def _describe(contract: Contract) -> None:
    text, labels, logits = contract.tokenizer, contract.labels, contract.logits
    click.echo(contract.name)
    click.echo(f"  images    {_images(contract.image)}")
    if text:
        click.echo(f"  texts     {text.length} ids of {text.vocab_size}, padded with {text.pad_id}")
    if labels:
        shown = ", ".join(labels.labels[:5]) + (", …" if len(labels.labels) > 5 else "")
        click.echo(f"  labels    {len(labels.labels)}, frozen with {' '.join(map(repr, labels.templates))}: {shown}")
    click.echo(f"  logits    {logits.scale:.6g} * cosine {logits.bias:+.6g}")
    click.echo(f"  embedding {contract.embedding.size} wide, output {contract.embedding.output}\n")
    rows = table("precision", "for", "graph", "file", "MB", "opset", "verdict", "against")
    for variant in contract.variants:
        for role, graph in variant.graphs.items():
            opset = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in graph.opset.items())
            size = f"{_size(contract, graph) / 1e6:,.1f}"
            verdict = colored(verdict_of(variant, contract))
            against = ", ".join(dict.fromkeys(parity.against for parity in variant.parity))
            rows.add_row(
                variant.precision, variant.target_provider or "any", role, graph.path, size, opset, verdict, against
            )
    stdout().print(rows)


def _images(image: ImageSpec) -> str:
    if image.max_patches:
        size = f"at most {image.max_patches} patches of {image.patch_size} x {image.patch_size}"
    else:
        size = f"{image.width} x {image.height}"
    steps = {"pixels": "", "bytes": ", normalized in the graph", "image": ", resized in the graph"}[image.input]
    return f"{size}, {image.filter}, mean {image.mean}, std {image.std}{steps}"


def _size(contract: Contract, graph: Graph) -> int:
    return sum(contract.files[path].bytes for path in (graph.path, *graph.data))
