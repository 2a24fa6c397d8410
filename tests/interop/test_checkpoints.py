"""Every kind of checkpoint becomes an artifact that computes what its own library computes."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import pytest

from siglip_onnx.exporter import Checkpoint, ExportOptions, ImageInput, export, freeze_labels
from siglip_onnx.runtime import Artifact, Siglip
from siglip_onnx.runtime.artifact.contract import Precision, Role
from siglip_onnx.validate import store_verdict, validate
from tests.support.dialects import to_big_vision, to_open_clip, to_paddle
from tests.support.family import MEMBERS, small

from . import environments
from .conftest import CHECKPOINT, FEW
from .table import CHECKPOINTS, Row

WRITERS: Final[dict[str, Callable[[Path, Path], Path]]] = {
    "paddle": to_paddle,
    "open_clip": to_open_clip,
    "big_vision": to_big_vision,
}
OPTIONS: Final = {
    "--batch 3": ExportOptions(batch=3),
    "--pooled-only --normalized": ExportOptions(pooled_only=True, normalized=True),
    "--image-input bytes": ExportOptions(image_input=ImageInput.BYTES),
    "--image-input image": ExportOptions(image_input=ImageInput.IMAGE),
    "--image-size 96": ExportOptions(image_size=96),
}
OPEN_CLIP: Final = 1e-5  # of the largest element of an embedding; float32 in another order


def quiet(step: str) -> None:
    pass


def proved(record: list[Row], model: str, dialect: str, what: str, limit: float, found: float) -> None:
    assert found <= limit, f"{model} in {dialect}: {what} differ by {found:.3g}, at most {limit:g}"
    record.append(Row(model, "", dialect, what, limit, found, table=CHECKPOINTS))


def graphs(artifact: Artifact) -> dict[str, str]:
    """What tells the graphs and weights of two artifacts apart."""
    return {path: file.sha256 for path, file in artifact.contract.files.items() if path.startswith("onnx/")}


@pytest.mark.parametrize("name", MEMBERS)
def test_the_family_computes_what_transformers_computes(tmp_path: Path, record: list[Row], name: str) -> None:
    """A small random model with the traits of the published one, through every group of the ladder."""
    checkpoint = small(MEMBERS[name], tmp_path / "transformers")
    artifact = export(checkpoint, tmp_path / "artifact", progress=quiet)
    report = validate(Siglip.load(artifact.folder), checkpoint, limits=FEW, progress=quiet).report
    assert report.verdict == "PASS", report.first_problem()
    proved(record, name, "transformers", "validate, differences of verdicts from PASS", 0, 0)
    for dialect, write in WRITERS.items():
        if dialect == "open_clip" and MEMBERS[name].naflex:
            continue  # open_clip has no NaFlex
        folder = write(checkpoint, tmp_path / dialect)
        found = export(folder, tmp_path / f"{dialect}-artifact", progress=quiet)
        proved(record, name, dialect, "hashes of graphs and weights", 0, float(graphs(found) != graphs(artifact)))


@pytest.mark.parametrize("dialect", WRITERS)
def test_the_trained_model_comes_back_the_same(tmp_path: Path, record: list[Row], dialect: str, pairs: Path) -> None:
    """Written in another dialect and read again; judged on data that it understands, which proves the reading, too."""
    wanted = export(CHECKPOINT, tmp_path / "wanted", progress=quiet)
    folder = WRITERS[dialect](CHECKPOINT, tmp_path / dialect)
    found = export(folder, tmp_path / "found", progress=quiet)
    different = {path for path, file in wanted.contract.files.items() if found.contract.files.get(path) != file}
    proved(record, "the bundled model", dialect, "hashes of all files", 0, len(different))
    report = validate(Siglip.load(found.folder), folder, pairs, limits=FEW, progress=quiet).report
    assert report.verdict == "PASS", report.first_problem()


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_passes_the_ladder(tmp_path: Path, record: list[Row], name: str, pairs: Path) -> None:
    artifact = export(CHECKPOINT, tmp_path / "artifact", OPTIONS[name], progress=quiet)
    report = validate(Siglip.load(artifact.folder), CHECKPOINT, pairs, limits=FEW, progress=quiet).report
    assert report.verdict == "PASS", report.first_problem()
    what = "validate, differences of verdicts from PASS"
    proved(record, f"the bundled model, {name}", "transformers", what, 0, 0)


@pytest.mark.parametrize("family", ["base", "so400m"])
def test_open_clip_itself_gives_our_answers(tmp_path: Path, record: list[Row], family: str) -> None:
    """A random model of open_clip's own classes, read from the files that its own push_to_hf_hub writes."""
    script, folder = Path(__file__).parent / "open_clip_checkpoint.py", tmp_path / family
    command = [environments.python("open_clip"), script, folder, "--family", family]
    subprocess.run(command, check=True, capture_output=True)
    shutil.move(folder / "expected.npz", tmp_path / "expected.npz")
    model = Siglip(export(folder, tmp_path / "artifact", progress=quiet))
    expected = np.load(tmp_path / "expected.npz")
    for role, given, due in (
        (Role.VISION, "pixel_values", "image_embeds"),
        (Role.TEXT, "input_ids", "text_embeds"),
    ):
        error = np.abs(model.encode(role, expected[given]) - expected[due]).max() / np.abs(expected[due]).max()
        proved(record, f"open_clip's own {family}", "open_clip", f"{role} embeddings", OPEN_CLIP, float(error))


def test_frozen_labels_pass_at_every_precision(
    tmp_path: Path, record: list[Row], artifact: Artifact, pairs: Path
) -> None:
    """The fp32 classifier against the checkpoint, and the others against it."""
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
        what = f"validate, frozen labels at {precision}, differences of verdicts from PASS"
        proved(record, "the bundled model", "transformers", what, 0, 0)


def test_a_bare_checkpoint_of_another_size_is_judged(tmp_path: Path, pairs: Path) -> None:
    """No config.json, and position embeddings that transformers interpolates as the exporter did."""
    folder = to_big_vision(CHECKPOINT, tmp_path / "bare")
    for path in folder.glob("*.json"):
        path.unlink()
    artifact = export(folder, tmp_path / "artifact", ExportOptions(image_size=96), progress=quiet)
    report = validate(Siglip.load(artifact.folder), folder, pairs, limits=FEW, progress=quiet).report
    assert report.verdict == "PASS", report.first_problem()


def test_a_wrong_orientation_is_never_a_pass(tmp_path: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that claims [out, in] where its square weights lie [in, out], read wrongly on both sides.

    The same shapes, the same names: no comparison with a reference that is read from the same file can see it.
    """
    from siglip_onnx.exporter.checkpoint import dialects

    folder = to_paddle(CHECKPOINT, tmp_path / "paddle")
    right = dialects._is_linear

    def wrong(name: str, shape: tuple[int, ...]) -> bool:
        return right(name, shape) and shape[0] != shape[1]  # forgets the square ones

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
    assert report.verdict == "FAIL"  # and one that was only exported wrongly fails outright
    assert Checkpoint.open(folder).weights.dialect == "paddle"
