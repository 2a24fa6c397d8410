"""A model in threads, event loops, forked and spawned processes, and while its files change."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import resource
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from siglip_onnx.runtime import SessionOptions, Siglip
from siglip_onnx.runtime.artifact.contract import Role
from siglip_onnx.runtime.engines import openvino_direct
from siglip_onnx.runtime.errors import ArtifactError, InputError, ProviderError

from ..conftest import EVAL

FILES = sorted(EVAL.glob("*.webp"))[:4]


def test_closed_model_frees_its_towers_and_loads_them_again(artifact: Path) -> None:
    with Siglip.load(artifact) as model:
        first = model.encode_image(FILES)
        assert model._towers.loaded
    assert not model._towers.loaded
    assert np.array_equal(model.encode_image(FILES), first)


def encode(model: Siglip) -> Any:
    return model.encode_image(FILES), model.encode_text(["a bear"])


def test_model_can_be_sent_to_spawned_processes(model: Siglip) -> None:
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        results = pool.map(encode, [model, model])
    for images, texts in results:
        np.testing.assert_array_equal(images, model.encode_image(FILES))
        np.testing.assert_array_equal(texts, model.encode_text(["a bear"]))
    again = pickle.loads(pickle.dumps(model))  # noqa: S301  pickled in this line
    assert (again.precision, again.options) == (model.precision, model.options)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_model_in_use_works_in_forked_processes(artifact: Path) -> None:
    model = Siglip.load(artifact)
    expected, stop = encode(model), threading.Event()

    def keep_busy() -> None:
        while not stop.is_set():
            model.encode_text([f"something new {time.monotonic()}"])

    busy = threading.Thread(target=keep_busy)
    busy.start()  # so that locks are held and threads run during the fork
    try:
        for _ in range(3):
            assert in_fork(lambda: all(np.array_equal(a, b) for a, b in zip(encode(model), expected, strict=True)))
    finally:
        stop.set()
        busy.join()
    assert np.array_equal(encode(model)[0], expected[0])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_openvino_works_after_fork_unless_it_was_computing(artifact: Path) -> None:
    model = Siglip.load(artifact, provider="openvino")
    expected = encode(model)
    assert in_fork(lambda: all(np.array_equal(a, b) for a, b in zip(encode(model), expected, strict=True)))
    with openvino_direct._computing():  # as in another thread that computes during the fork
        assert in_fork(lambda: "cannot be used after fork" in refusal(model))
    assert np.array_equal(encode(model)[0], expected[0])


def refusal(model: Siglip) -> str:
    with pytest.raises(ProviderError) as error:
        encode(model)
    return str(error.value)


def in_fork(check: Any, seconds: float = 60) -> bool:
    """Whether the check holds in a forked process."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns about fork in a process with threads
        child = os.fork()
    if child == 0:
        os._exit(0 if check() else 1)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.02)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return False


def test_event_loop_is_not_blocked(model: Siglip) -> None:
    async def ticks_while_encoding() -> tuple[int, Any]:
        ticks, done = 0, asyncio.create_task(asyncio.to_thread(model.encode_image, FILES * 40))
        while not done.done():
            await asyncio.sleep(0.005)
            ticks += 1
        return ticks, await done

    ticks, found = asyncio.run(ticks_while_encoding())
    assert ticks > 10
    np.testing.assert_allclose(found[:4], model.encode_image(FILES), atol=1e-6)


def test_sixteen_threads_get_equal_results_without_growing_memory(artifact: Path) -> None:
    model = Siglip.load(artifact)
    expected, started = model.classify(FILES, ["bear", "train", "pizza"]), time.monotonic()
    sizes = []

    def work(number: int) -> bool:
        return all(model.classify(FILES, ["bear", "train", "pizza"]) == expected for _ in range(3))

    with ThreadPoolExecutor(16) as pool:
        for _ in range(4):
            assert all(pool.map(work, range(16)))
            sizes.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert sizes[-1] - sizes[0] < 20_000  # KB
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.encode(Role.VISION, np.full((2, 3, 64, 64), np.nan, np.float32)), "Row 0 .* not finite"),
        (lambda m: m.encode(Role.VISION, np.full((1, 3, 64, 64), np.inf, np.float32)), "must be between|not finite"),
        (
            lambda m: m.encode(Role.VISION, np.full((1, 3, 64, 64), 200, np.float32)),
            "vision tower must be between -2",
        ),
        (lambda m: m.encode(Role.TEXT, np.full((1, 64), 10**6)), "text tower must be between 0 and"),
        (lambda m: m.encode(Role.TEXT, np.full((1, 64), -1)), "text tower must be between 0"),
        (lambda m: m.encode(Role.VISION, np.zeros((0, 3, 64, 64), np.float32)), "at least one row"),
        (lambda m: m.encode_text(["half \ud83d"]), "surrogate"),
        (lambda m: m.encode_text([b"bytes"]), "must be a string"),
        (lambda m: m.encode_image([b"no image"]), "not in a supported format"),
    ],
)
def test_meaningless_inputs_are_refused(model: Siglip, call: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        call(model)


def test_overwritten_weights_are_detected(broken: Path) -> None:
    model = Siglip.load(broken)
    model.encode_text(["a bear"])
    weights = broken / "onnx" / "text_model.onnx_data"
    with weights.open("r+b") as file:
        file.write(b"\xff" * 64)
    with pytest.raises(ArtifactError, match="was overwritten while it was in use"):
        model.encode_text(["a train"])


def test_replaced_artifact_stays_usable_where_it_is_loaded(broken: Path, outliers: Path) -> None:
    model = Siglip.load(broken)
    expected = model.encode_text(["a bear"])
    os.rename(broken, broken.with_name("old"))
    shutil.copytree(outliers, broken)
    assert np.array_equal(Siglip.encode_text(model, ["a bear"]), expected)
    with pytest.raises(ArtifactError, match="was damaged or changed"):
        model.encode_image(FILES)  # this tower is not loaded yet, and the file is of another model
    unchecked = Siglip.load(broken, options=SessionOptions(verify=False))
    assert unchecked.encode_image(FILES).shape == (4, 192)
