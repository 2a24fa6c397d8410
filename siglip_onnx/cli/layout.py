"""`siglip-onnx layout`."""

from __future__ import annotations

from pathlib import Path

import click

from ..exporter.options import Layout
from ..runtime.artifact.contract import Precision
from ..runtime.errors import ProviderError
from .console import artifact_argument, choice, json_option, precision_option, print_json, progress


@click.command()
@artifact_argument
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--layout",
    type=choice(Layout),
    required=True,
    help="Server or library that will read TARGET.",
)
@precision_option
@click.option("--overwrite", is_flag=True, help="Replace TARGET if it is a layout.")
@click.option("--copy", is_flag=True, help="Copy weights instead of linking them, for readers that refuse hard links.")
@json_option
def command(
    artifact: Path, target: Path, layout: str, precision: str, overwrite: bool, copy: bool, as_json: bool
) -> None:
    """Write ARTIFACT to the folder TARGET in the layout of another server or library.

    Weights are hard links to the artifact's files, so TARGET needs little extra disk.
    """
    try:
        from ..exporter.layouts import write_layout
    except ImportError as error:
        raise ProviderError(
            f"Layouts need packages that are not installed ({error}).", "Run: pip install 'siglip-onnx[export]'."
        ) from error
    chosen, kind = Precision(precision), Layout(layout)
    with progress() as step:
        folder = write_layout(artifact, target, kind, precision=chosen, overwrite=overwrite, copy=copy, progress=step)
    size, own = _sizes(folder)
    if as_json:
        print_json({"target": str(target), "layout": layout, "precision": precision, "bytes": size, "own_bytes": own})
    else:
        click.echo(f"Wrote {target} for {layout}: {size / 1e6:,.1f} MB, using {own / 1e6:,.1f} MB of extra disk.")


def _sizes(folder: Path) -> tuple[int, int]:
    """Bytes of all files, and bytes of the files that are not hard links."""
    stats = [path.stat() for path in folder.rglob("*") if path.is_file()]
    return sum(stat.st_size for stat in stats), sum(stat.st_size for stat in stats if stat.st_nlink == 1)
