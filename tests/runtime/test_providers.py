"""A provider either works, or is an error with its cause and its fix; nothing is replaced silently."""

from __future__ import annotations

import ctypes
import json
import multiprocessing
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from siglip_onnx.quantize import QuantizeResult
from siglip_onnx.runtime import Artifact, SessionOptions, Siglip
from siglip_onnx.runtime.artifact.artifact import write_contract
from siglip_onnx.runtime.artifact.contract import Parity, Precision, Provider, ReferenceKind, Role, Verdict
from siglip_onnx.runtime.auto_select import RANKING, ranked
from siglip_onnx.runtime.engines import host, ort, preflight
from siglip_onnx.runtime.engines.base import GraphSource
from siglip_onnx.runtime.engines.javascript import engine
from siglip_onnx.runtime.engines.loader import load
from siglip_onnx.runtime.engines.options import OPENVINO_PRECISIONS, OpenVinoPerformance, OpenVinoPrecision
from siglip_onnx.runtime.engines.providers import PROVIDERS
from siglip_onnx.runtime.errors import ArtifactError, InputError, ProviderError

from ..conftest import CHECKPOINT, EVAL, ROOT, Command, is_one_paragraph

BEAR = EVAL / "distorted-noto-1f43b.webp"
NEEDS_ORT = pytest.mark.needs_provider(Provider.OPENVINO_ORT)
NEEDS_BF16 = pytest.mark.needs_provider(Provider.OPENVINO, openvino_precision=OpenVinoPrecision.BF16)
OPENVINO = [Provider.OPENVINO, pytest.param(Provider.OPENVINO_ORT, marks=NEEDS_ORT)]


def test_probe_is_a_valid_onnx_graph() -> None:
    model = onnx.load_from_string(preflight.PROBE)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["MatMul"]


def test_every_provider_is_in_the_table_and_the_ranking() -> None:
    assert set(PROVIDERS) == set(Provider)
    assert set(OPENVINO_PRECISIONS) == set(Precision)
    assert {choice.provider for choice in RANKING} == set(Provider)


@pytest.mark.parametrize("provider", OPENVINO)
@pytest.mark.parametrize("role", [Role.VISION, Role.TEXT])
def test_openvino_agrees_with_onnx_runtime(model: Siglip, provider: Provider, role: Role) -> None:
    other = Siglip.load(model.artifact.folder, provider=provider)
    rows: Any = model.images([BEAR] * 3) if role is Role.VISION else model.tokenizer(["a bear", "pizza", ""])
    ours, theirs = model.encode(role, rows), other.encode(role, rows)
    np.testing.assert_allclose(theirs, ours, atol=1e-5 * np.abs(ours).max())


def test_openvino_computes_in_float32_by_default(model: Siglip) -> None:
    pixels = model.images([BEAR])
    exact = model.encode(Role.VISION, pixels)
    plain = Siglip.load(model.artifact.folder, provider="openvino").encode(Role.VISION, pixels)
    assert np.abs(plain - exact).max() < 1e-5 * np.abs(exact).max()


@NEEDS_BF16
def test_openvino_computes_in_bfloat16_on_request(model: Siglip) -> None:
    pixels = model.images([BEAR])
    exact = model.encode(Role.VISION, pixels)
    bf16 = Siglip.load(
        model.artifact.folder, provider="openvino", options=SessionOptions(openvino_precision=OpenVinoPrecision.BF16)
    )
    assert np.abs(bf16.encode(Role.VISION, pixels) - exact).max() > 1e-4 * np.abs(exact).max()


def test_openvino_tuned_for_throughput(model: Siglip) -> None:
    options = SessionOptions(openvino_performance=OpenVinoPerformance.THROUGHPUT, threads=2)
    other = Siglip.load(model.artifact.folder, provider="openvino", options=options)
    np.testing.assert_allclose(other.encode_text(["a bear"] * 3), model.encode_text(["a bear"] * 3), atol=1e-5)


def test_unsupported_openvino_precision_is_an_error(model: Siglip, monkeypatch: pytest.MonkeyPatch) -> None:
    from siglip_onnx.runtime.engines import openvino_direct

    compiled = openvino_direct._compiled

    def compile_in_f32(source: Any, config: dict[str, str], *, keep: bool) -> Any:
        return compiled(source, config | {"INFERENCE_PRECISION_HINT": "f32"}, keep=keep)

    monkeypatch.setattr(openvino_direct, "_compiled", compile_in_f32)
    other = Siglip.load(model.artifact.folder, provider="openvino")
    assert other.session(Role.TEXT)
    with pytest.raises(ProviderError, match="does not compute in bf16"):
        Siglip.load(
            model.artifact.folder,
            provider="openvino",
            options=SessionOptions(openvino_precision=OpenVinoPrecision.BF16),
        ).session(Role.TEXT)


def test_placement_counts_nodes_per_provider(model: Siglip) -> None:
    placement = model.session(Role.VISION).engine.placement
    assert set(placement) == {"CPUExecutionProvider"}
    assert placement["CPUExecutionProvider"] > 50


def half_supported() -> bytes:
    """A graph with a node that OpenVINO runs, and one (the determinant) that it does not."""
    nodes = [onnx.helper.make_node("MatMul", ["x", "x"], ["xx"]), onnx.helper.make_node("Det", ["xx"], ["y"])]
    inputs = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [3, 4, 4])]
    outputs = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [3])]
    graph = onnx.helper.make_graph(nodes, "half", inputs, outputs)
    opset = [onnx.helper.make_opsetid("", 20)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


@NEEDS_ORT
def test_nodes_on_the_cpu_are_an_error_with_their_number() -> None:
    options = SessionOptions(Provider.OPENVINO_ORT)
    with pytest.raises(ProviderError, match=r"does not run the whole of .*; nodes: .*1 on CPUExecutionProvider"):
        load(GraphSource(half_supported()), options)
    allowed = load(GraphSource(half_supported()), replace(options, allow_fallback=True))
    assert allowed.placement["CPUExecutionProvider"] >= 1
    x = np.stack([np.eye(4, dtype=np.float32) * k for k in (1, 2, 3)])
    np.testing.assert_allclose(allowed.run(["y"], {"x": x})[0], [1, 2.0**8, 3.0**8], rtol=1e-5)


def test_openvino_has_no_fallback() -> None:
    with pytest.raises(ProviderError, match="OpenVINO cannot compile"):
        load(GraphSource(half_supported()), SessionOptions(Provider.OPENVINO))


def fake_plugin(monkeypatch: pytest.MonkeyPatch, register: Callable[[str, str], None]) -> None:
    """Pretend that OpenVINO's plugin was never registered, offers no device, and registers in this way."""
    monkeypatch.setattr(ort, "_registered", {})
    monkeypatch.setattr(ort, "_devices", lambda spec: [])
    monkeypatch.setattr(ort.onnxruntime(), "register_execution_provider_library", register)


def test_plugin_without_a_device_reports_the_same_cause_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fake_plugin(monkeypatch, lambda name, library: calls.append(name))
    first, second = (preflight.check_provider(Provider.OPENVINO_ORT) for _ in range(2))
    assert first is not None
    assert first == second
    assert host.processor().name in first.cause
    assert PROVIDERS[Provider.OPENVINO_ORT].devices in first.cause
    assert "provider openvino" in first.fix
    assert "pip install" not in first.fix
    assert calls == ["OpenVINOExecutionProvider"]


def test_plugin_that_does_not_load_reports_the_same_cause_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def register(name: str, library: str) -> None:
        calls.append(name)
        raise RuntimeError(f"bad library, call {len(calls)} times")

    fake_plugin(monkeypatch, register)
    first, second = (preflight.check_provider(Provider.OPENVINO_ORT) for _ in range(2))
    assert first is not None
    assert first == second
    assert "call 1 times" in first.cause
    assert "--force-reinstall onnxruntime-ep-openvino" in first.fix


def test_doctor_does_not_suggest_installed_packages(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_plugin(monkeypatch, lambda name, library: None)
    pages = [json.loads(command("doctor", "--json").out)["providers"] for _ in range(2)]
    (first,), (second,) = ([row["problem"] for row in page if row["name"] == "openvino-ort"] for page in pages)
    assert first == second
    assert "offers no device" in first["cause"]
    assert "pip install" not in first["fix"]


def installed(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Pretend that these distributions are installed, and no others."""
    monkeypatch.setattr(preflight, "installed_version", lambda name: versions.get(name.replace("-", "_")))


def gpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that ONNX Runtime's build for CUDA 13 is installed."""
    installed(monkeypatch, onnxruntime_gpu="1.31.1")
    names = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    build = SimpleNamespace(
        get_available_providers=lambda: names,
        cuda_version="13.0",
        __version__="1.31.1",
        preload_dlls=lambda: print("!"),
    )
    monkeypatch.setattr(preflight, "onnxruntime", lambda: build)
    monkeypatch.setattr(preflight.sys, "platform", "linux")


def driver(version: int, devices: int) -> SimpleNamespace:
    """What libcuda would say."""

    def write(value: int) -> Callable[[Any], int]:
        def call(place: Any) -> int:
            place._obj.value = value
            return 0

        return call

    return SimpleNamespace(
        cuDriverGetVersion=write(version), cuInit=lambda flags: 0, cuDeviceGetCount=write(devices)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("libraries", "message", "fix"),
    [
        ({}, "no NVIDIA driver", "--gpus all"),
        (
            {"libcuda.so.1": driver(12040, 1)},
            r"CUDA 12\.4 at most, .* built for CUDA 13\.0",
            "Update the driver",
        ),
        ({"libcuda.so.1": driver(13000, 0)}, "reports no GPU", "nvidia-smi"),
        (
            {"libcuda.so.1": driver(13000, 1), "libcudart.so.13": object()},
            "libcublasLt.so.13, .*libcudnn.so.9",
            "LD_LIB",
        ),
    ],
)
def test_causes_of_missing_cuda(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    libraries: dict[str, Any],
    message: str,
    fix: str,
) -> None:
    def load(name: str) -> Any:
        if name not in libraries:
            raise OSError(f"{name}: cannot open shared object file")
        return libraries[name]

    gpu_build(monkeypatch)
    monkeypatch.setattr(ctypes, "CDLL", load)
    with pytest.raises(ProviderError, match=f"cuda does not work here: .*{message}") as error:
        preflight.ensure_provider(Provider.CUDA)
    assert fix in error.value.next_step
    assert capsys.readouterr().out == ""


def test_tensorrt_needs_its_own_library(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu_build(monkeypatch)
    known = {"libcuda.so.1": driver(13000, 1)}
    monkeypatch.setattr(preflight, "_library", lambda name: known.get(name, None if "nvinfer" in name else object()))
    problem = preflight.check_provider(Provider.TENSORRT)
    assert problem is not None
    assert problem.cause.startswith("libnvinfer.so.10 cannot be loaded")


def test_wrong_package_and_two_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight.sys, "platform", "linux")
    installed(monkeypatch, onnxruntime="1.32.0")
    problem = preflight.check_provider(Provider.CUDA)
    assert problem is not None
    assert "the package onnxruntime-gpu is not installed" in problem.cause
    assert problem.fix == "Run: pip uninstall -y onnxruntime && pip install 'siglip-onnx[gpu]'."
    installed(monkeypatch, onnxruntime="1.32.0", onnxruntime_gpu="1.31.1")
    problem = preflight.check_provider(Provider.CUDA)
    assert problem is not None
    assert "overwrite each other's files" in problem.cause


def test_missing_provider_is_one_paragraph(artifact: Path, command: Command) -> None:
    if preflight.check_provider(Provider.TENSORRT) is None:
        pytest.skip("tensorrt: it works here, and this test needs a provider that does not.")
    run = command("classify", artifact, BEAR, "--label", "bear", "--provider", "tensorrt")
    assert run.code == 3
    assert is_one_paragraph(run.err)
    assert run.out == ""


def test_missing_onnx_runtime(monkeypatch: pytest.MonkeyPatch, artifact: Path) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ProviderError, match="cannot be imported"):
        ort.onnxruntime()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "threads must be at least 1, got 0"),
        ({"threads": True}, "threads must be at least 1, got True"),
        ({"memory_limit": -5}, "memory_limit must be at least 1, got -5"),
        ({"openvino_precision": OpenVinoPrecision.BF16}, "openvino_precision does not apply to cpu"),
        ({"cuda_graphs": True}, "cuda_graphs does not apply to cpu"),
    ],
)
def test_invalid_session_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SessionOptions(**options).check_provider()


def with_verdicts(folder: Path, *verdicts: tuple[Precision, Provider, Verdict]) -> Artifact:
    """Write verdicts into an artifact's contract, as `validate` would."""
    opened = Artifact.open(folder)
    variants = []
    for variant in opened.contract.variants:
        own = [(p, v) for precision, p, v in verdicts if precision is variant.precision]
        against = ReferenceKind.CHECKPOINT if variant.precision is Precision.FP32 else ReferenceKind.FP32
        parity = tuple(Parity(v, p, "reports/x.json", "0" * 64, against) for p, v in own)
        variants.append(replace(variant, parity=parity))
    write_contract(folder, replace(opened.contract, variants=tuple(variants)))
    return Artifact.open(folder)


def test_auto_selects_only_variants_with_a_pass(
    every: dict[Precision, QuantizeResult], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(every[Precision.INT8].artifact.folder, tmp_path / "all"))
    base = (Precision.FP32, Provider.CPU, Verdict.PASS)
    int8, bf16 = (Precision.INT8, Provider.CPU, Verdict.PASS), (Precision.BF16, Provider.OPENVINO, Verdict.PASS)
    failed = (Precision.BF16, Provider.OPENVINO, Verdict.FAIL)
    amx, plain = frozenset({"amx-bf16", "vnni"}), frozenset({"avx2"})
    for verdicts, features, first in (
        ((base, int8, bf16), amx, (Provider.OPENVINO, Precision.BF16)),
        ((base, int8, failed), amx, (Provider.CPU, Precision.INT8)),
        ((base, int8, bf16), plain, (Provider.CPU, Precision.FP32)),
        ((int8, bf16), amx, None),  # compared with an fp32 variant that has no PASS
        ((), amx, None),
    ):
        monkeypatch.setattr(host, "processor", lambda f=features: SimpleNamespace(features=f))
        choices = ranked(with_verdicts(folder, *verdicts).contract, None, None)
        assert (choices[0].provider, choices[0].precision) == first if first else not choices


def test_auto_prints_its_selection(passed: Path, command: Command) -> None:
    run = command("classify", passed, BEAR, "--label", "bear", "--provider", "auto", "--precision", "auto")
    assert (run.code, run.err) == (0, "Selected fp32 on cpu.\n")
    chosen = Siglip.load(passed, "auto", "auto")
    assert (chosen.precision, chosen.options.provider) == (Precision.FP32, Provider.CPU)


def test_auto_without_a_verdict_is_an_error(artifact: Path) -> None:
    with pytest.raises(ProviderError, match="no variant carries a PASS"):
        Siglip.load(artifact, provider="auto")
    with pytest.raises(ProviderError, match=r"No variant of .* carries a PASS on cpu"):
        Siglip.load(artifact, "auto")


def test_auto_never_selects_providers_that_must_be_named(
    every: dict[Precision, QuantizeResult], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(every[Precision.INT8].artifact.folder, tmp_path / "all"))
    named = (Provider.NODE, Provider.WEB, Provider.TENSORRT)
    base = (Precision.FP32, Provider.CPU, Verdict.PASS)
    passed = [(precision, provider, Verdict.PASS) for provider in named for precision in (base[0], Precision.INT8)]
    contract = with_verdicts(folder, base, *passed).contract
    assert {choice.provider for choice in ranked(contract, None, None)} == {Provider.CPU}
    for provider in named:
        assert {choice.precision for choice in ranked(contract, provider, None)} == {Precision.FP32, Precision.INT8}


@pytest.mark.parametrize("provider", [Provider.NODE, Provider.WEB])
def test_missing_npm_packages_are_named_with_their_command(
    provider: Provider, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = json.loads((ROOT / "tests" / "interop" / "package.json").read_text())["dependencies"]
    packages = " ".join(f"{name}@{pinned[name]}" for name in PROVIDERS[provider].npm)
    monkeypatch.delenv(engine.PACKAGES, raising=False)
    with pytest.raises(ProviderError, match=r"\$SIGLIP_ONNX_NODE_MODULES is not set") as error:
        Siglip.load(artifact, provider=provider)
    command = f"npm install --prefix js --ignore-scripts {packages} && export SIGLIP_ONNX_NODE_MODULES=$PWD/js"
    assert error.value.next_step == f"Run: {command}."
    monkeypatch.setenv(engine.PACKAGES, str(tmp_path))
    problem = preflight.check_provider(provider)
    assert problem is not None
    assert f"has no node_modules/{next(iter(PROVIDERS[provider].npm))}" in problem.cause
    assert problem.fix == f"Run: npm install --prefix {tmp_path} --ignore-scripts {packages}."


def test_missing_node_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(engine.PACKAGES, str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    package = tmp_path / "node_modules" / "onnxruntime-node" / "package.json"
    package.parent.mkdir(parents=True)
    package.write_text("{}")
    with pytest.raises(ProviderError, match="There is no `node` on the PATH"):
        load(GraphSource(preflight.PROBE), SessionOptions(Provider.NODE))


def test_auto_selects_openvino_after_a_pass(emoji: Path, pairs: Path, lenient: Path, command: Command) -> None:
    arguments = ("--reference", CHECKPOINT, "--data", pairs, "--provider", "openvino", "--limits", lenient, "--json")
    assert command("validate", emoji, *arguments).code == 0
    chosen = Siglip.load(emoji, provider="auto")
    assert (chosen.precision, chosen.options.provider) == (Precision.FP32, Provider.OPENVINO)
    assert "auto selects for" in command("doctor", emoji).out


def test_compile_cache_is_keyed_by_content(
    artifact: Path, outliers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGLIP_ONNX_CACHE", str(tmp_path / "cache"))
    place, options = Path(shutil.copytree(artifact, tmp_path / "artifact")), SessionOptions(cache=True)

    def answer() -> Any:
        return Siglip.load(place, provider="openvino", options=options).encode_text(["a bear"], normalize=False)

    first = answer()
    kept = sorted((tmp_path / "cache").rglob("*.blob"))
    assert len(kept) == 1
    assert np.array_equal(answer(), first)
    assert sorted((tmp_path / "cache").rglob("*.blob")) == kept
    shutil.rmtree(place)
    shutil.copytree(outliers, place)  # another model in the same place: the same function, other weights
    answer()
    assert len(list((tmp_path / "cache").rglob("*.blob"))) == 2


def load_with_cache(folder: Path) -> list[float]:
    model = Siglip.load(folder, provider="openvino", options=SessionOptions(cache=True))
    return [float(x) for x in model.encode_text(["a bear"])[0]]


def test_damaged_weights_do_not_get_into_the_compile_cache(
    broken: Path, model: Siglip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGLIP_ONNX_CACHE", str(tmp_path / "cache"))
    weights = broken / "onnx" / "text_model.onnx_data"
    good, options = weights.read_bytes(), SessionOptions(cache=True)
    weights.write_bytes((np.frombuffer(good, np.float32) * np.float32(1.25)).tobytes())
    with pytest.raises(ArtifactError, match="was damaged or changed"):
        Siglip.load(broken, provider="openvino", options=options).encode_text(["a bear"])
    unchecked = SessionOptions(cache=True, verify=False)
    wrong = Siglip.load(broken, provider="openvino", options=unchecked).encode_text(["a bear"])
    assert np.abs(wrong - model.encode_text(["a bear"])).max() > 1e-3
    weights.write_bytes(good)
    found = Siglip.load(broken, provider="openvino", options=options).encode_text(["a bear"])
    np.testing.assert_allclose(found, model.encode_text(["a bear"]), atol=1e-5)


def test_missing_provider_is_an_error_despite_fallback(artifact: Path) -> None:
    if preflight.check_provider(Provider.WEBGPU) is None:
        pytest.skip("webgpu: it works here, and this test needs a provider that does not.")
    options = SessionOptions(allow_fallback=True)
    with pytest.raises(ProviderError, match="webgpu does not work here"):
        Siglip.load(artifact, provider="webgpu", options=options)
    with pytest.raises(ProviderError):
        load(GraphSource(preflight.PROBE), replace(options, provider=Provider.WEBGPU))


def identity(model: Siglip, provider: str, **options: Any) -> str:
    chosen = SessionOptions(**options)
    return Siglip.load(model.artifact.folder, provider=provider, options=chosen).identity(Role.TEXT)


def test_identity_depends_on_the_provider_but_not_on_threads(model: Siglip) -> None:
    assert identity(model, "cpu", threads=1) == identity(model, "cpu") != identity(model, "openvino")


@pytest.mark.parametrize(
    ("provider", "options"),
    [
        pytest.param("openvino", {"openvino_precision": OpenVinoPrecision.BF16}, marks=NEEDS_BF16, id="bf16"),
        pytest.param("openvino-ort", {}, marks=NEEDS_ORT, id="openvino-ort"),
    ],
)
def test_identity_depends_on_the_openvino_precision(model: Siglip, provider: str, options: dict[str, Any]) -> None:
    known = {identity(model, "cpu"), identity(model, "openvino")}
    assert identity(model, provider, **options) not in known


@pytest.mark.gate
def test_several_processes_write_the_same_compile_cache(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGLIP_ONNX_CACHE", str(tmp_path))
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        answers = pool.map(load_with_cache, [artifact] * 3)
    assert answers[0] == answers[1] == answers[2]
    assert len(list(tmp_path.rglob("*.blob"))) == 1
    assert not list(tmp_path.rglob("*.partial-*"))


def test_unwritable_compile_cache_is_an_error(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIGLIP_ONNX_CACHE", "/proc/nowhere")
    with pytest.raises(ProviderError, match="cannot be written to /proc/nowhere"):
        Siglip.load(artifact, provider="openvino", options=SessionOptions(cache=True)).session(Role.TEXT)
