"""`siglip-onnx classify`."""

from __future__ import annotations

from pathlib import Path

import click

from ..runtime import ImageOptions, Siglip, Transparency
from ..runtime.labels import read_labels
from .console import json_option, precision_option, print_json, progress, provider_option, stdout, table


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path())
@click.option("--label", "labels", multiple=True, help="A label to choose among; give it again for each.")
@click.option(
    "--labels-from",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="A file with a label a line, or - for standard input.",
)
@click.option("--template", default="{}", show_default=True, help='What the model reads, as in "a photo of {}".')
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Labels to show for each picture.")
@click.option("--exif-orientation", is_flag=True, help="Turn photos as their EXIF orientation says.")
@click.option(
    "--transparency",
    type=click.Choice([t.value for t in Transparency]),
    default="drop",
    show_default=True,
    help="Of alpha channels.",
)
@precision_option
@provider_option
@json_option
def command(
    artifact: Path,
    images: tuple[str, ...],
    labels: tuple[str, ...],
    labels_from: str | None,
    template: str,
    top: int,
    exif_orientation: bool,
    transparency: str,
    precision: str,
    provider: str,
    as_json: bool,
) -> None:
    """Tell how probable each label is for each of the pictures IMAGES, by the model in ARTIFACT."""
    choices = list(labels)
    if labels_from is not None:
        with click.open_file(labels_from, "rb") as file:
            choices += read_labels(file.read(), labels_from)
    if not choices:
        raise click.UsageError("Give at least one --label, or a file with --labels-from.")
    options = ImageOptions(exif_orientation, Transparency(transparency))
    with progress() as step:
        step("Loading the model")
        model = Siglip.load(artifact, precision, provider, image_options=options)
        step("Looking at the pictures")
        ranked = model.classify(images, choices, template=template)
    if as_json:
        print_json({image: best[:top] for image, best in zip(images, ranked, strict=True)})
        return
    rows = table("picture", "label", "probability")
    for image, best in zip(images, ranked, strict=True):
        for label in best[:top]:
            rows.add_row(image if label is best[0] else "", label.label, f"{label.probability:.4f}")
    stdout().print(rows)
