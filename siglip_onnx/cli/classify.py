"""`siglip-onnx classify`."""

from __future__ import annotations

from pathlib import Path

import click

from ..runtime import ImageOptions, SessionOptions, Siglip
from ..runtime.labels import read_labels
from .console import (
    auto_precision_option,
    json_option,
    print_json,
    progress,
    session_options,
    stdout,
    table,
    tell_choice,
    template_option,
)
from .console import (
    image_options as with_image_options,
)


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path())
@click.option("--label", "labels", multiple=True, help="A label to choose among; give it again for each.")
@click.option(
    "--labels-from",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="A file with a label a line, or - for standard input.",
)
@template_option
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Labels to show for each image.")
@with_image_options
@auto_precision_option
@session_options(auto=True)
@json_option
def command(
    artifact: Path,
    images: tuple[str, ...],
    labels: tuple[str, ...],
    labels_from: str | None,
    templates: tuple[str, ...],
    top: int,
    precision: str,
    provider: str,
    options: SessionOptions,
    image_options: ImageOptions,
    as_json: bool,
) -> None:
    """Tell how probable each label is for each of the images IMAGES, by the model in ARTIFACT.

    A classifier of frozen labels has its own and needs none.
    """
    choices = list(labels)
    if labels_from is not None:
        with click.open_file(labels_from, "rb") as file:
            choices += read_labels(file.read(), labels_from)
    with progress() as step:
        step("Loading the model")
        model = Siglip.load(artifact, precision, provider, options=options, image_options=image_options)
        tell_choice(model, precision, provider)
        if not choices and model.contract.labels is None:
            raise click.UsageError("Give at least one --label, or a file with --labels-from.")
        step("Looking at the images")
        ranked = model.classify(images, choices or None, template=templates)
    if as_json:
        print_json({image: best[:top] for image, best in zip(images, ranked, strict=True)})
        return
    rows = table("image", "label", "probability")
    for image, best in zip(images, ranked, strict=True):
        for label in best[:top]:
            rows.add_row(image if label is best[0] else "", label.label, f"{label.probability:.4f}")
    stdout().print(rows)
