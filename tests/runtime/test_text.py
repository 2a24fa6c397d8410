"""The text cache, prompt templates, and truncated texts."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from siglip_onnx.runtime import Siglip
from siglip_onnx.runtime.artifact.contract import Role
from siglip_onnx.runtime.errors import InputError
from siglip_onnx.runtime.preprocessing.prompts import TextCache, TextTruncatedWarning, format_prompts

from ..conftest import EVAL

BEAR = EVAL / "distorted-noto-1f43b.webp"


def counting(model: Siglip, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts go through the tower, call by call."""
    calls: list[int] = []
    encode = model.encode

    def counted(role: Role, inputs: Any) -> Any:
        calls.append(len(inputs))
        return encode(role, inputs)

    monkeypatch.setattr(model, "encode", counted)
    return calls


def test_equal_and_cached_texts_are_not_encoded_again(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Siglip.load(artifact)
    calls = counting(model, monkeypatch)
    first = model.encode_text(["a bear", "pizza", "a bear", "A BEAR!"])  # the last one has the same ids
    assert calls == [2]
    assert np.array_equal(first[0], first[2])
    assert np.array_equal(first[0], first[3])
    again = model.encode_text(["pizza", "a train", "a bear"])
    assert calls == [2, 1]
    assert np.array_equal(again[[0, 2]], first[[1, 0]])


def test_models_with_different_weights_share_a_cache_but_no_entries(artifact: Path, outliers: Path) -> None:
    cache = TextCache()
    one, other = (Siglip.load(folder, text_cache=cache) for folder in (artifact, outliers))
    assert not np.array_equal(one.encode_text(["a bear"]), other.encode_text(["a bear"]))
    assert len(cache) == 2


def test_cache_without_entries(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Siglip.load(artifact, text_cache=TextCache(0))
    calls = counting(model, monkeypatch)
    for _ in range(2):
        model.encode_text(["a bear", "a bear"])
    assert calls == [1, 1]
    with pytest.raises(InputError, match="entries must be at least 0, got -1"):
        TextCache(-1)


@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=12), max_size=12), st.integers(0, 6))
def test_cache_is_bounded_and_correct(calls: list[list[int]], entries: int) -> None:
    cache = TextCache(entries)
    for call in calls:
        ids = np.array(call, np.int64)[:, None]
        found = cache.encode("x", ids, lambda rows: rows.astype(np.float32) * 2)
        assert found[:, 0].tolist() == [2 * value for value in call]
        assert len(cache) <= entries


def test_threads_share_a_cache() -> None:
    cache, ids = TextCache(8), np.arange(64, dtype=np.int64)[:, None]
    turned = [np.roll(ids, k) for k in range(64)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda rows: cache.encode("x", rows, lambda new: new.astype(np.float32)), turned))
    assert all(np.array_equal(rows, expected.astype(np.float32)) for rows, expected in zip(found, turned, strict=True))


@pytest.mark.gate
def test_ten_thousand_labels(model: Siglip) -> None:
    labels = [f"label {number}" for number in range(10_000)]
    best = model.classify([BEAR], [*labels, "bear"])[0]
    assert len(best) == 10_001
    assert best[0].label == "bear"


def test_ensemble_is_the_mean_of_its_prompts(model: Siglip) -> None:
    templates = ["{}", "a photo of {}", "an emoji of {}"]
    found = model.encode_labels(["bear", "pizza"], templates)
    parts = np.stack([model.encode_text([t.replace("{}", label) for label in ("bear", "pizza")]) for t in templates])
    mean = parts.mean(axis=0)
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean, axis=1, keepdims=True), atol=1e-6)
    assert model.classify([BEAR], ["pizza", "bear"], template=templates)[0][0].label == "bear"


@pytest.mark.parametrize(
    ("template", "labels", "message"),
    [
        ("a photo", ["a"], r"has no \{\}"),
        (["{}", "x"], ["a"], r"has no \{\}"),
        ([], ["a"], "Expected a template"),
        ("{}", [3], "must be a string, got int"),
    ],
)
def test_invalid_templates_are_refused(template: Any, labels: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        format_prompts(template, labels)


def test_truncated_text_is_reported_with_its_last_words(model: Siglip) -> None:
    words = [f"word{number}" for number in range(60)]
    with pytest.warns(TextTruncatedWarning, match=r"Text 1 \('word0 word1") as warned:
        long = model.encode_text(["a bear", " ".join(words)])
    message = str(warned[0].message)
    last_words = message.split("truncated after ")[1].strip("'.").split()
    place = words.index(last_words[-2])  # the last word may be incomplete
    assert words[place - 2 : place + 1] == last_words[-4:-1]
    kept = " ".join(words[: place + 1])
    ids = model.tokenizer([" ".join(words), kept])
    same = int((ids[0] == ids[1]).sum())
    assert same >= ids.shape[1] - 4  # nothing after the words in the warning is read
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode_text([kept])
    assert np.isfinite(long).all()
