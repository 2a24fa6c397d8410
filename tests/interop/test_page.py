"""The HTML report in a browser: every plot is drawn, nothing is requested, and phones and dark mode work."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SiglipModel

from siglip_onnx.exporter import export
from siglip_onnx.runtime import Siglip
from siglip_onnx.runtime.arrays import AnyArray
from siglip_onnx.runtime.artifact.contract import Precision, Provider, Role, Verdict
from siglip_onnx.validate.report.html import cell_page, matrix_page
from siglip_onnx.validate.report.matrix import Cell, Matrix, matrix_verdict
from siglip_onnx.validate.report.plot_data import WORST, PlotData, WorstImage
from siglip_onnx.validate.report.report import Check, CheckGroup, Cost, DataRecord, Report, at_least, at_most, overall
from siglip_onnx.validate.stats import metrics
from tests.conftest import CHECKPOINT, EVAL

from . import environments
from .consumers import Json, node

SAMPLES: Final = 24
BEST: Final = 5
PHONE, DESK = 360, 1200
READABLE: Final = 4.5  # contrast of text, https://www.w3.org/TR/WCAG22/#contrast-minimum
DOT: Final = 6  # pixels by which a dot may extend beyond the plot's frame
PLOTS: Final = {"one": 4, "broken": 0, "gate": 2 + 4 + 4}
IMAGES: Final = {"one": WORST, "broken": 0, "gate": 2 * WORST}
VIEWS: Final = [{"width": width, "scheme": scheme} for width in (PHONE, DESK) for scheme in ("light", "dark")]


@pytest.fixture(scope="module")
def plot_data(tmp_path_factory: pytest.TempPathFactory) -> PlotData:
    """Outputs of the exported bundled model and of transformers for the same images and texts."""
    folder = tmp_path_factory.mktemp("exported") / "emoji"
    export(CHECKPOINT, folder, progress=lambda step: None)
    lines = [json.loads(line) for line in (EVAL / "captions.jsonl").read_text("utf-8").splitlines()[:SAMPLES]]
    names, texts = tuple(line["image"] for line in lines), tuple(line["text"] for line in lines)
    with Siglip.load(folder) as model:
        pixels = np.stack([model.images.one(EVAL / name) for name in names])
        ids = model.tokenizer(texts)
        ours = {Role.VISION: model.encode(Role.VISION, pixels), Role.TEXT: model.encode(Role.TEXT, ids)}
        spec = model.contract.logits
    with torch.inference_mode():
        inputs = {"input_ids": torch.from_numpy(ids), "pixel_values": torch.from_numpy(pixels)}
        outputs = SiglipModel.from_pretrained(CHECKPOINT).eval()(**inputs)
    theirs = {Role.VISION: outputs.image_embeds.numpy(), Role.TEXT: outputs.text_embeds.numpy()}
    logits = metrics.logits(ours[Role.VISION], ours[Role.TEXT], spec.scale, spec.bias)
    reference = outputs.logits_per_image.numpy()
    return PlotData(
        logits.astype(np.float32),
        reference,
        {role: metrics.centered_cosines(ours[role], theirs[role]) for role in ours},
        {Role.VISION: names, Role.TEXT: texts},
        worst(logits, reference, names, texts),
    )


def worst(
    ours: AnyArray, reference: AnyArray, names: tuple[str, ...], texts: tuple[str, ...]
) -> tuple[WorstImage, ...]:
    """The images with the largest changes of a logit."""

    def best(logits: AnyArray) -> tuple[tuple[str, float], ...]:
        return tuple((texts[i], float(metrics.sigmoid(logits[i]))) for i in np.argsort(-logits)[:BEST])

    moved = np.argsort(-np.abs(ours - reference).max(1))[:WORST]
    return tuple(WorstImage(names[i], thumbnail(EVAL / names[i]), best(ours[i]), best(reference[i])) for i in moved)


def thumbnail(path: Path) -> bytes:
    buffer = io.BytesIO()
    with Image.open(path) as image:
        image.thumbnail((128, 128))
        image.save(buffer, "WEBP")
    return buffer.getvalue()


def damaged(good: PlotData) -> PlotData:
    """Data of an artifact with a wrong bias and a tower that overflows for one image."""
    ours = good.candidate + 2.0
    ours[0] = np.nan
    return replace(good, candidate=ours)


def report(data: PlotData, precision: Precision, size: int) -> Report:
    checks = tuple(checks_of(data))
    groups = frozenset(check.group for check in checks)
    return Report(
        created="2031-05-06T07:08:09+00:00",
        seconds=3.0,
        artifact="emoji",
        contract_sha256="c" * 64,
        precision=precision,
        provider=Provider.CPU,
        reference="the bundled checkpoint",
        reference_sha256="e" * 64,
        data=DataRecord("emoji", "d" * 64, SAMPLES, SAMPLES, SAMPLES, bundled=True),
        environment={"torch": torch.__version__},
        verdict=overall(checks, groups),
        checks=checks,
        expected=tuple(groups),
        cost=Cost(size, {"vision": size / 7e9, "text": size / 14e9}),
    )


def checks_of(data: PlotData) -> list[Check]:
    difference = float(np.abs(data.candidate - data.reference).max())
    checks = [at_most(CheckGroup.LOGITS, "difference max", difference, 0.02, "x" * 300)]
    for role, cosines in data.cosines.items():
        for which, value in (("min", cosines.min()), ("median", np.median(cosines))):
            checks.append(
                at_least(CheckGroup.EMBEDDINGS, f"{role} centered cosine {which}", float(value), 0.99999, noise=1e-9)
            )
    return checks


@pytest.fixture(scope="module")
def looks(plot_data: PlotData, tmp_path_factory: pytest.TempPathFactory) -> Json:
    """The browser's measurements of each page, by name."""
    good, bad = report(plot_data, Precision.FP32, 14_000_000), report(damaged(plot_data), Precision.INT8, 4_000_000)
    assert (good.verdict, bad.verdict) == (Verdict.PASS, Verdict.FAIL)
    cells = (
        Cell(good.precision, good.provider, good.verdict, report=good),
        Cell(bad.precision, bad.provider, bad.verdict, report=bad),
        Cell(Precision.INT8, Provider.OPENVINO, Verdict.FAIL, problem="Its process ended with SIGSEGV. " + "/" * 400),
        Cell(Precision.INT8, Provider.WEB, Verdict.INCONCLUSIVE, required=False, problem="Chromium is missing."),
    )
    gate = Matrix(good.created, 9.0, "emoji", good.reference, good.data, matrix_verdict(cells), cells, good.environment)
    pages = {
        "one": cell_page(good, plot_data),
        "broken": cell_page(bad, None),
        "gate": matrix_page(gate, {cells[0].name: plot_data, cells[1].name: damaged(plot_data)}),
    }
    folder = tmp_path_factory.mktemp("pages")
    for name, html in pages.items():
        (folder / f"{name}.html").write_text(html, "utf-8")
    job = {"chromium": str(environments.browser()), "as": VIEWS}
    job["pages"] = [str(folder / f"{name}.html") for name in pages]
    return {
        name: [look for look in node("page.mjs", job, folder)["looks"] if Path(look["path"]).stem == name]
        for name in pages
    }


@pytest.mark.parametrize("name", PLOTS)
def test_page_requests_nothing_and_reports_no_error(looks: Json, name: str) -> None:
    assert [look["problems"] for look in looks[name]] == [[]] * len(VIEWS)


@pytest.mark.parametrize("name", PLOTS)
def test_every_plot_and_image_is_drawn(looks: Json, name: str) -> None:
    for look in looks[name]:
        assert len(look["plots"]) == PLOTS[name]
        assert len(look["images"]) == IMAGES[name]
        assert all(look["images"])
        for plot in look["plots"]:
            size, frame, marks = plot["size"], plot["frame"], plot["marks"]
            assert min(size["width"], size["height"]) > 150
            assert max(marks["width"], marks["height"]) > 10, plot["label"]
            for origin, extent in (("x", "width"), ("y", "height")):
                assert marks[origin] >= frame[origin] - DOT
                assert marks[origin] + marks[extent] <= frame[origin] + frame[extent] + DOT


@pytest.mark.parametrize("name", PLOTS)
def test_phone_needs_no_horizontal_scrolling(looks: Json, name: str) -> None:
    assert [look["overflow"] for look in looks[name]] == [0] * len(VIEWS)


@pytest.mark.parametrize("name", PLOTS)
def test_text_is_readable_in_light_and_dark_mode(looks: Json, name: str) -> None:
    for look in looks[name]:
        dark = look["as"]["scheme"] == "dark"
        assert look["background"] < 0.05 if dark else look["background"] > 0.9
        assert look["texts"] > 50
        assert look["contrast"][0] >= READABLE, look["contrast"]
