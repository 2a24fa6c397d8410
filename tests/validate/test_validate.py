"""Verdicts: good artifacts pass every time, and each seeded fault fails in the check group that it belongs to."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from siglip_onnx.runtime import Artifact, Siglip
from siglip_onnx.runtime.artifact.artifact import verdict_of
from siglip_onnx.runtime.artifact.contract import Precision, Provider, Verdict
from siglip_onnx.runtime.errors import ArtifactError, InconclusiveError, InputError, ParityError
from siglip_onnx.validate import DEFAULT_LIMITS, CheckGroup, Report, report_path, store_verdict, validate
from siglip_onnx.validate.report.plot_data import WORST
from siglip_onnx.validate.report.report import DataRecord

from ..conftest import CHECKPOINT, EVAL, FEW, Command, is_one_paragraph, rewrite
from ..faults import FAULTS, in_contract

PAIRS = 12


def quiet(step: str) -> None:
    pass


@pytest.fixture(scope="session")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dozen images with captions and fifty labels, for verdicts in seconds."""
    return data_folder(tmp_path_factory.mktemp("few"), PAIRS)


def data_folder(folder: Path, pairs: int) -> Path:
    lines = (EVAL / "captions.jsonl").read_text("utf-8").splitlines()[-pairs:]
    rows = [json.loads(line) for line in lines]
    for row in rows:
        shutil.copy(EVAL / row["image"], folder)
    labels = [row["text"] for row in rows] + (EVAL / "labels.txt").read_text("utf-8").splitlines()[:50]
    (folder / "captions.jsonl").write_text("\n".join(lines), "utf-8")
    (folder / "labels.txt").write_text("\n".join(labels), "utf-8")
    return folder


def validated(artifact: Path, data: Path | None) -> Report:
    return validate(Siglip.load(artifact), CHECKPOINT, data, limits=FEW, progress=quiet).report


def by_name(report: Report) -> dict[str, float | None]:
    return {f"{check.group}/{check.name}": check.measured for check in report.checks}


@pytest.mark.gate
def test_fp32_parity_on_the_whole_evaluation_set(artifact: Path) -> None:
    report = validated(artifact, EVAL)
    measured = by_name(report)
    assert report.verdict is Verdict.PASS, report.first_problem()
    assert report.data.images == 256
    for tower in ("vision", "text"):
        assert measured[f"embeddings/{tower} cosine min"] >= 0.999999
        assert measured[f"embeddings/{tower} relative error"] <= 1e-5
    assert measured["logits/difference max"] <= 0.02
    assert measured["ranking/top-1 agreement"] == 1
    assert {check.group for check in report.checks} == set(report.expected)
    assert set(CheckGroup) - set(report.expected) == {
        CheckGroup.ACCURACY,
        CheckGroup.LATENCY,
        CheckGroup.BASELINE,
    }  # no classes, nothing before
    assert all(check.verdict is Verdict.PASS for check in report.checks)


@pytest.mark.parametrize("name", ["pad id 0", "bilinear resize", "erf Gelu", "one NaN row", "logit bias dropped"])
def test_a_seeded_fault_fails_in_its_check_group(broken: Path, few: Path, name: str) -> None:
    fault = FAULTS[name]
    fault.make(broken)
    report = validated(broken, few)
    problem = report.first_problem()
    assert report.verdict is Verdict.FAIL
    assert problem is not None
    assert problem.group is fault.group, problem
    with pytest.raises(ParityError, match=str(fault.group)):
        report.require_pass()


def test_a_fault_ends_the_command_with_1_and_an_untouched_artifact_with_0(
    command: Command, artifact: Path, broken: Path, few: Path, lenient: Path, tmp_path: Path
) -> None:
    FAULTS["logit bias dropped"].make(broken)
    arguments = (
        "validate",
        "--reference",
        CHECKPOINT,
        "--data",
        few,
        "--limits",
        lenient,
        "--output-dir",
        tmp_path / "reports",
    )
    bad, good = command(*arguments, broken), command(*arguments, artifact)
    assert (bad.code, good.code) == (1, 0), (bad.err, good.err)
    assert "FAIL" in bad.out
    assert "logits" in bad.out
    assert "PASS" in good.out
    assert good.err == ""


def test_a_damaged_file_fails_the_contract(broken: Path, few: Path) -> None:
    path = broken / "onnx/model.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    problem = validated(broken, few).first_problem()
    assert problem is not None
    assert problem.group is CheckGroup.CONTRACT


def test_the_bundled_photos_are_enough_for_a_verdict(artifact: Path) -> None:
    report = validated(artifact, None)
    assert (report.verdict, report.data.name) == (Verdict.PASS, "bundled photos")


def test_too_little_data_is_inconclusive(command: Command, artifact: Path, tmp_path: Path) -> None:
    report = validated(artifact, data_folder(tmp_path, 3))
    assert report.verdict is Verdict.INCONCLUSIVE
    with pytest.raises(InconclusiveError, match="are needed"):
        report.require_pass()
    run = command(
        "validate", artifact, "--reference", CHECKPOINT, "--data", tmp_path, "--output-dir", tmp_path / "r", "--json"
    )
    assert run.code == 4
    assert json.loads(run.out)["verdict"] == "INCONCLUSIVE"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no image"),
        ('{"image": "a.png", "text": "\\ud800"}', "valid Unicode"),
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("no json", "Line 1"),
        ('{"image": "a.png"}', "Line 1"),
        ('{"image": 3, "text": "x"}', "lacks a string"),
        ('{"image": "nowhere.png", "text": "x"}', "does not exist"),
    ],
)
def test_unreadable_data_are_refused(artifact: Path, tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "captions.jsonl").write_text(content)
    with pytest.raises(InputError, match=message):
        validated(artifact, tmp_path)


def test_an_unreadable_image_is_refused(artifact: Path, tmp_path: Path) -> None:
    folder = data_folder(tmp_path, PAIRS)
    next(folder.glob("*.webp")).write_bytes(b"not an image")
    with pytest.raises(InputError, match="cannot be read"):
        validated(artifact, folder)


def test_a_single_pair_is_inconclusive(artifact: Path, tmp_path: Path) -> None:
    assert validated(artifact, data_folder(tmp_path, 1)).verdict is Verdict.INCONCLUSIVE


MORE_FAULTS = {
    "embeddings said to be normalized": in_contract("embedding", normalized=True),
    "another embedding size": in_contract("embedding", size=191),
    "the wrong output": in_contract("embedding", output="last_hidden_state"),
    "shorter texts": in_contract("tokenizer", length=32),
    "no unknown piece": in_contract("tokenizer", special_pieces={"</s>": 1}),
    "another mean for other readers": lambda folder: in_file(folder, "preprocessor_config.json", image_mean=[0, 0, 0]),
    "a cased vocabulary for other readers": lambda folder: in_file(
        folder, "tokenizer_config.json", do_lower_case=False
    ),
    "a broken tokenizer.json": lambda folder: in_file(folder, "tokenizer.json", model=None),
    "another bias in the joint graph": lambda folder: in_joint(folder),
}


def in_file(folder: Path, name: str, **changes: object) -> None:
    content = json.loads((folder / name).read_text("utf-8"))
    (folder / name).write_text(json.dumps({**content, **changes}), "utf-8")
    rewrite(folder)


def in_joint(folder: Path) -> None:
    model = onnx.load(folder / "onnx/model.onnx", load_external_data=False)
    bias = next(t for t in model.graph.initializer if t.name == "logit_bias")
    bias.CopyFrom(numpy_helper.from_array(np.array(0.0, np.float32), "logit_bias"))
    (folder / "onnx/model.onnx").write_bytes(model.SerializeToString())
    rewrite(folder)


@pytest.mark.parametrize("name", MORE_FAULTS)
def test_further_faults_do_not_pass(broken: Path, few: Path, name: str) -> None:
    MORE_FAULTS[name](broken)
    assert validated(broken, few).verdict is Verdict.FAIL


def test_an_inconclusive_report_raises() -> None:
    data = DataRecord("none", "0", 0, 0, 0)
    report = Report("", 0, "x", "", Precision.FP32, Provider.CPU, "", "", data, {}, Verdict.INCONCLUSIVE, ())
    with pytest.raises(InconclusiveError):
        report.require_pass()


def test_an_edited_report_is_detected(broken: Path, few: Path) -> None:
    model = Siglip.load(broken)
    result = validate(model, CHECKPOINT, few, limits=FEW, progress=quiet)
    path = store_verdict(model.artifact, result).path(report_path(result.report))
    path.write_text(path.read_text().replace("PASS", "FAIL"))
    with pytest.raises(ArtifactError, match="of the verdict PASS is missing or was changed"):
        Artifact.open(broken).verify()


def test_a_verdict_on_another_artifact_is_not_stored(broken: Path, few: Path) -> None:
    model = Siglip.load(broken)
    result = validate(model, CHECKPOINT, few, limits=FEW, progress=quiet)
    in_contract("logits", bias=-1.0)(broken)
    with pytest.raises(ArtifactError, match="changed during validation"):
        store_verdict(model.artifact, result)


def test_the_report_is_kept_in_the_artifact_and_its_verdict_in_the_contract(
    command: Command, broken: Path, few: Path
) -> None:
    model = Siglip.load(broken)
    result = validate(model, CHECKPOINT, few, limits=FEW, progress=quiet)
    path = store_verdict(model.artifact, result).path(report_path(result.report))
    assert Report.from_json(path.read_bytes()) == result.report
    contract = Artifact.open(broken).contract
    variant = contract.variant(Precision.FP32)
    assert variant is not None
    assert verdict_of(variant, contract) is Verdict.PASS
    assert variant.parity[0].report == "reports/parity-fp32-cpu.json"
    assert variant.parity[0].report_sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    Artifact.open(broken).verify()
    inspected = command("inspect", broken)
    assert "PASS" in inspected.out


def test_the_page_is_self_contained(artifact: Path, few: Path) -> None:
    html = validate(Siglip.load(artifact), CHECKPOINT, few, limits=FEW, progress=quiet).html()
    assert html.count("data:image/webp") == WORST
    assert 'class="dots"' in html
    assert "default-src 'none'" in html
    assert not any(word in html for word in ("<script", "http://", "https://", "@import", "url("))


def test_a_read_only_artifact_says_what_to_do(command: Command, artifact: Path, few: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = command(
        "validate", artifact, "--reference", CHECKPOINT, "--data", few, "--output-dir", tmp_path / "file" / "x"
    )
    assert (run.code, is_one_paragraph(run.err)) == (8, True)


def test_every_precision_has_default_limits() -> None:
    assert set(DEFAULT_LIMITS) == set(Precision)
