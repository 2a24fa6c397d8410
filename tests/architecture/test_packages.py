"""The packages listed in pyproject.toml are the folders of the tree."""

from __future__ import annotations

import tomllib

from ..layers import FOLDERS, PRODUCT, ROOT

SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def package_folders() -> dict[str, str]:
    """Every folder with an `__init__.py` by its package: `siglip_onnx.validate.checks` is validate/checks."""
    parents = [path.parent for folder in (*FOLDERS, PRODUCT) for path in (ROOT / folder).rglob("__init__.py")]
    folders = [parent.relative_to(ROOT).as_posix() for parent in parents]
    return {
        name if name.split(".")[0] == PRODUCT else f"{PRODUCT}.{name}": folder
        for folder in folders
        for name in [folder.replace("/", ".")]
    }


def test_every_folder_is_a_listed_package() -> None:
    assert sorted(SETUPTOOLS["packages"]) == sorted(package_folders())


def test_every_package_outside_of_siglip_onnx_is_mapped_to_its_folder() -> None:
    outside = {name: folder for name, folder in package_folders().items() if folder.split("/")[0] != PRODUCT}
    assert {PRODUCT: PRODUCT, **outside} == SETUPTOOLS["package-dir"]


def test_a_folder_with_modules_is_a_package() -> None:
    folders = {path.parent for folder in (*FOLDERS, PRODUCT) for path in (ROOT / folder).rglob("*.py")}
    assert [folder for folder in sorted(folders) if not (folder / "__init__.py").exists()] == []
