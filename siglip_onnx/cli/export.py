"""`siglip-onnx export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..runtime.errors import ProviderError
from ..runtime.files import scratch_folder
from .console import dialect_option, json_option, print_json, progress

if TYPE_CHECKING:
    from ..exporter import ExportOptions


@click.command()
@click.argument("checkpoint")
@click.argument("artifact", type=click.Path(path_type=Path))
@dialect_option
@click.option(
    "--image-size", type=int, help="Pixels each way in the place of the checkpoint's; positions are interpolated."
)
@click.option("--batch", type=int, help="A fixed batch, as NPUs and TensorRT want it; by default it stays free.")
@click.option("--pooled-only", is_flag=True, help="Leave out last_hidden_state, and what only it needs.")
@click.option("--normalized", is_flag=True, help="Scale embeddings to length 1 in the graph.")
@click.option(
    "--image-input",
    type=click.Choice(["pixels", "bytes", "image"]),
    default="pixels",
    show_default=True,
    help="What the vision graph takes: normalized pixels, bytes that are resized already, or a decoded image of any "
    "size.",
)
@click.option(
    "--layout",
    type=click.Choice(["immich", "optimum", "triton"]),
    help="Write this form instead of an artifact, as `siglip-onnx layout` does from an artifact.",
)
@click.option("--overwrite", is_flag=True, help="Replace ARTIFACT if it is one already, or, with --layout, a layout.")
@json_option
def command(
    checkpoint: str,
    artifact: Path,
    dialect: str | None,
    image_size: int | None,
    batch: int | None,
    pooled_only: bool,
    normalized: bool,
    image_input: str,
    layout: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Turn CHECKPOINT into an ONNX artifact in the folder ARTIFACT.

    CHECKPOINT is a folder with weights of transformers, PaddleNLP, open_clip or big_vision and their tokenizer files,
    or the id of a model on the Hugging Face hub, which is then downloaded.
    """
    try:
        from ..exporter import Dialect, ExportOptions, GraphInput, export
    except ImportError as error:
        raise ProviderError(
            f"Exporting needs packages that are not installed ({error}).", "Run: pip install 'siglip-onnx[export]'."
        ) from error
    options = ExportOptions(
        dialect=Dialect(dialect) if dialect else None,
        image_size=image_size,
        batch=batch,
        pooled_only=pooled_only,
        normalized=normalized,
        image_input=GraphInput(image_input),
    )
    if layout is not None:
        _lay_out(checkpoint, artifact, options, layout, overwrite, as_json)
        return
    with progress() as step:
        made = export(checkpoint, artifact, options, overwrite=overwrite, progress=step)
    size = sum(record.bytes for record in made.contract.files.values())
    if as_json:
        print_json({"artifact": str(artifact), "name": made.contract.name, "bytes": size})
    else:
        click.echo(f"Exported {made.contract.name} to {artifact} ({size / 1e6:,.1f} MB).")
        click.echo(f"Next: siglip-onnx validate {artifact} --reference {checkpoint}")


def _lay_out(
    checkpoint: str, target: Path, options: ExportOptions, layout: str, overwrite: bool, as_json: bool
) -> None:
    """Export beside the target, and link what the layout needs out of there before it vanishes."""
    from ..exporter import export
    from ..exporter.layouts import Layout, write_layout

    target.resolve().parent.mkdir(parents=True, exist_ok=True)
    with progress() as step, scratch_folder(target.resolve()) as scratch:
        artifact = scratch / "artifact"
        export(checkpoint, artifact, options, progress=step)
        write_layout(artifact, target, Layout(layout), overwrite=overwrite, progress=step)
    if as_json:
        print_json({"target": str(target), "layout": layout})
    else:
        click.echo(f"Wrote {target} for {layout}.")
