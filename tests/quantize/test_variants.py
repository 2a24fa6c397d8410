"""Adding a variant to an artifact: verdicts, data, the command line, and the artifact after a failure."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from siglip_onnx.quantize import RECIPES, Fp16, Int8, QuantizeRequest, QuantizeResult, quantize, tower_builder
from siglip_onnx.runtime import Artifact
from siglip_onnx.runtime.artifact.artifact import verdict_of
from siglip_onnx.runtime.artifact.contract import Precision, Provider, ReferenceKind, Role, Verdict
from siglip_onnx.runtime.errors import ArtifactError, InconclusiveError, InputError, QuantizationError

from ..conftest import CHECKPOINT, PAIRS, Command, captions, files, is_one_paragraph, quiet

# Adding to an artifact


def test_one_tower_alone_leaves_the_other_float32(emoji: Path, pairs: Path) -> None:
    quantize(emoji, Int8(), QuantizeRequest(data=pairs, towers=(Role.VISION,)), progress=quiet)
    variant = Artifact.open(emoji).contract.variant(Precision.INT8)
    assert variant is not None
    assert variant.graphs[Role.VISION].path == "onnx/vision_model_int8.onnx"
    assert variant.graphs[Role.TEXT].path == "onnx/text_model.onnx"
    assert set(variant.graphs[Role.JOINT].data) == {"onnx/text_model.onnx_data", "onnx/vision_model_int8.onnx_data"}
    quantize(emoji, Int8(), QuantizeRequest(data=pairs, towers=(Role.TEXT,)), progress=quiet)
    variant = Artifact.open(emoji).contract.variant(Precision.INT8)
    assert variant is not None
    assert {graph.path for graph in variant.graphs.values()} == {
        "onnx/vision_model_int8.onnx",
        "onnx/text_model_int8.onnx",
        "onnx/model_int8.onnx",
    }
    Artifact.open(emoji).verify()


def test_an_existing_tower_is_replaced_only_on_request(emoji: Path, pairs: Path) -> None:
    quantize(emoji, Fp16(), QuantizeRequest(data=pairs, cuda=True), progress=quiet)
    with pytest.raises(QuantizationError, match="at fp16 already"):
        quantize(emoji, Fp16(), QuantizeRequest(data=pairs, towers=(Role.TEXT,)), progress=quiet)
    quantize(emoji, Fp16(exclude=("norm",)), QuantizeRequest(data=pairs, overwrite=True), progress=quiet)
    contract = Artifact.open(emoji).contract
    # the CUDA graphs used the data that was replaced, so they are removed, too
    assert [variant.target_provider for variant in contract.variants] == [None, None]
    assert not list(emoji.rglob("*.cuda.onnx"))
    Artifact.open(emoji).verify()


def test_variants_made_at_the_same_time_are_both_added(
    emoji: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Artifact.stage

    def meanwhile(self: Artifact, *arguments: object) -> Artifact:
        monkeypatch.setattr(Artifact, "stage", real)
        quantize(emoji, RECIPES[Precision.BF16](), QuantizeRequest(data=pairs), progress=quiet)
        return real(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Artifact, "stage", meanwhile)
    quantize(emoji, Int8(), QuantizeRequest(data=pairs), progress=quiet)
    have = {variant.precision for variant in Artifact.open(emoji).contract.variants}
    assert have == {Precision.FP32, Precision.BF16, Precision.INT8}


def test_an_artifact_that_was_exported_again_meanwhile_is_left_alone(
    emoji: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Artifact.commit

    def meanwhile(self: Artifact) -> Artifact:
        contract = Artifact.open(emoji).contract
        name = "onnx/text_model.onnx_data"
        changed = {**contract.files, name: replace(contract.files[name], sha256="0" * 64)}
        from siglip_onnx.runtime.artifact.artifact import write_contract

        write_contract(emoji, replace(contract, files=changed))
        return real(self)

    monkeypatch.setattr(Artifact, "commit", meanwhile)
    with pytest.raises(ArtifactError, match="was changed by another process"):
        quantize(emoji, Int8(), QuantizeRequest(data=pairs, towers=(Role.VISION,)), progress=quiet)


def test_a_full_disk_leaves_the_artifact_as_it_was(emoji: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object, **options: object) -> int:
        raise OSError(28, "No space left on device")

    before = files(emoji)
    monkeypatch.setattr(tower_builder, "save_tower", full)
    with pytest.raises(QuantizationError, match="No space left"):
        quantize(emoji, Int8(), QuantizeRequest(data=pairs), progress=quiet)
    assert files(emoji) == before


@pytest.mark.parametrize("word", ["Calibrating", "Checking", "Moving"])
def test_an_interruption_leaves_the_artifact_as_it_was(emoji: Path, pairs: Path, word: str) -> None:
    def stop(step: str) -> None:
        if step.startswith(word):
            raise KeyboardInterrupt

    before = files(emoji)
    with pytest.raises(KeyboardInterrupt):
        quantize(emoji, Int8(), QuantizeRequest(data=pairs), progress=stop)
    assert files(emoji) == before


def test_a_kill_while_files_move_leaves_an_artifact_without_the_variant(
    emoji: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever rename is the last, the artifact is valid and can be quantized again."""
    real, moves = Path.replace, 0

    def killed(self: Path, target: Path) -> Path:
        nonlocal moves
        moves += 1
        if moves == 3:
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        quantize(emoji, Int8(), QuantizeRequest(data=pairs), progress=quiet)
    monkeypatch.setattr(Path, "replace", real)
    Artifact.open(emoji).verify()
    assert Artifact.open(emoji).contract.variant(Precision.INT8) is None
    quantize(emoji, Int8(), QuantizeRequest(data=pairs), progress=quiet)
    Artifact.open(emoji).verify()


def test_a_failing_variant_is_kept_only_on_request(
    command: Command, outliers: Path, pairs: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(outliers, tmp_path / "emoji"))
    arguments = ("quantize", folder, "--precision", "int8", "--data", pairs, "--set", "smoothing=false")
    run = command(*arguments)
    assert (run.code, is_one_paragraph(run.err)) == (1, True)
    assert "int8 on cpu: FAIL" in " ".join(run.err.split())
    run = command(*arguments, "--keep-failing")
    assert run.code == 1
    assert "FAIL" in run.out
    assert "First problem" in run.out
    assert "FAIL" in command("inspect", folder).out


def test_an_fp32_variant_without_a_verdict_is_no_reference(artifact: Path, pairs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(artifact, tmp_path / "emoji"))
    with pytest.raises(InconclusiveError, match="carries no verdict"):
        quantize(folder, Int8(), QuantizeRequest(data=pairs), progress=quiet)
    result = quantize(folder, Int8(), QuantizeRequest(data=pairs, reference=CHECKPOINT), progress=quiet)
    assert result.reports[0].against is ReferenceKind.CHECKPOINT
    parity = Artifact.open(folder).contract.variants[-1].parity[0]
    assert (parity.verdict, parity.against) == (Verdict.PASS, ReferenceKind.CHECKPOINT)


def test_a_variant_of_an_unvalidated_base_never_passes(artifact: Path, pairs: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(artifact, tmp_path / "emoji"))
    result = quantize(folder, Int8(), QuantizeRequest(data=pairs, keep_failing=True), progress=quiet)
    assert result.reports[0].verdict is Verdict.INCONCLUSIVE


def test_a_verdict_depends_on_the_verdict_of_the_fp32_variant(every: dict[Precision, QuantizeResult]) -> None:
    contract = every[Precision.INT4].artifact.contract
    variant = contract.variant(Precision.INT8)
    base = contract.variant(Precision.FP32)
    assert variant is not None
    assert base is not None
    assert verdict_of(variant, contract) is Verdict.PASS
    failed = replace(base, parity=tuple(replace(p, verdict=Verdict.FAIL) for p in base.parity))
    assert verdict_of(variant, contract.with_variant(failed)) is Verdict.INCONCLUSIVE


def test_a_failed_commit_reports_the_missing_variants(
    emoji: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize(emoji, Int8(), QuantizeRequest(data=pairs), progress=quiet)
    real = Path.replace

    def full(self: Path, target: Path) -> Path:
        if "vision" in self.name:
            raise OSError(28, "No space left on device")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(QuantizationError, match="neither it nor the variant that it was to replace"):
        quantize(emoji, Int8(smoothing=False), QuantizeRequest(data=pairs, overwrite=True), progress=quiet)
    monkeypatch.setattr(Path, "replace", real)
    assert Artifact.open(emoji).contract.variant(Precision.INT8) is None
    Artifact.open(emoji).verify()


def test_the_provenance_of_one_tower_survives_the_other(emoji: Path, pairs: Path) -> None:
    vision = QuantizeRequest(data=pairs, towers=(Role.VISION,), cuda=True)
    quantize(emoji, Fp16(headroom=4.0, exclude=("norm",)), vision, progress=quiet)
    quantize(emoji, Fp16(), replace(vision, towers=(Role.TEXT,)), progress=quiet)
    contract = Artifact.open(emoji).contract
    for provider, ending in ((Provider.CPU, "_fp16.onnx"), (Provider.CUDA, "_fp16.cuda.onnx")):
        variant = contract.variant(Precision.FP16, provider)
        assert variant is not None
        assert {graph.path.removeprefix("onnx/") for graph in variant.graphs.values()} == {
            f"{name}{ending}" for name in ("vision_model", "text_model", "model")
        }
        assert variant.provenance["vision: excluded"] == "norm"
        assert "headroom=4.0" in variant.provenance["vision: options"]
        assert "headroom=8.0" in variant.provenance["text: options"]
    assert (emoji / "reports/quantize-fp16-vision.json").exists()


# Data


def test_bundled_photos_calibrate_fp16(emoji: Path) -> None:
    result = quantize(emoji, Fp16(), progress=quiet)
    assert (result.record.samples, result.reports[0].data.images) == (5, 8)


@pytest.mark.parametrize(("precision", "more"), [("int8-static", ()), ("int8", ("--search",)), ("int4", ())])
def test_missing_calibration_data_is_refused(
    command: Command, emoji: Path, precision: str, more: tuple[str, ...]
) -> None:
    run = command("quantize", emoji, "--precision", precision, *more)
    assert (run.code, is_one_paragraph(run.err)) == (8, True)
    assert "No calibration data" in run.err


def test_unknown_towers_are_refused(emoji: Path, pairs: Path) -> None:
    for towers in ((), (Role.JOINT,)):
        with pytest.raises(InputError, match="towers must be"):
            quantize(emoji, Int8(), QuantizeRequest(data=pairs, towers=towers), progress=quiet)


def test_calibration_pairs_are_not_used_for_validation(every: dict[Precision, QuantizeResult]) -> None:
    for result in every.values():
        assert result.record.samples + result.reports[0].data.images == PAIRS


def test_too_many_samples_are_refused(command: Command, emoji: Path, pairs: Path) -> None:
    run = command("quantize", emoji, "--precision", "int8", "--data", pairs, "--samples", "41")
    assert (run.code, is_one_paragraph(run.err)) == (8, True)
    assert "at most 40" in " ".join(run.err.split())


def test_unreadable_images_are_named_and_left_out_on_request(
    command: Command, emoji: Path, pairs: Path, tmp_path: Path
) -> None:
    data = Path(shutil.copytree(pairs, tmp_path / "data"))
    victim = json.loads(captions(data)[3])["image"]
    (data / victim).write_bytes((data / victim).read_bytes()[:100])
    arguments = ("quantize", emoji, "--precision", "int8", "--data", data)
    run = command(*arguments)
    assert (run.code, is_one_paragraph(run.err)) == (8, True)
    assert victim in "".join(run.err.split())
    run = command(*arguments, "--skip-unreadable")
    assert run.code == 0
    assert f"Left out as unreadable: {victim}" in run.out
    record = json.loads((emoji / "reports/quantize-int8-text.json").read_bytes())
    assert record["skipped"] == [victim]


def test_images_of_any_size_calibrate(emoji: Path, tmp_path: Path) -> None:
    """They are resized like any input image."""
    from siglip_onnx.validate.data.samples import BUNDLED

    result = quantize(emoji, Int8(), QuantizeRequest(data=BUNDLED, samples=4), progress=quiet)
    assert result.record.samples == 4


# The command line


def test_the_command_line_adds_a_variant(command: Command, emoji: Path, pairs: Path, lenient: Path) -> None:
    run = command("quantize", emoji, "--precision", "int8", "--data", pairs, "--exclude", "head", "--tower", "text")
    assert run.code == 0, run.err
    assert "PASS" in run.out
    assert "head" in run.out
    variant = Artifact.open(emoji).contract.variant(Precision.INT8)
    assert variant is not None
    assert variant.provenance["text: excluded"] == "head"
    assert command("validate", emoji, "--precision", "int8", "--data", pairs, "--limits", lenient).code == 0


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--set", "smoothing=perhaps"), "cannot be used"),
        (("--set", "color=red"), "has no option"),
        (("--exclude", "layers.99.qkv"), "exclude names layers.99.qkv"),
        (("--cuda",), "no fused CUDA graph"),
        (("--search", "--target", "2"), "must be between 0 and 1, got 2"),
        (("--set", "margin=nan"), "margin must be a finite number of at least 0.5, got nan"),
        (("--set", "smoothing=false", "--set", "scores=false", "--samples", "3"), "needs no calibration"),
    ],
)
def test_wrong_options_are_refused(
    command: Command, emoji: Path, pairs: Path, arguments: tuple[str, ...], word: str
) -> None:
    before = files(emoji)
    run = command("quantize", emoji, "--precision", "int8", "--data", pairs, *arguments)
    assert (run.code, is_one_paragraph(run.err)) == (8, True)
    assert word in " ".join(run.err.split())
    assert files(emoji) == before
