"""`siglip-onnx embed`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import rich.console
import rich.progress

from ..runtime import ImageOptions, SessionOptions, Siglip, SiglipOnnxError
from ..runtime.bulk import Backend, Cluster, EmbedJob, Inputs, Modality, VectorDtype, embed
from .console import auto_precision_option, choice, json_option, print_json, session_options, tell_choice
from .console import image_options as with_image_options

_SUFFIX = ".parquet"


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("inputs", nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="Parquet file to write.")
@click.option(
    "--modality", type=choice(Modality), default="image", show_default=True,
    help="Embed images or texts.",
)  # fmt: skip
@click.option("--column", help="Column of a table with the text, or with the image's path or bytes.")
@click.option("--id-column", help="Column of a table with the name of each row (default: file#row).")
@click.option(
    "--dtype", type=choice(VectorDtype), default="float32", show_default=True,
    help="Type of the numbers in the output.",
)  # fmt: skip
@click.option("--template", default="{}", show_default=True, help='Prompt for a text, such as "a photo of {}".')
@click.option("--batch-size", type=click.IntRange(1), help="Rows per batch (default: fastest on the provider).")
@click.option(
    "--backend", type=choice(Backend), default="local", show_default=True,
    help="Embed in this process or on a Ray cluster.",
)  # fmt: skip
@click.option("--ray-address", help="Address of a running Ray cluster (default: start one on this machine).")
@click.option(
    "--workers", type=click.IntRange(1), default=1, show_default=True, help="Ray workers; each loads the model."
)
@click.option("--gpus-per-worker", type=click.FloatRange(0), default=0.0, show_default=True, help="May be a fraction.")
@click.option("--cores-per-worker", type=click.IntRange(1), default=1, show_default=True, help="CPU cores per worker.")
@click.option(
    "--checkpoint-interval", type=click.FloatRange(0), default=30.0, show_default=True,
    help="Seconds of work that an interruption may lose.",
)  # fmt: skip
@click.option("--overwrite", is_flag=True, help="Replace an existing OUTPUT once the new one is complete.")
@click.option("--no-resume", is_flag=True, help="Discard an unfinished run for OUTPUT instead of continuing it.")
@with_image_options
@auto_precision_option
@session_options(auto=True)
@json_option
def command(
    artifact: Path,
    inputs: tuple[str, ...],
    output: Path,
    modality: str,
    column: str | None,
    id_column: str | None,
    dtype: str,
    template: str,
    batch_size: int | None,
    backend: str,
    ray_address: str | None,
    workers: int,
    gpus_per_worker: float,
    cores_per_worker: int,
    checkpoint_interval: float,
    overwrite: bool,
    no_resume: bool,
    image_options: ImageOptions,
    precision: str,
    provider: str,
    options: SessionOptions,
    as_json: bool,
) -> None:
    """Embed the images or texts in INPUTS with the model in ARTIFACT, and write a parquet file.

    INPUTS are folders, images, patterns, tables (.csv, .tsv, .jsonl, .parquet), archives (.tar, .tar.gz) or files
    with a text on each line (.txt). An image or text that cannot be read gets a row with the reason in the column
    `error`. To continue an interrupted run, run the same command again.
    """
    if output.suffix != _SUFFIX:
        raise click.UsageError(f"OUTPUT must end in {_SUFFIX}, got {output.name}.")
    collection = Inputs(inputs, Modality(modality), column, id_column)
    cluster = Cluster(ray_address, workers, gpus_per_worker, cores_per_worker)
    job = EmbedJob(
        collection,
        output,
        dtype=VectorDtype(dtype),
        template=template,
        batch_size=batch_size,
        backend=Backend(backend),
        cluster=cluster,
        checkpoint_interval=checkpoint_interval,
        overwrite=overwrite,
        resume=not no_resume,
    )
    model = Siglip.load(artifact, precision, provider, options=options, image_options=image_options)
    tell_choice(model, precision, provider)
    with _progress(collection) as report:
        about = embed(model, job, report)
    if as_json:
        print_json({"output": str(output), "rows": about.rows, "errors": about.errors, "truncated": about.truncated})
        return
    click.echo(f"Embedded {about.rows - about.errors:,} {modality}s to {output}; {about.errors:,} could not be read.")
    if about.truncated:
        click.echo(f"{about.truncated:,} texts are longer than the model reads (column truncated).")
    query = '"a red apple"' if about.rows else "TEXT"
    click.echo(f"Next: siglip-onnx search {query} {output}")


@contextmanager
def _progress(inputs: Inputs) -> Iterator[Callable[[int, int], None]]:
    """Show a bar with rate and time left on a terminal, and nothing elsewhere. A thread counts the items meanwhile."""
    console = rich.console.Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, errors: None
        return
    columns = (
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TextColumn("{task.fields[rate]}"),
        rich.progress.TimeRemainingColumn(compact=True),
        rich.progress.TextColumn("{task.fields[bad]}"),
    )
    with rich.progress.Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=None, rate="", bad="")
        threading.Thread(target=_count, args=(inputs, lambda n: bar.update(task, total=n)), daemon=True).start()

        def report(done: int, errors: int) -> None:
            speed = bar.tasks[0].speed
            bad = f"{errors:,} unreadable" if errors else ""
            bar.update(task, completed=done, rate=f"{speed:,.1f} a second" if speed else "", bad=bad)

        yield report


def _count(inputs: Inputs, set_total: Callable[[int], None]) -> None:
    try:
        set_total(sum(1 for _ in inputs))
    except SiglipOnnxError:
        return  # embed raises the same error
