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
from .console import auto_precision_option, json_option, print_json, session_options, tell_choice
from .console import image_options as with_image_options

_SUFFIX = ".parquet"


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("inputs", nargs=-1, required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The parquet file to write.")
@click.option("--kind", type=click.Choice([k.value for k in Modality]), default="image", show_default=True)
@click.option("--column", help="Of tables: the column with the text, or with the image's path or bytes.")
@click.option("--id-column", help="Of tables: the column that names a row; by default it is file#row.")
@click.option(
    "--vectors", type=click.Choice([v.value for v in VectorDtype]), default="float32", show_default=True,
    help="How numbers are kept.",
)  # fmt: skip
@click.option("--template", default="{}", show_default=True, help='What the model reads, as in "a photo of {}".')
@click.option("--batch-size", type=click.IntRange(1), help="By default what is fastest on the provider.")
@click.option("--engine", type=click.Choice([e.value for e in Backend]), default="local", show_default=True)
@click.option("--ray-address", help="Of a running Ray cluster; by default one is started on this machine.")
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="Ray actors with a model each.")
@click.option("--gpus-per-worker", type=click.FloatRange(0), default=0.0, show_default=True)
@click.option("--cores-per-worker", type=click.IntRange(1), default=1, show_default=True)
@click.option("--save-every", type=click.FloatRange(0), default=30.0, show_default=True, help="Seconds.")
@click.option("--overwrite", is_flag=True, help="Replace OUTPUT when the new one is whole.")
@click.option("--restart", is_flag=True, help="Forget what was begun for OUTPUT, instead of going on with it.")
@with_image_options
@auto_precision_option
@session_options(auto=True)
@json_option
def command(
    artifact: Path,
    inputs: tuple[str, ...],
    output: Path,
    kind: str,
    column: str | None,
    id_column: str | None,
    vectors: str,
    template: str,
    batch_size: int | None,
    engine: str,
    ray_address: str | None,
    workers: int,
    gpus_per_worker: float,
    cores_per_worker: int,
    save_every: float,
    overwrite: bool,
    restart: bool,
    image_options: ImageOptions,
    precision: str,
    provider: str,
    options: SessionOptions,
    as_json: bool,
) -> None:
    """Embed the images or texts in INPUTS with the model in ARTIFACT, and write a parquet file.

    INPUTS are folders, images, patterns, tables (.csv, .tsv, .jsonl, .parquet), archives (.tar, .tar.gz) or files
    with a text a line (.txt). What cannot be read gets its reason in the column `error`. A run that was stopped, in
    whatever way, goes on where it was when the same command is given again.
    """
    if output.suffix != _SUFFIX:
        raise click.UsageError(f"The output is a parquet file; call it {output.name}{_SUFFIX}.")
    chosen = Inputs(inputs, Modality(kind), column, id_column)
    cluster = Cluster(ray_address, workers, gpus_per_worker, cores_per_worker)
    job = EmbedJob(
        chosen,
        output,
        vectors=VectorDtype(vectors),
        template=template,
        batch_size=batch_size,
        engine=Backend(engine),
        cluster=cluster,
        save_every=save_every,
        overwrite=overwrite,
        restart=restart,
    )
    model = Siglip.load(artifact, precision, provider, options=options, image_options=image_options)
    tell_choice(model, precision, provider)
    with _progress(chosen) as tell:
        about = embed(model, job, tell)
    if as_json:
        print_json({"output": str(output), "rows": about.rows, "errors": about.errors, "cut": about.cut})
        return
    click.echo(f"Embedded {about.rows - about.errors:,} {kind}s to {output}; {about.errors:,} could not be read.")
    if about.cut:
        click.echo(f"{about.cut:,} texts are longer than the model reads (column cut).")
    query = '"a red apple"' if about.rows else "TEXT"
    click.echo(f"Next: siglip-onnx search {query} {output}")


@contextmanager
def _progress(inputs: Inputs) -> Iterator[Callable[[int, int], None]]:
    """A bar with rate and time left on a terminal; nothing elsewhere. The items are counted while work has begun."""
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

        def tell(done: int, errors: int) -> None:
            speed = bar.tasks[0].speed
            bad = f"{errors:,} unreadable" if errors else ""
            bar.update(task, completed=done, rate=f"{speed:,.1f} a second" if speed else "", bad=bad)

        yield tell


def _count(inputs: Inputs, tell: Callable[[int], None]) -> None:
    try:
        tell(sum(1 for _ in inputs))
    except SiglipOnnxError:
        return  # the work itself meets the same error, and says so
