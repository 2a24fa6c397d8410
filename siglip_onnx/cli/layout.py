"""`siglip-onnx layout`."""

from __future__ import annotations

from pathlib import Path

import click

from ..runtime.artifact.contract import Precision
from ..runtime.errors import ProviderError
from .console import artifact_argument, json_option, precision_option, print_json, progress

_LAYOUTS = ("immich", "optimum", "triton")


@click.command()
@artifact_argument
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--layout", type=click.Choice(_LAYOUTS), required=True, help="Who is to read it.")
@precision_option
@click.option("--overwrite", is_flag=True, help="Replace TARGET if it is a layout already.")
@click.option("--copy", is_flag=True, help="Copy weights, for readers that refuse hard links.")
@json_option
def command(
    artifact: Path, target: Path, layout: str, precision: str, overwrite: bool, copy: bool, as_json: bool
) -> None:
    """Write ARTIFACT into the folder TARGET in the form that another server or library reads.

    Weights are hard links to the artifact's files, so that TARGET takes little room of its own.
    """
    try:
        from ..exporter.layouts import Layout, write_layout
    except ImportError as error:
        raise ProviderError(
            f"Layouts need packages that are not installed ({error}).", "Run: pip install 'siglip-onnx[export]'."
        ) from error
    with progress() as step:
        folder = write_layout(
            artifact,
            target,
            Layout(layout),
            precision=Precision(precision),
            overwrite=overwrite,
            copy=copy,
            progress=step,
        )
    sizes = [(path.stat().st_size, path.stat().st_nlink > 1) for path in folder.rglob("*") if path.is_file()]
    size, own = sum(size for size, _ in sizes), sum(size for size, linked in sizes if not linked)
    if as_json:
        print_json({"target": str(target), "layout": layout, "precision": precision, "bytes": size, "own_bytes": own})
    else:
        click.echo(f"Wrote {target} for {layout}: {size / 1e6:,.1f} MB, of which {own / 1e6:,.1f} MB take room.")
