"""Embedding a collection: every kind of input, and no row lost or doubled however often the run is interrupted."""

from __future__ import annotations

import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from siglip_onnx.runtime import Siglip
from siglip_onnx.runtime.bulk import EmbedJob, Inputs, Modality, VectorDtype, embed
from siglip_onnx.runtime.bulk.embeddings_file import read_about
from siglip_onnx.runtime.bulk.part_files import CHUNK, _locked
from siglip_onnx.runtime.data import images as data_images
from siglip_onnx.runtime.errors import InputError, ProviderError

from ..conftest import DATA, EVAL, Command, is_one_paragraph
from ..support.interrupt import StoppedError, stop_after

FILES = sorted(EVAL.glob("*.webp"))
BEAR = EVAL / "distorted-noto-1f43b.webp"
PAIRS = [json.loads(line) for line in (EVAL / "captions.jsonl").read_text("utf-8").splitlines()]


def rows(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()


def ids(inputs: Inputs) -> list[str]:
    return [item.id for item in inputs]


def test_a_folder_to_a_file_and_what_is_in_it(model: Siglip, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DATA / "images" / "odd", tmp_path / "in" / "odd")).parent
    shutil.copy(BEAR, folder)
    (folder / "notes.md").write_text("not an image")
    about = embed(model, EmbedJob(Inputs((str(folder),)), out := tmp_path / "out.parquet"))
    found = rows(out)
    bad = {Path(row["id"]).name for row in found if row["error"]}
    assert bad == {"BAD_empty.jpg", "BAD_not_an_image.png", "BAD_truncated.jpg"}
    assert all((row["embedding"] is None) == (row["error"] is not None) for row in found)
    assert (about.rows, about.errors) == (len(found), 3)
    assert [row["id"] for row in found] == sorted(str(p) for p in folder.rglob("*.*") if p.suffix != ".md")
    bear = next(row for row in found if row["id"].endswith(BEAR.name))
    np.testing.assert_allclose(bear["embedding"], model.encode_image([BEAR])[0], atol=1e-6)
    assert read_about(str(out)) == about
    assert not out.with_name("out.parquet.parts").exists()


def archive(path: Path, members: dict[str, bytes]) -> str:
    with tarfile.open(path, "w:gz" if path.suffix == ".gz" else "w") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return str(path)


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Inputs]:
    """The same three images in every form."""
    three, folder = FILES[:3], tmp_path / "three"
    folder.mkdir()
    for path in three:
        shutil.copy(path, folder)
    names = [path.name for path in three]
    (tmp_path / "t.csv").write_text("name,path\n" + "".join(f"n{i},three/{n}\n" for i, n in enumerate(names)))
    (tmp_path / "t.tsv").write_text("name\tpath\n" + "".join(f"n{i}\tthree/{n}\n" for i, n in enumerate(names)))
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"path": f"three/{n}"}) + "\n" for n in names))
    data = [path.read_bytes() for path in three]
    pq.write_table(pa.table({"png": data}), tmp_path / "bytes.parquet")
    pq.write_table(pa.table({"image": [{"bytes": d, "path": None} for d in data]}), tmp_path / "hub.parquet")
    members = {f"0{i}.webp": d for i, d in enumerate(data)} | {"00.txt": b"a caption", "00.json": b"{}"}
    return {
        "folder": Inputs((str(folder),)),
        "files": Inputs(tuple(map(str, three))),
        "pattern": Inputs((str(folder / "*.webp"),)),
        "csv": Inputs((str(tmp_path / "t.csv"),), column="path", id_column="name"),
        "tsv": Inputs((str(tmp_path / "t.tsv"),), column="path"),
        "jsonl": Inputs((str(tmp_path / "t.jsonl"),), column="path"),
        "parquet of bytes": Inputs((str(tmp_path / "bytes.parquet"),), column="png"),
        "parquet from the hub": Inputs((str(tmp_path / "hub.parquet"),), column="image"),
        "tar": Inputs((archive(tmp_path / "t.tar", members),)),
        "tar.gz": Inputs((archive(tmp_path / "t.tar.gz", members),)),
    }


def test_every_form_of_input_gives_the_same_vectors(model: Siglip, sources: dict[str, Inputs], tmp_path: Path) -> None:
    expected = model.encode_image(FILES[:3])
    for name, inputs in sources.items():
        embed(model, EmbedJob(inputs, out := tmp_path / "out.parquet", overwrite=True))
        found = np.array([row["embedding"] for row in rows(out)], np.float32)
        np.testing.assert_allclose(found, expected, atol=1e-6, err_msg=name)
    assert ids(sources["csv"]) == ["n0", "n1", "n2"]
    assert ids(sources["tar"])[0].endswith("t.tar:00.webp")
    assert ids(sources["jsonl"])[2].endswith("t.jsonl#2")


def test_texts_from_every_form(model: Siglip, tmp_path: Path) -> None:
    texts = ["a bear", "pizza", "ein Bär 🐻"]
    (tmp_path / "t.txt").write_text("\n".join(["a bear", "", "pizza", "ein Bär 🐻"]), "utf-8")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"c": text}) + "\n" for text in texts))
    tar = archive(tmp_path / "t.tar", {f"{i}.txt": text.encode() for i, text in enumerate(texts)})
    for inputs in (
        Inputs((str(tmp_path / "t.txt"),), Modality.TEXT),
        Inputs((str(tmp_path / "t.jsonl"),), Modality.TEXT, "c"),
        Inputs((tar,), Modality.TEXT),
    ):
        embed(model, EmbedJob(inputs, out := tmp_path / "o.parquet", template="an emoji of {}", overwrite=True))
        found = rows(out)
        assert [row["text"] for row in found] == texts
        expected = model.encode_text([f"an emoji of {text}" for text in texts])
        np.testing.assert_allclose([row["embedding"] for row in found], expected, atol=1e-6)


def test_truncated_texts_are_reported(artifact: Path, tmp_path: Path, command: Command) -> None:
    (tmp_path / "t.txt").write_text("short\n" + "a long text " * 60 + "\n")
    run = command("embed", artifact, tmp_path / "t.txt", "-o", out := tmp_path / "o.parquet", "--modality", "text")
    assert "1 texts are longer than the model reads (column truncated)" in run.out
    assert [row["truncated"] for row in rows(out)] == [False, True]


def test_bad_rows_are_recorded_and_others_embedded(model: Siglip, tmp_path: Path) -> None:
    table = tmp_path / "t.jsonl"
    lines = [json.dumps(line) for line in ({"t": "fine"}, {"t": 7}, {"u": "x"}, {"t": None}, {"t": "also fine"})]
    lines += ['{"t": broken', '["list"]', '{"t": "half \\ud83d"}']
    table.write_text("\n".join(lines) + "\n")
    about = embed(model, EmbedJob(Inputs((str(table),), Modality.TEXT, "t"), out := tmp_path / "o.parquet"))
    errors = [row["error"] for row in rows(out)]
    assert [error is None for error in errors] == [True, False, False, False, True, False, False, False]
    assert about.errors == 6
    for place, message in {1: "column 't', but 7 (int)", 3: "but nothing", 5: "is not JSON", 7: "surrogate"}.items():
        assert message in errors[place]


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda p: "nowhere", {}, "nowhere does not exist"),
        (lambda p: "*.nothing", {}, "does not exist"),
        (lambda p: "", {}, "holds no image"),
        (lambda p: "t.txt", {}, "t.txt holds texts, expected images"),
        (lambda p: "", {"modality": Modality.TEXT}, "holds images, expected texts"),
        (lambda p: "x.png", {"modality": Modality.TEXT}, "x.png holds images"),
        (lambda p: "t.csv", {}, "is a table"),
        (lambda p: "t.jsonl", {}, "is a table"),
        (lambda p: "t.csv", {"column": "c"}, "has no column 'c'"),
        (lambda p: "t.csv", {"column": "a", "id_column": "d"}, "has no column 'd'"),
        (lambda p: "bad.csv", {"column": "a"}, "is not UTF-8"),
        (lambda p: "bad.parquet", {"column": "a"}, "cannot be read as parquet"),
        (lambda p: "bad.tar", {}, "cannot be read as an archive"),
    ],
)
def test_unusable_inputs_are_refused(
    model: Siglip, tmp_path: Path, make: Any, options: dict[str, Any], message: str
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "t.txt").write_text("a")
    (folder / "t.csv").write_text("a,b\n1,2\n")
    (folder / "t.jsonl").write_text("{}\n")
    (folder / "x.png").write_bytes(b"") if make(folder) == "x.png" else None
    for name in ("bad.csv", "bad.parquet", "bad.tar"):
        (folder / name).write_bytes(b"a,b\n\xff\xfe,\x00")
    with pytest.raises(InputError, match=message):
        embed(model, EmbedJob(Inputs((str(folder / make(folder)),), **options), tmp_path / "o.parquet"))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]  # neither an output nor the beginning of one


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has names that are no text")
def test_a_file_name_that_is_not_unicode(model: Siglip, tmp_path: Path) -> None:
    shutil.copy(BEAR, os.fsencode(tmp_path) + b"/b\xe4r.webp")
    embed(model, EmbedJob(Inputs((str(tmp_path),)), out := tmp_path / "o.parquet"))
    (row,) = rows(out)
    assert row["id"].endswith("b\\udce4r.webp")
    assert row["error"] is None


def test_a_huge_member_of_an_archive_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_images, "MAX_FILE_BYTES", 1000)
    path = archive(tmp_path / "t.tar.gz", {"a.png": b"x" * 999, "bomb.png": bytes(10_000)})
    small, bomb = Inputs((path,))
    assert small.error is None
    assert bomb.content is None
    assert "10,000 bytes; the limit is 1,000" in str(bomb.error)


def test_a_link_in_a_circle_ends(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    shutil.copy(BEAR, tmp_path / "a" / "x.webp")
    os.symlink(tmp_path, tmp_path / "a" / "loop")
    assert len(ids(Inputs((str(tmp_path),)))) == 1


def collection(folder: Path, count: int) -> Path:
    """A folder with many small images, every thirtieth of which is damaged."""
    folder.mkdir()
    for number in range(count):
        source = FILES[number % len(FILES)]
        (folder / f"{number:05}.webp").write_bytes(b"broken" if number % 30 == 7 else source.read_bytes())
    return folder


def start(artifact: Path, folder: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "siglip_onnx",
        "embed",
        artifact,
        folder,
        "-o",
        out,
        "--checkpoint-interval",
        "0",
        *more,
    ]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.gate
def test_killed_at_random_moments_no_row_is_lost_or_doubled(artifact: Path, model: Siglip, tmp_path: Path) -> None:
    folder, out = collection(tmp_path / "in", 1200), tmp_path / "out.parquet"
    chance, kills = random.Random(0), 0
    for _ in range(40):
        process = start(artifact, folder, out)
        try:
            process.wait(chance.uniform(0.4, 2.5))
        except subprocess.TimeoutExpired:
            process.send_signal(chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
            process.wait()
            kills += 1
        if out.exists():
            break
    assert kills >= 2
    assert process.wait() == 0
    found = rows(out)
    assert [row["id"] for row in found] == [str(folder / f"{number:05}.webp") for number in range(1200)]
    assert sum(row["error"] is not None for row in found) == 40
    embed(model, EmbedJob(Inputs((str(folder),)), whole := tmp_path / "whole.parquet"))
    assert pq.read_table(out).equals(pq.read_table(whole))  # to the bit what one run gives
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out.parquet", "whole.parquet"]


@pytest.fixture
def begun(model: Siglip, tmp_path: Path) -> EmbedJob:
    """A job that was stopped half-way."""
    job = EmbedJob(Inputs((str(collection(tmp_path / "in", 300)),)), tmp_path / "out.parquet", checkpoint_interval=0)
    with pytest.raises(StoppedError):
        embed(model, job, stop_after(128))
    assert (tmp_path / "out.parquet.parts").exists()
    return job


def test_finished_rows_are_not_embedded_again(model: Siglip, begun: EmbedJob, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    load = model.images.bytes_of
    monkeypatch.setattr(model.images, "bytes_of", lambda content: (seen.append(content), load(content))[1])
    embed(model, begun)
    assert len(seen) == len(set(seen)) == 300 - 4 * CHUNK
    assert len(rows(begun.output)) == 300


def test_changed_inputs_are_detected(model: Siglip, begun: EmbedJob) -> None:
    folder = Path(begun.inputs.paths[0])
    (folder / "00000-new.webp").write_bytes(BEAR.read_bytes())
    with pytest.raises(InputError, match="inputs changed since this job began: items 0 to 31 are different"):
        embed(model, begun)
    for path in sorted(folder.iterdir())[40:]:
        path.unlink()
    with pytest.raises(InputError, match="inputs changed"):
        embed(model, begun)
    about = embed(model, replace(begun, resume=False))
    assert about.rows == 40


def test_another_job_does_not_resume_it(model: Siglip, begun: EmbedJob, outliers: Path) -> None:
    with pytest.raises(InputError, match=r"unfinished job with different settings \(dtype\)"):
        embed(model, replace(begun, dtype=VectorDtype.INT8))
    with pytest.raises(InputError, match=r"different settings .*checkpoint"):
        embed(Siglip.load(outliers), begun)


def test_two_processes_do_not_write_the_same_output(model: Siglip, begun: EmbedJob) -> None:
    held = _locked(begun.output.with_name("out.parquet.parts") / "lock")
    with pytest.raises(InputError, match="Another process is writing"):
        embed(model, begun)
    held.close()
    assert embed(model, begun).rows == 300


def test_a_damaged_part_is_named(model: Siglip, begun: EmbedJob) -> None:
    part = sorted(begun.output.with_name("out.parquet.parts").glob("part-*"))[0]
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(InputError, match=f"{part.name} is damaged"):
        embed(model, begun)
    part.unlink()
    assert embed(model, begun).rows == 300


def test_no_space_for_the_output(artifact: Path, tmp_path: Path) -> None:
    folder, out = collection(tmp_path / "in", 200), tmp_path / "out.parquet"

    def small_disk() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))  # less than one part

    command = [sys.executable, "-m", "siglip_onnx", "embed", artifact, folder, "-o", out]
    run = subprocess.run(list(map(str, command)), preexec_fn=small_disk, capture_output=True, text=True, check=False)
    assert run.returncode == 8
    assert "cannot be written (File too large)" in run.stderr.replace("\n", " ")
    assert is_one_paragraph(run.stderr)
    assert not out.exists()
    assert start(artifact, folder, out).wait() == 0
    assert len(rows(out)) == 200


def test_an_existing_output_is_kept(model: Siglip, tmp_path: Path) -> None:
    out = tmp_path / "o.parquet"
    out.write_text("precious")
    job = EmbedJob(Inputs((str(BEAR),)), out)
    with pytest.raises(InputError, match="exists"):
        embed(model, job)
    assert out.read_text() == "precious"
    assert embed(model, replace(job, overwrite=True)).rows == 1


def test_the_command_line_from_folder_to_answer(artifact: Path, tmp_path: Path, command: Command) -> None:
    out = tmp_path / "e.parquet"
    run = command("embed", artifact, EVAL, "-o", out, "--dtype", "int8")
    assert run.code == 0
    assert f"Embedded {len(FILES):,} images to {out}; 0 could not be read." in run.out
    hits = json.loads(command("search", "a bear", out, "--top", "2", "--json").out)
    assert hits[0]["id"] == str(BEAR)
    page = command("search", BEAR, out, "--image", "--top", "1", "--artifact", artifact)
    assert BEAR.name in page.out
    refused = command("embed", artifact, EVAL, "-o", tmp_path / "e.csv")
    assert refused.code == 2
    shutil.rmtree(tmp_path / "e.parquet.parts", ignore_errors=True)


@pytest.mark.gate
def test_memory_is_bounded_by_batches_not_by_inputs(artifact: Path, tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from siglip_onnx.runtime.bulk import EmbedJob, Inputs, embed;"
        "embed(sys.argv[1], EmbedJob(Inputs((sys.argv[2],)), Path(sys.argv[3]), checkpoint_interval=1));"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for count in (200, 2400):
        folder = collection(tmp_path / str(count), count)
        command = [sys.executable, "-c", code, artifact, folder, tmp_path / f"{count}.parquet"]
        peaks.append(int(subprocess.check_output(list(map(str, command)), text=True)))
    assert peaks[1] - peaks[0] < 40_000  # KB; 2,200 more images are 108 MB of pixels


def test_a_damaged_archive_is_not_taken_for_a_shorter_one(model: Siglip, tmp_path: Path) -> None:
    path = tmp_path / "t.tar"
    archive(path, {f"{i}.webp": BEAR.read_bytes() for i in range(6)})
    data = bytearray(path.read_bytes())
    second = 512 + -(-len(BEAR.read_bytes()) // 512) * 512
    data[second + 10] ^= 0xFF  # in the name, so that the checksum of the header is wrong
    path.write_bytes(data)
    with pytest.raises(InputError, match="cannot be read as an archive"):
        embed(model, EmbedJob(Inputs((str(path),)), tmp_path / "o.parquet"))
    packed = archive(tmp_path / "t.tar.gz", {"0.webp": BEAR.read_bytes()})
    shutil.move(packed, path)  # gzip under the name of a plain archive
    about = embed(model, EmbedJob(Inputs((str(path),)), out := tmp_path / "p.parquet"))
    assert about.errors == 0
    np.testing.assert_allclose(rows(out)[0]["embedding"], model.encode_image([BEAR])[0], atol=1e-6)


def test_quotes_and_patterns_that_would_give_other_rows(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('t\nfine\n"5 inch" pipe\nlast\n')
    with pytest.raises(InputError, match="is not a line of a table"):
        list(Inputs((str(tmp_path / "t.csv"),), Modality.TEXT, "t"))
    (tmp_path / "t.tsv").write_text('t\tn\n"5 inch pipe\t1\nlast\t2\n')
    assert [item.content for item in Inputs((str(tmp_path / "t.tsv"),), Modality.TEXT, "t")] == ['"5 inch pipe', "last"]
    (tmp_path / "a" / "b").mkdir(parents=True)
    shutil.copy(BEAR, tmp_path / "a" / "b")
    os.symlink(tmp_path / "nowhere.webp", tmp_path / "a" / "dangling.webp")
    assert len(list(Inputs((str(tmp_path / "a" / "**"),)))) == 1


def test_a_changed_image_is_detected(model: Siglip, begun: EmbedJob) -> None:
    (Path(begun.inputs.paths[0]) / "00003.webp").write_bytes(FILES[-1].read_bytes())
    with pytest.raises(InputError, match="inputs changed"):
        embed(model, begun)


def test_vectors_without_a_direction_are_errors(model: Siglip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = model.encode

    def overflowing(role: Any, inputs: Any) -> Any:
        found = encode(role, inputs)
        return np.where(inputs[:, 0, 0, :1] > 0.99, np.float32(np.nan), found)  # white corners

    monkeypatch.setattr(model, "encode", overflowing)
    about = embed(model, EmbedJob(Inputs((str(EVAL),)), out := tmp_path / "o.parquet"))
    bad = [row for row in rows(out) if row["error"]]
    assert 0 < about.errors == len(bad)
    assert all(row["embedding"] is None and "no finite embedding" in row["error"] for row in bad)
    with pytest.raises(ProviderError, match="zero or not finite, for item 0"):
        model.encode_image([bad[0]["id"]])


def test_only_bad_images(model: Siglip, tmp_path: Path) -> None:
    for number in range(70):
        (tmp_path / f"{number:02}.png").write_bytes(b"broken")
    progress: list[int] = []
    job = EmbedJob(Inputs((str(tmp_path),)), tmp_path / "o.parquet", checkpoint_interval=0)
    assert embed(model, job, lambda done, errors: progress.append(done)).errors == 70
    assert progress == [0, 32, 64, 70]
