"""`siglip-onnx freeze-labels`."""

from __future__ import annotations

from pathlib import Path

import click

from ..runtime.artifact.contract import Precision
from ..runtime.errors import ProviderError
from ..runtime.preprocessing.prompts import read_labels
from .console import artifact_argument, choice, json_option, print_json, progress, template_option


@click.command()
@artifact_argument
@click.argument("labels", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Folder of the classifier.")
@template_option
@click.option(
    "--precision",
    "precisions",
    type=choice(Precision),
    multiple=True,
    default=["fp32"],
    show_default=True,
    help="Variant of the vision tower; repeat the option for several.",
)
@click.option("--overwrite", is_flag=True, help="Replace the folder if it is an artifact.")
@json_option
def command(
    artifact: Path,
    labels: str,
    output: Path,
    templates: tuple[str, ...],
    precisions: tuple[str, ...],
    overwrite: bool,
    as_json: bool,
) -> None:
    """Freeze the labels in the file LABELS, one per line, into a classifier made from ARTIFACT.

    The classifier holds the vision tower and the label embeddings: a third of the size, and no tokenizer.
    """
    try:
        from ..exporter import freeze_labels
    except ImportError as error:
        raise ProviderError(
            f"Freezing labels needs packages that are not installed ({error}).",
            "Run: pip install 'siglip-onnx[cpu,export]'.",
        ) from error
    with click.open_file(labels, "rb") as file:
        names = read_labels(file.read(), labels)
    chosen = [Precision(precision) for precision in precisions]
    with progress() as step:
        classifier = freeze_labels(
            artifact, names, output, templates=templates, precisions=chosen, overwrite=overwrite, progress=step
        )
    size = sum(record.bytes for record in classifier.contract.files.values())
    if as_json:
        print_json({"artifact": str(output), "name": classifier.contract.name, "labels": len(names), "bytes": size})
    else:
        click.echo(f"Froze {len(names)} labels into {output} ({size / 1e6:,.1f} MB).")
        click.echo(f"Next: siglip-onnx validate {output} --reference CHECKPOINT")
