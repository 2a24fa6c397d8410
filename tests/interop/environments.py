"""Set up the programs that the tests run, in build/interop: Node packages, virtual environments and a browser.

Versions are pinned by package-lock.json and the .txt files here. An environment with the same pins is kept.

    python tests/interop/environments.py            # set up all of them
    python tests/interop/environments.py optimum    # set up one
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
BUILD: Final = HERE.parents[1] / "build" / "interop"

# The files that each environment is made from; if one changes, the environment is made again.
PINS: Final = {
    "node": ("package.json", "package-lock.json"),
    "optimum": ("optimum.txt",),
    "open_clip": ("open_clip.txt",),
    "polygraphy": ("polygraphy.txt",),
    "triton": ("triton.txt",),
}
WITH_TORCH: Final = {"optimum", "open_clip"}
# Installed first and by exact version, so that no dependency chooses the build; as in the Makefile.
TORCH: Final = os.environ.get("TORCH", "torch==2.13.0")


class MissingError(Exception):
    """An environment or program is missing; the message says how to install it."""


def folder(name: str) -> Path:
    """Folder of an environment.

    Raises:
        MissingError: The environment is missing or was made from other pins.
    """
    ready = BUILD / name / ".ready"
    if not ready.is_file() or ready.read_text() != _pins(name):
        raise MissingError(
            f"The environment {name!r} is missing or out of date: run `python tests/interop/environments.py`."
        )
    return ready.parent


def python(name: str) -> Path:
    """Python interpreter of an environment."""
    return folder(name) / "bin" / "python"


def browser() -> Path:
    """Path of Chromium.

    Raises:
        MissingError: Chromium is not installed.
    """
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        raise MissingError(
            "Chromium is missing: there is no `chromium` on the PATH. Install it (on Debian, as root: apt-get install "
            "chromium) and try again."
        )
    return Path(path)


def _pins(name: str) -> str:
    """Hash over the files that an environment is made from."""
    return hashlib.sha256(b"\0".join((HERE / pin).read_bytes() for pin in PINS[name])).hexdigest()


def _run(*command: str | Path, cwd: Path | None = None) -> None:
    print("+", shlex.join(map(str, command)), flush=True)
    subprocess.run(command, cwd=cwd, check=True)


def _make_node(target: Path) -> None:
    """Install the locked packages without their install scripts, which would only download CUDA libraries."""
    if shutil.which("npm") is None:
        raise MissingError("npm is missing: install Node.js 20 or later.")
    for pin in PINS["node"]:
        shutil.copy(HERE / pin, target)
    _run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=target)


def _make_python(target: Path, name: str) -> None:
    """Make a virtual environment. Every package is pinned, so none may install others (such as another torch)."""
    _run(sys.executable, "-m", "venv", target)
    pip = (target / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    if name in WITH_TORCH:
        _run(*pip, *shlex.split(TORCH))
    _run(*pip, "--no-deps", "-r", HERE / f"{name}.txt")


def _make_browser() -> None:
    """Install Debian's package unless there is a browser."""
    try:
        browser()
    except MissingError:
        if shutil.which("apt-get") is None or os.geteuid() != 0:
            raise
        _run("apt-get", "update")
        _run("apt-get", "install", "--yes", "--no-install-recommends", "chromium")
        browser()


def make(name: str) -> None:
    """Make an environment unless it is up to date."""
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
    """Set up the named environments, or all of them; return the exit code."""
    if unknown := set(names) - {*PINS, "browser"}:
        print(
            f"Unknown environment {', '.join(sorted(unknown))}; choose from {', '.join([*PINS, 'browser'])}.",
            file=sys.stderr,
        )
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
