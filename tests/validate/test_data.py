"""User data: the same images in every form are the same data, and every fault is reported in one paragraph."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import tarfile
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from siglip_onnx.quantize.calibration.split import split_pairs as split
from siglip_onnx.runtime.bulk import Inputs
from siglip_onnx.runtime.data.policy import RECORD, REFUSE, Action, ProblemKind
from siglip_onnx.runtime.errors import InputError
from siglip_onnx.runtime.preprocessing.image import ImageOptions, load_image
from siglip_onnx.validate.data.images import Images
from siglip_onnx.validate.data.samples import TEXT_PROBES, DataOptions, Samples, draw_sample

from ..conftest import EVAL, is_one_paragraph

PAIRS: dict[str, str] = dict(
    json.loads(line).values() for line in (EVAL / "captions.jsonl").read_text("utf-8").splitlines()[:40]
)
BYTES = {name: (EVAL / name).read_bytes() for name in PAIRS}
A, B = list(PAIRS)[:2]
EVAL_SHA256 = "16cbf7c50b0cee9387b62d39d289176e95b20bb38a5ce59892dff0e2cd9dbe27"  # of the reports made so far
PHOTOS_SHA256 = "2ea1c48c33078676d64b29efd828c9579117d0b58bd1d88c4b93fbe5b0329d50"

# printf '3\n%s' NAME | sha256sum, and of these the first six
DRAWN = [
    *(f"distorted-fluent3d-{code}.webp" for code in ("1f47c", "1f501", "1f7e8", "26c5")),
    "distorted-noto-1f635-200d-1f4ab.webp",
    "held-out-twemoji-1f9d6-200d-2640.webp",
]


def images(folder: Path, names: list[str] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names or PAIRS:
        shutil.copy(EVAL / name, folder)
    return folder


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as file:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            file.addfile(info, io.BytesIO(data))
    return path


def with_captions_jsonl(folder: Path) -> Path:
    lines = [json.dumps({"image": name, "text": text}) for name, text in PAIRS.items()]
    (images(folder) / "captions.jsonl").write_text("\n".join(lines), "utf-8")
    return folder


def with_sidecars(folder: Path) -> Path:
    for name, text in PAIRS.items():
        (images(folder / name[0], [name]) / name).with_suffix(".txt").write_text(text + "\n", "utf-8")
    return folder


def separated(ending: str, delimiter: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        images(folder / "images")
        with (folder / f"pairs{ending}").open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, delimiter=delimiter)
            rows.writerow(["id", "File_Name", "caption"])
            rows.writerows([i, f"images/{name}", text] for i, (name, text) in enumerate(PAIRS.items()))
        return folder / f"pairs{ending}"

    return write


def as_jsonl(folder: Path) -> Path:
    lines = [json.dumps({"path": name, "captions": [text]}) for name, text in PAIRS.items()]
    (images(folder) / "pairs.jsonl").write_text("\n".join(lines), "utf-8")
    return folder / "pairs.jsonl"


def as_imagefolder(folder: Path) -> Path:
    lines = [json.dumps({"file_name": name, "text": text}) for name, text in PAIRS.items()]
    (images(folder) / "metadata.jsonl").write_text("\n".join(lines), "utf-8")
    return folder


def parquet(path: Path, images: list[Any], **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, **columns}), path, row_group_size=7)
    return path


def as_parquet_of_the_hub(folder: Path) -> Path:
    images = [{"bytes": data, "path": name} for name, data in BYTES.items()]
    return parquet(folder / "train.parquet", images, caption=list(PAIRS.values()))


def as_parquet_in_parts(folder: Path) -> Path:
    images, texts = list(BYTES.values()), list(PAIRS.values())
    parquet(folder / "train-0.parquet", images[:19], text=texts[:19])
    return parquet(folder / "train-1.parquet", images[19:], text=texts[19:]).parent


def as_parquet_of_paths(folder: Path) -> Path:
    return parquet(images(folder) / "a.parquet", list(PAIRS), sentences=[[text, "more"] for text in PAIRS.values()])


def shard(names: list[str], note: str = ".txt") -> dict[str, bytes]:
    members = {}
    for name in names:
        text = PAIRS[name] if note == ".txt" else json.dumps({"caption": PAIRS[name], "width": 64})
        members |= {f"./{name}": BYTES[name], f"./{Path(name).stem}{note}": text.encode()}
    return members


def as_shards(folder: Path) -> Path:
    """As img2dataset leaves them: with a table and statistics beside each."""
    folder.mkdir()
    names = list(PAIRS)
    tar(folder / "00000.tar", shard(names[:30]))
    tar(folder / "00001.tar", shard(names[30:], ".json"))
    parquet(folder / "00000.parquet", names[:30], url=names[:30])
    (folder / "00000_stats.json").write_text("{}")
    return folder


def as_a_shard(folder: Path) -> Path:
    folder.mkdir()
    return tar(folder / "all.tar", shard(list(PAIRS)))


FORMS = {
    "captions.jsonl": with_captions_jsonl,
    "images with captions beside them": with_sidecars,
    "csv": separated(".csv", ","),
    "tsv": separated(".tsv", "\t"),
    "jsonl": as_jsonl,
    "imagefolder": as_imagefolder,
    "parquet of the hub": as_parquet_of_the_hub,
    "parquet in parts": as_parquet_in_parts,
    "parquet of paths": as_parquet_of_paths,
    "shards": as_shards,
    "one shard": as_a_shard,
}


def content(samples: Samples) -> list[tuple[str, str]]:
    """Hash of the file and caption of each image."""
    digests = [samples.images.digest(name) for name in samples.images]
    return sorted(zip(digests, samples.pairs, strict=True))


@pytest.mark.parametrize("form", FORMS)
def test_the_same_pairs_in_every_form(tmp_path: Path, form: str) -> None:
    samples, expected = (
        Samples.read(FORMS[form](tmp_path / "data")),
        Samples.read(with_captions_jsonl(tmp_path / "expected")),
    )
    assert content(samples) == content(expected)
    assert sorted(samples.labels) == sorted(expected.labels)
    assert not samples.classes
    seen = {
        samples.images.digest(name): np.asarray(load_image(p, ImageOptions())) for name, p in samples.images.items()
    }
    for name, image in expected.images.items():
        np.testing.assert_array_equal(seen[expected.images.digest(name)], load_image(image, ImageOptions()))


def test_hashes_of_bundled_photos_and_emoji_are_pinned() -> None:
    photos, emoji = Samples.read(), Samples.read(EVAL)
    assert (photos.sha256, photos.name, photos.bundled) == (PHOTOS_SHA256, "bundled photos", True)
    assert (emoji.sha256, emoji.form, emoji.bundled) == (EVAL_SHA256, "captions.jsonl", False)
    assert emoji.texts[-len(TEXT_PROBES) :] == TEXT_PROBES
    assert emoji.captions == tuple((text,) for text in emoji.pairs)


def test_the_hash_tells_captions_classes_templates_and_images_apart(tmp_path: Path) -> None:
    folder = as_jsonl(tmp_path / "data").parent
    table, first = folder / "pairs.jsonl", Samples.read(folder / "pairs.jsonl")
    hashes = {first.sha256, Samples.read(table, DataOptions(templates=("a {}",))).sha256, first.subset([1, 0]).sha256}
    table.write_text(table.read_text("utf-8").replace('"]}', '", "b"]}', 1), "utf-8")
    hashes |= {Samples.read(table).sha256}
    shutil.copy(folder / B, folder / A)
    hashes |= {Samples.read(table).sha256}
    assert len(hashes) == 5


def test_images_inside_of_files_are_opened_anew_each_time_and_in_any_order(tmp_path: Path) -> None:
    for write in (as_parquet_in_parts, as_shards):
        images = Samples.read(write(tmp_path / write.__name__)).images
        names, opened = list(images), {name: list[Any]() for name in images}
        for name in (*names, *reversed(names), names[20], names[3]):
            opened[name].append(np.asarray(images[name]))
        for arrays in opened.values():
            assert all(np.array_equal(arrays[0], array) for array in arrays)
        assert images[names[0]] is not images[names[0]]
        assert [images.digest(name) for name in reversed(names)] == [images.digest(name) for name in names][::-1]


def test_no_collection_is_held_in_memory(tmp_path: Path) -> None:
    noise = [os.urandom(50_000) for _ in range(400)]
    files = [
        parquet(tmp_path / "a.parquet", noise),
        tar(tmp_path / "a.tar", {f"{i}.png": d for i, d in enumerate(noise)}),
    ]
    for file in files:
        tracemalloc.start()
        assert Samples.read(file).sha256
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < sum(map(len, noise)) / 2, file  # a quarter are the probes


def test_folders_of_classes_become_labels_in_prompts(tmp_path: Path) -> None:
    names = list(PAIRS)
    for kind, some in {"tree": names[:3], "Ärztin": names[3:5], "clock": names[5:6]}.items():
        images(tmp_path / kind, some)
    samples = Samples.read(tmp_path, DataOptions(templates=("a photo of {}.", "{}")))
    assert (samples.form, samples.labels) == ("a folder for each class", ("clock", "tree", "Ärztin"))
    assert samples.classes == (0, 1, 1, 1, 2, 2)
    assert [name.split("/")[0] for name in samples.images] == ["clock", *["tree"] * 3, *["Ärztin"] * 2]
    assert samples.texts[:3] == ("a photo of clock.", "clock", "a photo of tree.")
    assert samples.pairs == samples.captions == ()
    (tmp_path / "labels.txt").write_text("tree\nhouse\nclock\nÄrztin\n", "utf-8")
    again = Samples.read(tmp_path)
    assert (again.labels[1], again.classes) == ("house", (2, 0, 0, 0, 3, 3))


def test_images_without_captions_or_classes(tmp_path: Path) -> None:
    images(tmp_path / "2024" / "may", list(PAIRS)[:2])
    images(tmp_path, list(PAIRS)[2:4])
    samples = Samples.read(tmp_path)
    assert (samples.form, len(samples.images), samples.pairs, samples.labels) == ("images", 4, (), ())
    (tmp_path / "labels.txt").write_text("a tree\na clock")
    assert Samples.read(tmp_path).labels == ("a tree", "a clock")


def classes_in_table(folder: Path) -> Path:
    rows = "".join(f"{name},{i % 3}\n" for i, name in enumerate(PAIRS))
    (images(folder) / "a.csv").write_text("image,label\n" + rows)
    (folder / "labels.txt").write_text("dog\ncrane\ncat\n")
    return folder / "a.csv"


def classes_in_parquet(folder: Path) -> Path:
    features = {"info": {"features": {"label": {"names": ["dog", "crane", "cat"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": list(BYTES.values()), "label": [i % 3 for i in range(len(BYTES))]})
    folder.mkdir()
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), folder / "a.parquet")
    return folder / "a.parquet"


def classes_in_shards(folder: Path) -> Path:
    folder.mkdir()
    (folder / "labels.txt").write_text("dog\ncrane\ncat\n")
    members = {}
    for i, (name, data) in enumerate(BYTES.items()):
        members |= {f"{i:03}.webp": data, f"{i:03}.cls": str(i % 3).encode(), f"{i:03}.txt": PAIRS[name].encode()}
    return tar(folder / "a.tar", members)


@pytest.mark.parametrize("write", [classes_in_table, classes_in_parquet, classes_in_shards])
def test_numbered_classes_have_the_names_that_go_with_them(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    samples = Samples.read(write(tmp_path / "data"))
    assert samples.labels == ("dog", "crane", "cat")
    assert samples.classes == tuple(i % 3 for i in range(len(PAIRS)))
    assert len(samples.pairs) == (len(PAIRS) if write is classes_in_shards else 0)


def test_two_classes_of_one_name_are_one_label(tmp_path: Path) -> None:
    table = classes_in_table(tmp_path)
    (tmp_path / "labels.txt").write_text("crane\ncat\ncrane\n")
    samples = Samples.read(table)
    assert (samples.labels, samples.classes[:4]) == (("crane", "cat"), (0, 1, 0, 0))


def test_columns_can_be_named_and_further_rows_are_further_captions(tmp_path: Path) -> None:
    one, two = list(PAIRS)[:2]
    table = images(tmp_path, [one, two]) / "a.csv"
    table.write_text(f'caption,bild,satz\nx,{one},"a, b"\ny,{two},c\nz,./{one},d\nz,{one},d\n')
    samples = Samples.read(table, DataOptions(image_column="bild", caption_column="satz"))
    assert list(samples.images) == [one, two]
    assert samples.captions == (("a, b", "d"), ("c",))
    assert samples.pairs == samples.labels == ("a, b", "c")


def test_a_sample_is_the_same_everywhere_and_keeps_the_labels_of_a_file(tmp_path: Path) -> None:
    options = DataOptions(sample=6, seed=3)
    first = Samples.read(EVAL, options)
    assert (first.sample, len(first.images), len(first.pairs)) == ("6 of 256, seed 3", 6, 6)
    assert len(first.labels) == len(Samples.read(EVAL).labels)
    assert sorted(first.images) == DRAWN
    table = as_jsonl(tmp_path)
    assert set(Samples.read(table, options).labels) == set(Samples.read(table, options).pairs)
    assert Samples.read(table, DataOptions(sample=40)).sample == ""


@settings(max_examples=40)
@given(st.lists(st.text(), unique=True, max_size=30), st.integers(1, 35), st.integers())
def test_samples_are_subsets_that_grow(names: list[str], count: int, seed: int) -> None:
    small, large = (draw_sample(names, DataOptions(sample=n, seed=seed)) for n in (count, count + 1))
    assert len(small) == min(count, len(names))
    assert small == sorted(set(small))
    assert set(small) <= set(large)
    shuffled = sorted(names, reverse=True)
    again = draw_sample(shuffled, DataOptions(sample=count, seed=seed))
    assert {shuffled[i] for i in again} == {names[i] for i in small}


@pytest.fixture(scope="module")
def one_image() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        Image.new("RGB", (2, 2)).save(Path(folder) / 'ü, "x".png')
        yield Path(folder)


CAPTIONS = st.lists(st.text(st.characters(codec="utf-8")).filter(str.strip), min_size=1, max_size=5)


@settings(max_examples=40)
@given(CAPTIONS)
def test_tables_give_back_any_text(one_image: Path, texts: list[str]) -> None:
    expected = (tuple(dict.fromkeys(texts)),)
    with (one_image / "a.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, quoting=csv.QUOTE_ALL)
        rows.writerows([["image", "text"], *(['ü, "x".png', text] for text in texts)])
    (one_image / "a.jsonl").write_text(json.dumps({"image": 'ü, "x".png', "text": texts}), "utf-8")
    assert Samples.read(one_image / "a.csv").captions == expected
    assert Samples.read(one_image / "a.jsonl").captions == expected


@settings(max_examples=60)
@given(st.sampled_from([".csv", ".tsv", ".jsonl", ".parquet", ".tar"]), st.binary(max_size=300))
def test_random_bytes_are_refused_in_a_paragraph(one_image: Path, ending: str, data: bytes) -> None:
    path = one_image / f"rubbish{ending}"
    path.write_bytes(data)
    with pytest.raises(InputError) as raised:
        Samples.read(path)
    assert is_one_paragraph(str(raised.value))


def refused(path: Path, options: DataOptions | None = None) -> str:
    """The message for data that cannot be used, whether it is raised on reading, hashing or opening."""
    with pytest.raises(InputError) as raised:
        look_at_all(path, options)
    assert is_one_paragraph(str(raised.value))
    return str(raised.value)


def look_at_all(path: Path, options: DataOptions | None) -> None:
    samples = Samples.read(path, options)
    assert samples.sha256
    dict(samples.images.items())


@pytest.mark.parametrize(
    ("name", "lines", "message"),
    [
        ("a.csv", ["image,caption"], "holds no image"),
        ("a.csv", ["image,caption", "no.png,x"], r"Line 2 of .*a\.csv names no\.png, which does not exist"),
        ("a.csv", ["image,caption", f"{A},x,y"], "Line 2 of .* has 3 cells"),
        ("a.csv", ["image,caption", f'{A},"x'], "is not a line of a table"),
        ("a.csv", ["image,caption", f"{A},"], "Line 2 .* empty"),
        ("a.csv", ["image,image", f"{A},"], "two columns named 'image'"),
        ("a.csv", ["pic,caption", f"{A},x"], "no column of images; its columns are 'pic', 'caption'"),
        ("a.csv", ["image", A, B, A], "Line 4 of .* a second time"),
        ("a.csv", ["image,class,text", f"{A},x,y", f"{A},z,y"], "gives .* the class 'z'"),
        ("a.csv", ["image,class", f"{A},7"], "has the class 7, but there are only 0 labels"),
        ("a.jsonl", ['{"image": 3}'], "Line 1 .* has no image in column 'image', but 3"),
        ("a.jsonl", ["", "nothing"], "Line 2 .* is not JSON"),
        ("a.jsonl", ["[]"], "Line 1 .* is not a JSON object, but of type list"),
        ("a.jsonl", [f'{{"image": "{A}", "text": 3}}'], "a caption of type int, expected a string"),
        ("a.jsonl", [f'{{"image": "{A}", "text": "\\ud800"}}'], "not valid Unicode"),
        ("a.jsonl", [f'{{"image": "{A}", "label": 1.5}}'], "has the class 1.5, expected a name or a whole number"),
        ("a.jsonl", [f'{{"image": "{A}", "text": "a"}}', f'{{"image": "{B}"}}'], "Line 2 .* no caption, but 1 other"),
        ("a.jsonl", [f'{{"image": "{A}", "class": "a"}}', f'{{"image": "{B}"}}'], "no class, but 1 other"),
        ("a.xlsx", ["image"], "no form"),
    ],
)
def test_a_table_that_cannot_be_used(tmp_path: Path, name: str, lines: list[str], message: str) -> None:
    (images(tmp_path, [A, B]) / name).write_text("\n".join(lines))
    assert re.search(message, refused(tmp_path / name))


def test_options_that_do_not_fit_the_data(tmp_path: Path) -> None:
    table = as_jsonl(tmp_path)
    assert "no column 'bild'" in refused(table, DataOptions(image_column="bild"))
    assert "Its columns are: path, captions" in refused(table, DataOptions(caption_column="satz"))
    assert "sample must be at least 1, got 0" in refused(table, DataOptions(sample=0))
    assert "has no {}" in refused(table, DataOptions(templates=("a photo",)))
    assert "cannot be read" in refused(table, DataOptions(labels=tmp_path / "none.txt"))
    assert "is not a table" in refused(images(tmp_path / "b"), DataOptions(class_column="x"))
    assert "no column of images" in refused(tar(tmp_path / "a.tar", shard([A])), DataOptions(image_column="x"))
    assert "no column 'satz'" in refused(tmp_path / "a.tar", DataOptions(caption_column="satz"))
    assert "does not exist" in refused(tmp_path / "nowhere")


def a_link_to_a_folder(folder: Path) -> None:
    (folder / "more").symlink_to(images(folder.parent / "elsewhere", [A]))


def a_name_that_is_no_unicode(folder: Path) -> None:
    shutil.copy(EVAL / A, os.fsencode(folder) + b"/\xff.webp")


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (a_link_to_a_folder, "is a link to a folder"),
        (a_name_that_is_no_unicode, "not valid Unicode"),
        (lambda folder: (folder / A).with_suffix(".txt").write_bytes(b"\xff"), "is not UTF-8"),
        (lambda folder: (folder / A).with_suffix(".txt").write_text("\n \n"), "holds no caption"),
        (lambda folder: (folder / A).with_suffix(".txt").write_text("a tree"), "no caption, but 1 other"),
        (lambda folder: shutil.copy(EVAL / A, folder / "a.png"), "beside two images"),
        (lambda folder: (folder / "a.heic").write_bytes(b"\0"), "format that siglip-onnx does not read"),
        (lambda folder: (folder / "a.csv").write_text("image"), "each could be the data"),
    ],
)
def test_a_folder_that_cannot_be_used(tmp_path: Path, break_it: Callable[[Path], object], message: str) -> None:
    folder = images(tmp_path / "data", [A, B])
    if message == "beside two images":
        (folder / "a.txt").write_text("a tree")
        shutil.copy(EVAL / B, folder / "a.jpg")
    break_it(folder)
    assert re.search(message, refused(folder))


def test_a_class_without_an_image_is_reported(tmp_path: Path) -> None:
    images(tmp_path / "tree", [A])
    images(tmp_path / "clock", [B])
    (tmp_path / "labels.txt").write_text("tree\nhouse")
    assert "'clock', which is not a label" in refused(tmp_path)
    (tmp_path / "house").mkdir()
    assert "house holds no image" in refused(tmp_path)


def member(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> bytes:
    """A header for a tar, whatever it says."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info.tobuf(tarfile.GNU_FORMAT)


END = b"\0" * 1024


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (member("../a.webp") + END, "leads out of the archive"),
        (member("/etc/a.webp") + END, "leads out of the archive"),
        (member("a\\..\\..\\a.webp") + END, "leads out of the archive"),
        (member("a.webp", tarfile.SYMTYPE, link="/etc/passwd") + END, "expected a plain file"),
        (member("a.webp", tarfile.LNKTYPE, link="b.webp") + END, "is a link to b.webp"),
        (member("a.webp", tarfile.CHRTYPE) + END, "expected a plain file"),
        (member("a.webp", tarfile.GNUTYPE_SPARSE) + END, "cannot be read as an archive|expected a plain file"),
        (member("a.webp", size=2**30) + END, "has 1,073,741,824 bytes|cannot be read as an archive"),
        (member("a.webp", size=5000) + b"short", "cannot be read as an archive|shorter"),
        (member("a.webp") + b"rubbish" * 100, "cannot be read as an archive"),
        (b"\x1f\x8b\x08\0" + b"\0" * 600, "is compressed"),
        (b"", "cannot be read as an archive"),
        (END, "holds no image"),
    ],
)
def test_a_malicious_or_damaged_archive_is_refused(tmp_path: Path, data: bytes, message: str) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    assert re.search(message, refused(tmp_path / "a.tar"))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.txt": b"a tree"}, "no image, but a.txt"),
        ({"a.webp": BYTES[A], "a.png": BYTES[A]}, "two members for the image of the key a"),
        ({"a.webp": BYTES[A], "a.0.txt": b"x", "a.1.txt": b"y"}, "two members for the txt"),
        ({"a.webp": BYTES[A], "a.txt": b"\xff"}, "not UTF-8"),
        ({"a.webp": BYTES[A], "a.txt": b" "}, "empty"),
        ({"a.webp": BYTES[A], "a.txt": b"x" * (2**20 + 1)}, "the limit is 1,048,576"),
        ({"a.webp": BYTES[A], "a.json": b"{"}, "a.tar:a.json is not JSON"),
        ({"a.webp": BYTES[A], "a.json": b"[]"}, "is not a JSON object"),
        ({"a.webp": BYTES[A], "a.cls": b"1"}, "there are only 0 labels"),
        ({"a.webp": b"no image"}, "The image a.tar:a.webp cannot be read"),
        ({"a.webp": BYTES[A][:900]}, "The image a.tar:a.webp cannot be read"),
        ({"a.svg": b"<svg/>"}, "format that siglip-onnx does not read"),
    ],
)
def test_a_shard_that_cannot_be_used(tmp_path: Path, members: dict[str, bytes], message: str) -> None:
    assert re.search(message, refused(tar(tmp_path / "a.tar", members)))


def a_table_with_no_image(folder: Path) -> Path:
    (folder / "a.csv").write_text(f"image,caption\n{A},a tree\n,a clock\n")
    return folder / "a.csv"


def a_line_that_is_not_json(folder: Path) -> Path:
    (folder / "a.jsonl").write_text('{"image": broken\n')
    return folder / "a.jsonl"


def a_line_that_is_not_an_object(folder: Path) -> Path:
    (folder / "a.jsonl").write_text("[1]\n")
    return folder / "a.jsonl"


def parquet_with_a_number(folder: Path) -> Path:
    return parquet(folder / "a.parquet", [1])


def an_archive_with_a_link(folder: Path) -> Path:
    (folder / "a.tar").write_bytes(member("a.webp", tarfile.LNKTYPE, link="b.webp") + END)
    return folder / "a.tar"


def a_link_named_like_an_image(folder: Path) -> Path:
    (folder / "in").mkdir()
    (folder / "in" / "a.webp").symlink_to(images(folder / "elsewhere", [A]))
    return folder / "in"


@pytest.mark.parametrize(
    "write",
    [
        a_table_with_no_image,
        a_line_that_is_not_json,
        a_line_that_is_not_an_object,
        parquet_with_a_number,
        an_archive_with_a_link,
        a_link_named_like_an_image,
    ],
)
def test_embed_records_the_message_with_which_validate_refuses(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    path = write(images(tmp_path, [A]))
    column = "image" if path.is_file() and path.suffix != ".tar" else None
    errors = [item.error for item in Inputs((str(path),), column=column) if item.error]
    assert len(errors) == 1
    assert refused(path).startswith(errors[0])


def test_every_kind_of_problem_has_an_action() -> None:
    assert set(RECORD) == set(REFUSE) == set(ProblemKind)
    assert set(REFUSE.values()) == {Action.RAISE}
    assert Action.RAISE not in RECORD.values()


def test_a_parquet_file_that_cannot_be_used(tmp_path: Path) -> None:
    path = as_parquet_of_the_hub(tmp_path)
    whole = path.read_bytes()
    samples = Samples.read(path)
    path.write_bytes(whole[: len(whole) // 2])
    assert "cannot be read as parquet" in refused(path)
    with pytest.raises(InputError, match="cannot be read as parquet"):
        samples.images[list(samples.images)[-1]]
    parquet(path, [BYTES[A], None])
    assert "Row 1 of" in refused(path)
    parquet(path, [1, 2])
    assert "has no image in column 'image', but 1" in refused(path)
    parquet(path, [A], text=[None])
    assert "does not exist" in refused(path)
    images(tmp_path, [A])
    for part in ("a", "b"):
        parquet(tmp_path / "two" / f"{part}.parquet", [f"../{A}"], text=["x"])
    assert "so does Row 0 of" in refused(tmp_path / "two")


def test_a_deleted_image_is_reported(tmp_path: Path) -> None:
    samples = Samples.read(as_jsonl(tmp_path))
    (tmp_path / A).unlink()
    with pytest.raises(InputError, match="cannot be read"):
        _ = samples.sha256


def test_calibration_takes_the_same_forms(tmp_path: Path) -> None:
    names = list(PAIRS)
    shards = tar(tmp_path / "a.tar", shard(names) | {"broken.webp": b"", "broken.txt": b"a tree"})
    data = split(shards, 8, None, skip_unreadable=True)
    assert data.skipped == ("a.tar:broken.webp",)
    assert (len(data.calibration.pairs), len(data.validation.images)) == (8, len(names) - 8)
    with pytest.raises(InputError, match=r"cannot be read, first a\.tar:broken\.webp"):
        split(shards, 8, None, skip_unreadable=False)


def test_membership_opens_no_image() -> None:
    images = Images({"a": Path("nowhere.png")})
    assert "a" in images
    assert "b" not in images
