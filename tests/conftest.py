"""Shared fixtures and helpers: the bundled trained checkpoint, artifacts made from it, and copies to break."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import hypothesis
import pytest

from siglip_onnx.cli import main
from siglip_onnx.exporter import export
from siglip_onnx.quantize import RECIPES, QuantizeRequest, QuantizeResult, quantize
from siglip_onnx.runtime import Artifact, Siglip, privacy
from siglip_onnx.runtime.artifact.artifact import record_files, write_contract
from siglip_onnx.runtime.artifact.contract import Contract, Precision
from siglip_onnx.validate import LimitTable, Report, store_verdict, validate

from .support import not_run
from .support.outliers import rescale_norms
from .support.shared import shared_folder

privacy.opt_out()  # for tests that import onnxruntime themselves

ROOT = Path(__file__).parent.parent
DATA = ROOT / "tests" / "data"
CHECKPOINT = ROOT / "examples" / "emoji" / "checkpoint"
EVAL = ROOT / "examples" / "emoji" / "eval"
LARGE = DATA / "siglip-large-patch16-384"


hypothesis.settings.register_profile("no deadline", deadline=None)  # the time of an example depends on the machine
hypothesis.settings.load_profile("no deadline")


def pytest_configure(config: pytest.Config) -> None:
    not_run.register(config)


@pytest.fixture(scope="session")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled checkpoint, exported once; tests must not change it."""
    return shared_folder(tmp_path_factory, "exported", lambda folder: export(CHECKPOINT, folder, progress=quiet))


@pytest.fixture(scope="session")
def model(artifact: Path) -> Siglip:
    return Siglip.load(artifact)


@pytest.fixture
def broken(artifact: Path, tmp_path: Path) -> Path:
    """A copy of the artifact for a test to change."""
    return Path(shutil.copytree(artifact, tmp_path / "broken"))


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A copy of the bundled checkpoint for a test to change."""
    return Path(shutil.copytree(CHECKPOINT, tmp_path / "checkpoint"))


def rewrite(folder: Path, change: Callable[[Contract], Contract] = lambda contract: contract) -> None:
    """Change an artifact's contract and update its hashes, as a faulty exporter would have written it."""
    contract = change(Artifact.open(folder).contract)
    write_contract(folder, replace(contract, files=record_files(folder)))


@dataclass(frozen=True)
class Run:
    """Result of a command."""

    code: int
    out: str
    err: str


def cli(*arguments: str | Path, **environment: str) -> Run:
    """Run the command line in a new process."""
    done = subprocess.run(
        [sys.executable, "-m", "siglip_onnx", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )
    return Run(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """Run the command line in this process, which is faster."""

    def run(*arguments: str | Path) -> Run:
        monkeypatch.setattr(sys, "argv", ["siglip-onnx", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        return Run(int(end.value.code or 0), printed.out, printed.err)

    return run


def is_one_paragraph(text: str) -> bool:
    """Whether an error is fit for users: not empty, without a traceback, in one paragraph."""
    return bool(text.strip()) and "Traceback" not in text and "\n\n" not in text.strip()


PAIRS = 48
# A dozen pairs cannot prove a margin of two percent; tests/validate/test_paired.py tests the bounds themselves.
FEW_LIMITS = "[default]\nmargin = 0.25\n"
FEW = LimitTable({("default",): {"margin": 0.25}})
Command = Callable[..., Run]


@pytest.fixture(scope="session")
def lenient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Limits that a dozen pairs can pass."""
    path = tmp_path_factory.mktemp("limits") / "few.toml"
    path.write_text(FEW_LIMITS)
    return path


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep caches in a temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIGLIP_ONNX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def quiet(step: str) -> None:
    """Ignore progress."""


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, to compare later."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def captions(folder: Path) -> list[str]:
    """The lines of a data folder."""
    return (folder / "captions.jsonl").read_text().splitlines()


def measured(report: Report, name: str) -> float:
    """The measured number of a check."""
    value = next(check.measured for check in report.checks if check.name == name)
    assert value is not None
    return value


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quick_pairs(tmp_path_factory.mktemp("pairs"))


def quick_pairs(folder: Path) -> Path:
    """A quick subset of the evaluation set."""
    lines = (EVAL / "captions.jsonl").read_text().splitlines()[:PAIRS]
    for line in lines:
        shutil.copy(EVAL / json.loads(line)["image"], folder)
    (folder / "captions.jsonl").write_text("\n".join(lines))
    return folder


def add_pass(folder: Path, checkpoint: Path, data: Path) -> None:
    """Validate the fp32 variant of an artifact and store its PASS."""
    with Siglip.load(folder) as model:
        result = validate(model, checkpoint, data, limits=FEW, progress=quiet)
        result.report.require_pass()
        store_verdict(model.artifact, result)


@pytest.fixture(scope="session")
def passed(tmp_path_factory: pytest.TempPathFactory, artifact: Path, pairs: Path) -> Path:
    """The bundled model with a PASS for fp32."""

    def build(folder: Path) -> None:
        shutil.copytree(artifact, folder)
        add_pass(folder, CHECKPOINT, pairs)

    return shared_folder(tmp_path_factory, "passed", build)


@pytest.fixture
def emoji(passed: Path, tmp_path: Path) -> Path:
    """An artifact for a test to add to."""
    return Path(shutil.copytree(passed, tmp_path / "emoji"))


@pytest.fixture(scope="session")
def every(passed: Path, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, QuantizeResult]:
    """One artifact with every variant."""

    def build(folder: Path) -> None:
        shutil.copytree(passed, folder)
        requests = {kind: QuantizeRequest(data=pairs, cuda=kind is Precision.FP16) for kind in RECIPES}
        results = {kind: quantize(folder, RECIPES[kind](), requests[kind], progress=quiet) for kind in RECIPES}
        folder.with_name("results").write_bytes(pickle.dumps(results))

    results = shared_folder(tmp_path_factory, "every", build).with_name("results")
    return pickle.loads(results.read_bytes())  # noqa: S301  written by another worker of this run


@pytest.fixture(scope="session")
def outliers(tmp_path_factory: pytest.TempPathFactory, pairs: Path) -> Path:
    """A function-preserving copy of the trained model whose LayerNorms have channels 30 to 300 times larger."""

    def build(folder: Path) -> None:
        checkpoint = folder.with_name("checkpoint")
        shutil.copytree(CHECKPOINT, checkpoint)
        rescale_norms(checkpoint)
        export(checkpoint, folder, progress=quiet)
        add_pass(folder, checkpoint, pairs)

    return shared_folder(tmp_path_factory, "outliers", build)
