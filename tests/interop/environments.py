"""Set up the programs that the tests ask, under build/interop: Node packages, virtual environments, a browser.

Versions are pinned by package-lock.json and the .txt files here. What is there already, with the same pins, stays.

    python tests/interop/environments.py            # all
    python tests/interop/environments.py optimum    # one
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).parent
BUILD: Final = HERE.parent / "build" / "interop"

# What each environment is made from: when one of these changes, it is made anew.
PINS: Final = {
    "node": ("package.json", "package-lock.json"),
    "optimum": ("optimum.txt",),
    "open_clip": ("open_clip.txt",),
    "polygraphy": ("polygraphy.txt",),
    "triton": ("triton.txt",),
}
WITH_TORCH: Final = {"optimum", "open_clip"}
# First and by its exact version, so that nothing else decides which build is fetched; as in the Makefile.
TORCH: Final = os.environ.get("TORCH", "torch==2.13.0")


class MissingError(Exception):
    """Something that the tests need is not there; the message says how to get it."""


def folder(name: str) -> Path:
    """Where an environment lies.

    Raises:
        MissingError: It was never made, or from other pins.
    """
    ready = BUILD / name / ".ready"
    if not ready.is_file() or ready.read_text() != _pins(name):
        raise MissingError(
            f"The environment {name!r} is missing or out of date: run `python tests/interop/environments.py`."
        )
    return ready.parent


def python(name: str) -> Path:
    """The interpreter of an environment."""
    return folder(name) / "bin" / "python"


def browser() -> Path:
    """Chromium.

    Raises:
        MissingError: There is none.
    """
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        raise MissingError(
            "Chromium is missing. Install it (on Debian, as root: apt-get install chromium) so that `chromium` is on "
            "the PATH, and run this again."
        )
    return Path(found)


def _pins(name: str) -> str:
    """What tells whether an environment is what the files here ask for."""
    return hashlib.sha256(b"\0".join((HERE / pin).read_bytes() for pin in PINS[name])).hexdigest()


def _run(*command: str | Path, cwd: Path | None = None) -> None:
    print("+", shlex.join(map(str, command)), flush=True)
    subprocess.run(command, cwd=cwd, check=True)


def _make_node(target: Path) -> None:
    """Packages as locked. Their install scripts would only fetch CUDA libraries."""
    if shutil.which("npm") is None:
        raise MissingError("npm is missing: install Node.js, version 20 or later.")
    for pin in PINS["node"]:
        shutil.copy(HERE / pin, target)
    _run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=target)


def _make_python(target: Path, name: str) -> None:
    """A virtual environment. Every package is pinned, hence none may bring others (such as another torch)."""
    _run(sys.executable, "-m", "venv", target)
    pip = (target / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    if name in WITH_TORCH:
        _run(*pip, *shlex.split(TORCH))
    _run(*pip, "--no-deps", "-r", HERE / f"{name}.txt")


def _make_browser() -> None:
    """Debian's package, where it can be had; a browser that is there stays."""
    try:
        browser()
    except MissingError:
        if shutil.which("apt-get") is None or os.geteuid() != 0:
            raise
        _run("apt-get", "update")
        _run("apt-get", "install", "--yes", "--no-install-recommends", "chromium")
        browser()


def make(name: str) -> None:
    """Make one environment, unless it is there."""
    try:
        folder(name)
    except MissingError:
        target = BUILD / name
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        if name == "node":
            _make_node(target)
        else:
            _make_python(target, name)
        (target / ".ready").write_text(_pins(name))


def main(names: list[str]) -> int:
    """Make what is named, or all; the exit code."""
    if unknown := set(names) - {*PINS, "browser"}:
        print(f"Unknown: {', '.join(sorted(unknown))}. There are: {', '.join([*PINS, 'browser'])}.", file=sys.stderr)
        return 2
    try:
        for name in names or [*PINS, "browser"]:
            _make_browser() if name == "browser" else make(name)
    except (MissingError, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
