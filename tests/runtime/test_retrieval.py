"""Vectors as they are kept, and exact search among them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from siglip_onnx.runtime import Siglip
from siglip_onnx.runtime.bulk import EmbedJob, Inputs, Modality, VectorDtype, embed, retrieval, search
from siglip_onnx.runtime.bulk.embeddings_file import About, pack, read_about, unpack
from siglip_onnx.runtime.errors import InputError

from ..conftest import DATA, EVAL
from .test_embed import BEAR, rows


@settings(max_examples=50)
@given(arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=st.floats(-1, 1, width=32)))
def test_float16_and_int8_are_close_to_float32(vectors: np.ndarray[Any, np.dtype[np.float32]]) -> None:
    half, _ = pack(vectors, VectorDtype.FLOAT16)
    np.testing.assert_allclose(half.astype(np.float32), vectors, atol=2**-11)
    small, scales = pack(vectors, VectorDtype.INT8)
    np.testing.assert_allclose(small * scales[:, None], vectors, atol=float(np.abs(vectors).max()) / 253 + 1e-30)


@pytest.mark.parametrize("dtype", VectorDtype)
def test_search_finds_the_nearest_in_any_type(
    model: Siglip, tmp_path: Path, dtype: VectorDtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = EmbedJob(Inputs((str(EVAL), str(DATA / "images" / "odd"))), out := tmp_path / "o.parquet", dtype=dtype)
    about = embed(model, job)
    queries = ["a bear", "pizza", "train"]
    monkeypatch.setattr(retrieval, "_BATCH", 50)  # several batches, though the file is small
    found = search(queries, out, top=5, model=model)
    good = [row for row in rows(out) if row["error"] is None]
    stored = np.array([row["embedding"] for row in good], np.float32)
    stored *= np.array([[row["scale"]] for row in good], np.float32) if dtype is VectorDtype.INT8 else 1
    cosines = model.encode_text(queries) @ stored.T
    for hits, row in zip(found, cosines, strict=True):
        best = np.argsort(-row, kind="stable")[:5]
        assert [hit.id for hit in hits] == [good[place]["id"] for place in best]
        np.testing.assert_allclose([hit.cosine for hit in hits], row[best], atol=1e-6)
    assert found[0][0].id == str(BEAR)
    expected = model.probabilities(model.encode_image([BEAR]), model.encode_text(["a bear"]))[0, 0]
    assert abs(float(found[0][0].probability or 0) - expected) < 0.02
    assert about.dtype is dtype


@given(st.integers(1, 60), st.integers(1, 12), st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_numpy_and_faiss_find_the_same(count: int, top: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    stored, queries = (rng.standard_normal((n, 8)).astype(np.float32) for n in (count, 3))
    cut = int(rng.integers(0, count + 1))

    def batches() -> Any:
        for part in (slice(0, cut), slice(cut, count)):
            if len(stored[part]):
                yield np.arange(count)[part], stored[part]

    faiss = retrieval.nearest(queries, batches(), top)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "_largest", lambda: retrieval._largest_by_numpy)
        plain = retrieval.nearest(queries, batches(), top)
    expected = np.argsort(-(queries @ stored.T), axis=1)[:, :top]
    for cosines, places in (faiss, plain):
        assert places.shape == (3, top)
        assert np.array_equal(places[:, : expected.shape[1]], expected)
        assert (places[:, expected.shape[1] :] == -1).all()
        assert (np.diff(cosines[:, : expected.shape[1]]) <= 0).all()


def test_search_by_image_and_among_texts(model: Siglip, tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("pizza\na bear\na train")
    embed(model, EmbedJob(Inputs((str(tmp_path / "t.txt"),), Modality.TEXT), out := tmp_path / "t.parquet"))
    best = search([BEAR], out, modality=Modality.IMAGE, top=9, model=model)[0]
    assert (best[0].text, len(best)) == ("a bear", 3)
    assert best[0].probability is not None
    assert search(["bear"], out, top=1, model=model)[0][0].probability is None  # two texts have none


def test_search_refuses_files_that_it_cannot_compare(model: Siglip, tmp_path: Path, outliers: Path) -> None:
    embed(model, EmbedJob(Inputs((str(BEAR),)), out := tmp_path / "o.parquet"))
    with pytest.raises(InputError, match="embedded with another checkpoint"):
        search(["a"], out, model=Siglip.load(outliers))
    with pytest.raises(InputError, match="top must be at least 1, got 0"):
        search(["a"], out, top=0, model=model)
    pq.write_table(pa.table({"x": [1]}), tmp_path / "other.parquet")
    with pytest.raises(InputError, match="has no metadata of siglip-onnx"):
        search(["a"], tmp_path / "other.parquet", model=model)
    with pytest.raises(InputError, match="cannot be read as parquet"):
        search(["a"], tmp_path / "nowhere.parquet", model=model)


def test_a_file_reads_back_what_was_written(model: Siglip, tmp_path: Path) -> None:
    embed(model, EmbedJob(Inputs((str(EVAL),)), out := tmp_path / "o.parquet"))
    about = read_about(str(out))
    assert isinstance(about, About)
    with pq.ParquetFile(out) as file:
        places, vectors = unpack(next(file.iter_batches(10)), about)
    assert places.tolist() == list(range(10))
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    started = time.monotonic()
    assert len(search(["x"], out, model=model)[0]) == 10
    assert time.monotonic() - started < 5
