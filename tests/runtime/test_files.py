"""Files and folders are written atomically."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from siglip_onnx.runtime.files import new_folder, sha256, write_file


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_folder_appears_when_it_is_complete(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a") as partial:
        (partial / "x").write_text("1")
        assert not (tmp_path / "a").exists()
    assert (tmp_path / "a" / "x").read_text() == "1"
    assert names(tmp_path) == ["a"]


def test_failure_keeps_the_old_folder(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a") as partial:
        (partial / "x").write_text("old")

    def interrupted() -> None:
        with new_folder(tmp_path / "a") as partial:
            (partial / "x").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (tmp_path / "a" / "x").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_folder_is_replaced(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with new_folder(tmp_path / "a", replace=True) as partial:
            (partial / content).write_text(content)
    assert names(tmp_path / "a") == ["new"]
    assert names(tmp_path) == ["a"]


def test_failed_rename_restores_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with new_folder(tmp_path / "a") as partial:
        (partial / "x").write_text("old")
    real = os.rename

    def second_fails(source: Path, target: Path) -> None:
        if Path(target) == tmp_path / "a" and "-old" not in str(source):
            raise OSError(5, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "rename", second_fails)
    with pytest.raises(OSError, match="Input/output"), new_folder(tmp_path / "a", replace=True) as partial:
        (partial / "x").write_text("new")
    assert (tmp_path / "a" / "x").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_leftovers_of_dead_processes_are_deleted(tmp_path: Path) -> None:
    dead = tmp_path / ".a.partial-999999999-0123abcd"
    others = [tmp_path / f".a.partial-{os.getpid()}-0123abcd", tmp_path / ".a.partial-notes"]
    for folder in (dead, *others):
        folder.mkdir()
    with new_folder(tmp_path / "a"):
        pass
    assert names(tmp_path) == sorted([*(other.name for other in others), "a"])


def test_folder_moved_aside_by_a_killed_process_is_restored(tmp_path: Path) -> None:
    aside = tmp_path / ".a.partial-999999999-0123abcd-old"
    aside.mkdir()
    (aside / "x").write_text("old")

    def fails() -> None:
        with new_folder(tmp_path / "a", replace=True):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert (tmp_path / "a" / "x").read_text() == "old"


def test_folder_created_in_the_meantime_is_not_replaced(tmp_path: Path) -> None:
    def races() -> None:
        with new_folder(tmp_path / "a"):
            (tmp_path / "a").mkdir()
            (tmp_path / "a" / "x").write_text("theirs")

    with pytest.raises(OSError, match="not empty"):
        races()
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a" / "x").read_text() == "theirs"


def test_failed_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_file(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["x.json"]


def test_sha256_of_a_published_example(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
