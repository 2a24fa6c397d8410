"""`siglip-onnx search`."""

from __future__ import annotations

from pathlib import Path

import click
import rich.text

from ..runtime import SessionOptions, Siglip
from ..runtime.bulk import Hit, Modality, search
from ..runtime.bulk.embeddings_file import read_about
from .console import json_option, print_json, progress, session_options, stdout, table


@click.command()
@click.argument("query")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--image", is_flag=True, help="QUERY is an image's path, not a text.")
@click.option("--top", type=click.IntRange(1), default=10, show_default=True, help="How many rows to show.")
@click.option("--artifact", type=click.Path(path_type=Path), help="The model; by default where FILE says that it was.")
@session_options(auto=False, default=None)
@json_option
def command(
    query: str,
    file: Path,
    image: bool,
    top: int,
    artifact: Path | None,
    provider: str | None,
    options: SessionOptions,
    as_json: bool,
) -> None:
    """Find the rows of FILE, which `siglip-onnx embed` has written, that are most similar to QUERY.

    Every vector is compared, none is left out. The query is embedded with the precision and, unless another is named,
    the provider that FILE was made with.
    """
    about = read_about(str(file))
    kind = Modality.IMAGE if image else Modality.TEXT
    with progress() as step:
        step("Searching")
        model = Siglip.load(artifact or about.artifact, about.precision, provider or about.provider, options=options)
        hits = search([query], file, kind=kind, top=top, model=model)[0]
    if as_json:
        print_json(hits)
        return
    rows = table("cosine", "probability", about.kind)
    for hit in hits:
        rows.add_row(f"{hit.cosine:.4f}", _probability(hit), rich.text.Text(hit.id if hit.text is None else hit.text))
    stdout().print(rows)


def _probability(hit: Hit) -> str:
    return "–" if hit.probability is None else f"{hit.probability:.4f}"
