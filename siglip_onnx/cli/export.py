"""`siglip-onnx export`."""

from __future__ import annotations

from pathlib import Path

import click

from ..exporter.options import Dialect, ExportOptions, GraphInput, Layout
from ..runtime.artifact.input_specs import Orientation, Transparency
from ..runtime.errors import ProviderError
from ..runtime.files import scratch_folder
from .console import choice, dialect_option, json_option, print_json, progress


@click.command()
@click.argument("checkpoint")
@click.argument("artifact", type=click.Path(path_type=Path))
@dialect_option
@click.option(
    "--image-size",
    type=int,
    help="Image height and width in pixels (default: the checkpoint's); position embeddings are interpolated.",
)
@click.option("--batch", type=int, help="Fixed batch size, as NPUs and TensorRT need it (default: dynamic).")
@click.option("--pooled-only", is_flag=True, help="Omit last_hidden_state and everything that only it needs.")
@click.option("--normalized", is_flag=True, help="Scale embeddings to length 1 inside the graphs.")
@click.option(
    "--image-input",
    type=choice(GraphInput),
    default=GraphInput.PIXELS.value,
    show_default=True,
    help="Input of the vision graph: normalized pixels, bytes of resized images, or one decoded image of any size.",
)
@click.option(
    "--transparency",
    type=choice(Transparency),
    default=Transparency.WHITE.value,
    show_default=True,
    help="Background of transparent images in the runtime; drop ignores alpha, as transformers 4.57 to 5.20 do.",
)
@click.option(
    "--orientation",
    type=choice(Orientation),
    default=Orientation.FILES.value,
    show_default=True,
    help="Images that the runtime turns as their EXIF orientation says.",
)
@click.option(
    "--layout",
    type=choice(Layout),
    help="Write this layout instead of an artifact; same as `siglip-onnx layout` on the artifact.",
)
@click.option("--overwrite", is_flag=True, help="Replace an existing artifact (with --layout: an existing layout).")
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
    transparency: str,
    orientation: str,
    layout: str | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Export CHECKPOINT to an ONNX artifact in the folder ARTIFACT.

    CHECKPOINT is a folder with tokenizer files and weights of transformers, PaddleNLP, open_clip or big_vision, or the
    id of a model on the Hugging Face hub, which is downloaded.
    """
    options = ExportOptions(
        dialect=Dialect(dialect) if dialect else None,
        image_size=image_size,
        batch=batch,
        pooled_only=pooled_only,
        normalized=normalized,
        image_input=GraphInput(image_input),
        transparency=Transparency(transparency),
        orientation=Orientation(orientation),
    )
    _require_packages()
    if layout is None:
        _export_artifact(checkpoint, artifact, options, overwrite, as_json)
    else:
        _export_layout(checkpoint, artifact, options, Layout(layout), overwrite, as_json)


def _require_packages() -> None:
    try:
        from ..exporter import export  # noqa: F401  to see whether its packages are installed
    except ImportError as error:
        raise ProviderError(
            f"Exporting needs packages that are not installed ({error}).", "Run: pip install 'siglip-onnx[export]'."
        ) from error


def _export_artifact(checkpoint: str, target: Path, options: ExportOptions, overwrite: bool, as_json: bool) -> None:
    from ..exporter import export

    with progress() as step:
        artifact = export(checkpoint, target, options, overwrite=overwrite, progress=step)
    name, size = artifact.contract.name, sum(record.bytes for record in artifact.contract.files.values())
    if as_json:
        print_json({"artifact": str(target), "name": name, "bytes": size})
    else:
        click.echo(f"Exported {name} to {target} ({size / 1e6:,.1f} MB).")
        click.echo(f"Next: siglip-onnx validate {target} --reference {checkpoint}")


def _export_layout(
    checkpoint: str, target: Path, options: ExportOptions, layout: Layout, overwrite: bool, as_json: bool
) -> None:
    """Export to a temporary folder beside the target, so that the layout's hard links outlive the artifact."""
    from ..exporter import export
    from ..exporter.layouts import write_layout

    target.resolve().parent.mkdir(parents=True, exist_ok=True)
    with progress() as step, scratch_folder(target.resolve()) as scratch:
        artifact = scratch / "artifact"
        export(checkpoint, artifact, options, progress=step)
        write_layout(artifact, target, layout, overwrite=overwrite, progress=step)
    if as_json:
        print_json({"target": str(target), "layout": layout})
    else:
        click.echo(f"Wrote {target} for {layout}.")
