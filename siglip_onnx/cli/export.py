"""`siglip-onnx export`."""

from __future__ import annotations

from pathlib import Path

import click

from ..runtime.errors import ProviderError
from .console import json_option, print_json, progress


@click.command()
@click.argument("checkpoint")
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("--overwrite", is_flag=True, help="Replace ARTIFACT if it is an artifact already.")
@json_option
def command(checkpoint: str, artifact: Path, overwrite: bool, as_json: bool) -> None:
    """Turn CHECKPOINT into an ONNX artifact in the folder ARTIFACT.

    CHECKPOINT is a folder with config.json, safetensors, preprocessor_config.json, tokenizer_config.json and
    spiece.model, or the id of such a model on the Hugging Face hub, which is then downloaded.
    """
    try:
        from ..exporter import export
    except ImportError as error:
        raise ProviderError(
            f"Exporting needs packages that are not installed ({error}).", "Run: pip install 'siglip-onnx[export]'."
        ) from error
    with progress() as step:
        made = export(checkpoint, artifact, overwrite=overwrite, progress=step)
    size = sum(record.bytes for record in made.contract.files.values())
    if as_json:
        print_json({"artifact": str(artifact), "name": made.contract.name, "bytes": size})
    else:
        click.echo(f"Exported {made.contract.name} to {artifact} ({size / 1e6:,.1f} MB).")
        click.echo(f"Next: siglip-onnx validate {artifact} --reference {checkpoint}")
