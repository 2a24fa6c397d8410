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
@click.option("--image", is_flag=True, help="QUERY is the path of an image.")
@click.option("--top", type=click.IntRange(1), default=10, show_default=True, help="Number of rows to show.")
@click.option(
    "--artifact", type=click.Path(path_type=Path), help="Artifact to embed QUERY with (default: as recorded in FILE)."
)
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
    """Find the rows of FILE, written by `siglip-onnx embed`, that are most similar to QUERY.

    The search is exact. QUERY is embedded with the precision of FILE and, by default, with its provider.
    """
    about = read_about(str(file))
    modality = Modality.IMAGE if image else Modality.TEXT
    with progress() as step:
        step("Searching")
        model = Siglip.load(artifact or about.artifact, about.precision, provider or about.provider, options=options)
        hits = search([query], file, modality=modality, top=top, model=model)[0]
    if as_json:
        print_json(hits)
        return
    rows = table("cosine", "probability", about.modality)
    for hit in hits:
        rows.add_row(f"{hit.cosine:.4f}", _probability(hit), rich.text.Text(hit.id if hit.text is None else hit.text))
    stdout().print(rows)


def _probability(hit: Hit) -> str:
    return "–" if hit.probability is None else f"{hit.probability:.4f}"
