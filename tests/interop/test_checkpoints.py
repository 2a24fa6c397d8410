"""Artifacts from every checkpoint dialect compute the same as the checkpoint's own library."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from siglip_onnx.exporter import Checkpoint, ExportOptions, GraphInput, export, freeze_labels
from siglip_onnx.runtime import Artifact, Siglip
from siglip_onnx.runtime.artifact.contract import Precision, Role
from siglip_onnx.validate import store_verdict, validate
from tests.conftest import CHECKPOINT, FEW, quiet
from tests.support.dialects import to_big_vision, to_open_clip, to_paddle
from tests.support.family import MEMBERS, small

from . import environments
from .table import CHECKPOINTS, CompatibilityRow

WRITERS: Final[dict[str, Callable[[Path, Path], Path]]] = {
    "paddle": to_paddle,
    "open_clip": to_open_clip,
    "big_vision": to_big_vision,
}
OPTIONS: Final = {
    "--batch 3": ExportOptions(batch=3),
    "--pooled-only --normalized": ExportOptions(pooled_only=True, normalized=True),
    "--image-input bytes": ExportOptions(image_input=GraphInput.BYTES),
    "--image-input image": ExportOptions(image_input=GraphInput.IMAGE),
    "--image-size 96": ExportOptions(image_size=96),
}
VERDICT: Final = "validate's verdict with PASS"
OPEN_CLIP: Final = 1e-5  # of an embedding's largest element; float32 sums in another order


def prove(record: list[CompatibilityRow], model: str, dialect: str, what: str, limit: float, measured: float) -> None:
    assert measured <= limit, f"{model} in {dialect}: {what} differ by {measured:.3g}, limit {limit:g}"
    record.append(CompatibilityRow(model, "", dialect, what, limit, measured, table=CHECKPOINTS))


def graphs(artifact: Artifact) -> dict[str, str]:
    """Hashes of an artifact's graphs and weights."""
    return {path: file.sha256 for path, file in artifact.contract.files.items() if path.startswith("onnx/")}


@pytest.mark.parametrize("name", MEMBERS)
def test_every_model_matches_transformers(tmp_path: Path, record: list[CompatibilityRow], name: str) -> None:
    """A small random model with the traits of the published one passes every check group."""
    checkpoint = small(MEMBERS[name], tmp_path / "transformers")
    artifact = export(checkpoint, tmp_path / "artifact", progress=quiet)
    report = validate(Siglip.load(artifact.folder), checkpoint, limits=FEW, progress=quiet).report
    assert report.verdict == "PASS", report.first_problem()
    prove(record, name, "transformers", VERDICT, 0, 0)
    for dialect, write in WRITERS.items():
        if dialect == "open_clip" and MEMBERS[name].naflex:
            continue  # open_clip has no NaFlex
        folder = write(checkpoint, tmp_path / dialect)
        other = export(folder, tmp_path / f"{dialect}-artifact", progress=quiet)
        prove(record, name, dialect, "hashes of graphs and weights", 0, float(graphs(other) != graphs(artifact)))


@pytest.mark.parametrize("dialect", WRITERS)
def test_trained_model_is_the_same_in_every_dialect(
    tmp_path: Path, record: list[CompatibilityRow], dialect: str, pairs: Path
) -> None:
    """The trained model is written in another dialect, exported and validated on its own data."""
    expected = export(CHECKPOINT, tmp_path / "expected", progress=quiet)
    folder = WRITERS[dialect](CHECKPOINT, tmp_path / dialect)
    actual = export(folder, tmp_path / "actual", progress=quiet)
    different = {path for path, file in expected.contract.files.items() if actual.contract.files.get(path) != file}
    prove(record, "bundled model", dialect, "hashes of all files", 0, len(different))
    report = validate(Siglip.load(actual.folder), folder, pairs, limits=FEW, progress=quiet).report
    assert report.verdict == "PASS", report.first_problem()


@pytest.mark.parametrize("name", OPTIONS)
def test_every_export_option_passes_all_checks(
    tmp_path: Path, record: list[CompatibilityRow], name: str, pairs: Path
) -> None:
    artifact = export(CHECKPOINT, tmp_path / "artifact", OPTIONS[name], progress=quiet)
    report = validate(Siglip.load(artifact.folder), CHECKPOINT, pairs, limits=FEW, progress=quiet).report
    assert report.verdict == "PASS", report.first_problem()
    prove(record, f"bundled model, {name}", "transformers", VERDICT, 0, 0)


@pytest.mark.parametrize("family", ["base", "so400m"])
def test_open_clip_itself_gives_our_embeddings(tmp_path: Path, record: list[CompatibilityRow], family: str) -> None:
    """A random model of open_clip's own classes, exported from the files that its push_to_hf_hub writes."""
    script, folder = Path(__file__).parent / "open_clip_checkpoint.py", tmp_path / family
    command = [environments.python("open_clip"), script, folder, "--family", family]
    subprocess.run(command, check=True, capture_output=True)
    shutil.move(folder / "expected.npz", tmp_path / "expected.npz")
    model = Siglip(export(folder, tmp_path / "artifact", progress=quiet))
    expected = np.load(tmp_path / "expected.npz")
    for role, input_name, output_name in (
        (Role.VISION, "pixel_values", "image_embeds"),
        (Role.TEXT, "input_ids", "text_embeds"),
    ):
        error = np.abs(model.encode(role, expected[input_name]) - expected[output_name]).max()
        error /= np.abs(expected[output_name]).max()
        prove(record, f"open_clip {family}", "open_clip", f"{role} embeddings", OPEN_CLIP, float(error))


def test_frozen_labels_pass_at_every_precision(
    tmp_path: Path, record: list[CompatibilityRow], artifact: Artifact, pairs: Path
) -> None:
    """The fp32 classifier is compared with the checkpoint, and the other precisions with fp32."""
    precisions = [Precision.FP32, Precision.FP16, Precision.INT8]
    labels = [json.loads(line)["text"] for line in (pairs / "captions.jsonl").read_text().splitlines()]
    distinct = list({label.lower(): label for label in labels}.values())[:12]
    folder = tmp_path / "classifier"
    freeze_labels(
        artifact.folder, distinct, folder, templates=["{}", "an emoji of {}"], precisions=precisions, progress=quiet
    )
    for precision in precisions:
        model = Siglip.load(folder, precision)
        result = validate(model, CHECKPOINT if precision == "fp32" else None, pairs, limits=FEW, progress=quiet)
        assert result.report.verdict == "PASS", result.report.first_problem()
        store_verdict(model.artifact, result)
        what = f"{VERDICT}, frozen labels at {precision}"
        prove(record, "bundled model", "transformers", what, 0, 0)


def test_bare_checkpoint_with_another_image_size_passes(tmp_path: Path, pairs: Path) -> None:
    """There is no config.json, and transformers interpolates the position embeddings as the exporter does."""
    folder = to_big_vision(CHECKPOINT, tmp_path / "bare")
    for path in folder.glob("*.json"):
        path.unlink()
    artifact = export(folder, tmp_path / "artifact", ExportOptions(image_size=96), progress=quiet)
    report = validate(Siglip.load(artifact.folder), folder, pairs, limits=FEW, progress=quiet).report
    assert report.verdict == "PASS", report.first_problem()


def test_wrong_weight_orientation_never_passes(tmp_path: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Square weights that are read transposed by the exporter and by the reference must not pass.

    Shapes and names are the same, so no comparison with a reference from the same file can catch the error.
    """
    from siglip_onnx.exporter.checkpoint import dialects

    folder = to_paddle(CHECKPOINT, tmp_path / "paddle")
    original = dialects._is_linear

    def wrong(name: str, shape: tuple[int, ...]) -> bool:
        return original(name, shape) and shape[0] != shape[1]  # misses square weights

    monkeypatch.setattr(dialects, "_is_linear", wrong)
    artifact = export(folder, tmp_path / "artifact", progress=quiet)
    report = validate(Siglip.load(artifact.folder), folder, pairs, limits=FEW, progress=quiet).report
    assert report.verdict == "INCONCLUSIVE"
    assert "finds its captions by luck" in str(report.first_problem())
    freeze_labels(artifact.folder, ["bear", "pizza"], tmp_path / "classifier", progress=quiet)
    report = validate(Siglip.load(tmp_path / "classifier"), folder, pairs, limits=FEW, progress=quiet).report
    assert report.verdict == "INCONCLUSIVE"
    monkeypatch.undo()
    report = validate(Siglip.load(artifact.folder), folder, pairs, limits=FEW, progress=quiet).report
    assert report.verdict == "FAIL"  # an error in the export alone fails
    assert Checkpoint.open(folder).weights.dialect == "paddle"
