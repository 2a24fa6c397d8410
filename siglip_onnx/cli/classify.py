"""`siglip-onnx classify`."""

from __future__ import annotations

from pathlib import Path

import click

from ..runtime import ImageOptions, SessionOptions, Siglip
from ..runtime.preprocessing.prompts import read_labels
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
@click.option("--label", "labels", multiple=True, help="Label; repeat for several.")
@click.option(
    "--labels-from",
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="File with one label per line; - for standard input.",
)
@template_option
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Number of labels to show per image.")
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
    """Classify IMAGES with the model in ARTIFACT: show the probability of each label.

    A classifier with frozen labels needs no --label.
    """
    names = list(labels)
    if labels_from is not None:
        with click.open_file(labels_from, "rb") as file:
            names += read_labels(file.read(), labels_from)
    with progress() as step:
        step("Loading the model")
        model = Siglip.load(artifact, precision, provider, options=options, image_options=image_options)
        tell_choice(model, precision, provider)
        if not names and model.contract.labels is None:
            raise click.UsageError("Pass at least one --label, or a file with --labels-from.")
        step("Classifying")
        ranked = model.classify(images, names or None, template=templates)
    if as_json:
        print_json({image: best[:top] for image, best in zip(images, ranked, strict=True)})
        return
    rows = table("image", "label", "probability")
    for image, best in zip(images, ranked, strict=True):
        for label in best[:top]:
            rows.add_row(image if label is best[0] else "", label.label, f"{label.probability:.4f}")
    stdout().print(rows)
